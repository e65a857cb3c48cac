"""How the state of one client is stored in a record of fixed size (pure; nothing here touches a file)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from fedvlr_jax.types import PyTree


class Field(NamedTuple):
    """One leaf of a client's state: its name, shape and type, and the bytes [start, stop) of a record it takes."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Layout:
    """The positions of all leaves of a client's state in one record of ``record_bytes`` bytes.

    Leaves follow each other in the order of the tree, each at a multiple of its own item size and the whole
    record a multiple of the largest, so that arrays can be read without a copy; bytes between leaves are zero.

    Attributes:
      treedef: structure of the state.
      fields: one per leaf, in the order of the tree.
      record_bytes: size of a record.
    """

    treedef: jax.tree_util.PyTreeDef
    fields: tuple[Field, ...]
    record_bytes: int

    @classmethod
    def of(cls, template: PyTree) -> Layout:
        """The layout of one client's state.

        Args:
          template: arrays or `jax.ShapeDtypeStruct` leaves of one client, without the client axis.

        Raises:
          TypeError: for a leaf that is not plain numbers in native byte order (typed keys and objects are not).
        """
        leaves, treedef = jax.tree_util.tree_flatten_with_path(template)
        fields, end = [], 0
        for path, leaf in leaves:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            dtype = _require_plain(name, leaf.dtype)
            start = _round_up(end, dtype.itemsize)
            end = start + math.prod(leaf.shape) * dtype.itemsize
            fields.append(Field(name, tuple(leaf.shape), dtype, start, end))
        largest = max((field.dtype.itemsize for field in fields), default=1)
        return cls(treedef, tuple(fields), _round_up(end, largest))

    def describe(self) -> dict[str, str]:
        """The type and shape of every leaf by name, JSON-ready and in the order of the record."""
        return {field.name: f"{field.dtype.name}{list(field.shape)}" for field in self.fields}

    def digest(self) -> bytes:
        """32 bytes that two layouts share only if names, types, shapes and order are the same."""
        return hashlib.sha256(json.dumps(list(self.describe().items())).encode()).digest()

    def pack(self, tree: PyTree, count: int) -> np.ndarray:
        """The records of `count` clients, bit for bit.

        Args:
          tree: state of the clients, every leaf [s, ...] with s = `count`.

        Returns:
          uint8 [s, record_bytes].

        Raises:
          ValueError: if the structure, a shape or a type differs from the layout; nothing is cast.
        """
        leaves, treedef = jax.tree.flatten(tree)
        if treedef != self.treedef:
            raise ValueError(f"expected client states of structure {self.treedef}, found {treedef}")
        records = np.zeros((count, self.record_bytes), np.uint8)
        for field, view, leaf in zip(self.fields, self._views(records), leaves, strict=True):
            if leaf.shape != view.shape or leaf.dtype != field.dtype:
                raise ValueError(
                    f"{field.name}: expected {field.dtype.name}{list(view.shape)} for {count} clients, "
                    f"found {leaf.dtype}{list(leaf.shape)}"
                )
            view[...] = leaf
        return records

    def unpack(self, records: np.ndarray) -> PyTree:
        """The states in `records` (uint8 [s, record_bytes], contiguous); leaves [s, ...] are views, not copies."""
        return self.treedef.unflatten(self._views(records))

    def _views(self, records: np.ndarray) -> Iterator[np.ndarray]:
        """Each leaf of `records` as a view [s, ...] of its type."""
        for field in self.fields:
            part = records[:, field.start : field.stop].view(field.dtype)
            yield part.reshape(len(records), *field.shape)


def _require_plain(name: str, dtype: np.dtype) -> np.dtype:
    if jax.dtypes.issubdtype(dtype, jax.dtypes.extended) or dtype.hasobject or not dtype.isnative:
        raise TypeError(f"{name}: expected plain numbers in native byte order, found {dtype}")
    return np.dtype(dtype)


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
