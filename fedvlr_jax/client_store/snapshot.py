"""Reading the states of clients at the moment that a manifest describes (see `store.py`)."""

from __future__ import annotations

import pathlib
import threading
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np

from fedvlr_jax.client_store.record import Layout
from fedvlr_jax.client_store.segments import Segment, read_ids, read_records, segments_of
from fedvlr_jax.errors import CheckpointError
from fedvlr_jax.io.identity import differences
from fedvlr_jax.types import PyTree

VERSION = 1  # of the manifest
NEVER = 0  # source of a client that was never written; n > 0: its newest state is in the n-th segment

Init = Callable[[np.ndarray], PyTree]


class View:
    """The content of one manifest, for reading; it stays readable while its segments are retained."""

    def __init__(self, folder: pathlib.Path | None, layout: Layout, num_users: int, init: Init):
        """An empty view; see `restore`.

        Args:
          folder: where the segments are stored.
          layout: of one client's state.
          num_users: clients are ``0 <= id < num_users``.
          init: ids int64 [s] -> state [s, ...] of clients never written; a pure function of each id.
        """
        self._folder, self._layout, self._init = folder, layout, init
        self._segments: list[Segment] = []
        self._source = np.zeros(num_users, np.int32)
        self._row = np.zeros(num_users, np.int32)
        self._num_written = 0
        self._lock = threading.Lock()

    @classmethod
    def restore(
        cls,
        folder: pathlib.Path,
        layout: Layout,
        num_users: int,
        init: Init,
        manifest: Mapping[str, Any],
        *,
        verify: bool = True,
        **options: Any,
    ) -> Self:
        """Restore exactly the content that `manifest` (of `Store.commit`) describes.

        Args:
          verify: read every segment and compare its checksum (about 1 s per GB); else sizes and headers only.
          options: further arguments of the constructor.

        Raises:
          CheckpointError: if a segment is missing or damaged, naming the file, what was expected and found; or if
            the manifest is of other leaves or another number of clients, naming each difference.
        """
        _require_same_kind(manifest, layout, num_users)
        view = cls(folder, layout, num_users, init, **options)
        for segment in segments_of(manifest):
            view._adopt(segment, read_ids(folder, segment, layout, verify=verify))
        return view

    def gather(self, ids: np.ndarray) -> PyTree:
        """The states of some clients, in time O(s).

        Args:
          ids: int [s], distinct, ``0 <= id < num_users`` (no padding).

        Returns:
          NumPy leaves [s, ...]; they are views of one array that belongs to the caller.

        Raises:
          ValueError: if `ids` are not such ids.
          CheckpointError: if a segment cannot be read.
        """
        ids = self._require_ids(ids)
        with self._lock:
            records, never = self._read(ids), np.flatnonzero(self._source[ids] == NEVER)
        if never.size:
            records[never] = self._layout.pack(self._init(ids[never]), never.size)
        return self._layout.unpack(records)

    def _read(self, ids: np.ndarray) -> np.ndarray:
        """The records of `ids`, uint8 [s, record_bytes]; what is in no segment is undefined."""
        records = np.empty((ids.size, self._layout.record_bytes), np.uint8)
        source, row = self._source[ids], self._row[ids]
        order = np.lexsort((row, source))
        numbers, begin = np.unique(source[order], return_index=True)
        for number, slots in zip(numbers.tolist(), np.split(order, begin)[1:], strict=True):
            if number > 0:
                read_records(self._folder, self._segments[number - 1], row[slots], records, slots)
        return records

    def _adopt(self, segment: Segment, ids: np.ndarray) -> None:
        """Append a segment: the newest states of `ids` are in it."""
        self._num_written += np.count_nonzero(self._source[ids] == NEVER)
        self._segments.append(segment)
        self._source[ids] = len(self._segments)
        self._row[ids] = np.arange(ids.size)

    def _require_ids(self, ids: np.ndarray) -> np.ndarray:
        ids, num_users = np.asarray(ids), self._source.size
        if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"expected ids as an integer vector, found {ids.dtype}{list(ids.shape)}")
        if ids.size and (ids.min() < 0 or ids.max() >= num_users):
            raise ValueError(f"expected ids in 0..{num_users - 1}, found {ids.min()}..{ids.max()}")
        repeated = ids.size - np.unique(ids).size
        if repeated:
            raise ValueError(f"expected distinct ids, found {repeated} repeated")
        return ids.astype(np.int64)


def _require_same_kind(manifest: Mapping[str, Any], layout: Layout, num_users: int) -> None:
    """Refuse a manifest of another version, number of clients, or layout."""
    expected = {"version": VERSION, "num_users": num_users, "layout": layout.describe()}
    found = {name: manifest.get(name) for name in expected}
    lines = differences(found, expected)  # leaves in another order are left to the header of each segment
    if lines:
        raise CheckpointError("the checkpoint holds other client states than this model:\n  " + "\n  ".join(lines))
