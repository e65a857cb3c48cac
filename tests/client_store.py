"""A small store of client states whose content is told by one number per client."""

from __future__ import annotations

import json
import pathlib
from typing import NamedTuple

import jax
import ml_dtypes
import numpy as np
import pytest

from fedvlr_jax.client_store.record import Layout
from fedvlr_jax.client_store.snapshot import View
from fedvlr_jax.client_store.store import Store

USERS = 12
LAYOUT = Layout.of({"b": np.zeros((), np.int32), "w": jax.ShapeDtypeStruct((3,), np.float32)})


def states(values) -> dict:
    """States of as many clients as there are values; each is told from the others by its value."""
    values = np.asarray(values, np.float32)
    return {"b": values.astype(np.int32), "w": np.repeat(values[:, None], 3, axis=1)}


def initial(ids: np.ndarray) -> dict:
    return states(-ids - 1)


def new_store(folder, *, users: int = USERS, max_dirty_bytes: int = 1 << 20) -> Store:
    return Store(folder, LAYOUT, users, initial, max_dirty_bytes=max_dirty_bytes)


def reopen(folder, manifest, *, layout: Layout = LAYOUT, users: int = USERS) -> Store:
    return Store.restore(folder, layout, users, initial, json.loads(json.dumps(manifest)), max_dirty_bytes=1 << 20)


def view_of(folder: pathlib.Path, manifest, *, users: int = USERS) -> View:
    """The content of a manifest, without reading checksums."""
    return View.restore(folder, LAYOUT, users, initial, manifest, verify=False)


def compact(store: Store) -> dict:
    """A commit that rewrites all segments to one, as it does by itself when there are too many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedvlr_jax.client_store.store.MAX_SEGMENTS", 0)
        return store.commit()


def values(view: View, users: int = USERS) -> list[int]:
    found = view.gather(np.arange(users))
    np.testing.assert_array_equal(found["w"], np.repeat(found["b"][:, None], 3, axis=1))
    return found["b"].tolist()


def content(**written) -> list[int]:
    """What all clients hold if some were written, by ``_<id>=value``."""
    return [written.get(f"_{user}", -user - 1) for user in range(USERS)]


def names(folder: pathlib.Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def committed(folder) -> dict:
    store = new_store(folder)
    store.scatter(np.arange(USERS), states(np.arange(USERS)))
    return store.commit()


class Mixed(NamedTuple):
    half: object
    nothing: object
    rest: dict


def mixed(count: int | None) -> Mixed:
    """All the types a state may have, of random bits (NaN payloads among them); no client axis if `count` is None."""
    bits = np.random.default_rng(0)

    def leaf(shape, dtype):
        shape = shape if count is None else (count, *shape)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(bits.bytes(size), dtype).reshape(shape)

    rest = {"double": leaf((2,), np.float64), "flag": leaf((3,), np.uint8), "n": leaf((), np.int32), "none": None}
    return Mixed(leaf((5,), ml_dtypes.bfloat16), leaf((0, 4), np.float32), {**rest, "x": leaf((2, 2), np.float32)})
