"""Arrays in a folder by key, written whole or not at all, and a lock between the processes that share a folder."""

from __future__ import annotations

import contextlib
import fcntl
import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from fedvlr_jax.errors import CheckpointError
from fedvlr_jax.io.files import read_arrays, write_arrays


class ArrayCache(NamedTuple):
    """One ``.npz`` a key; several processes may write the same one, the last stays."""

    folder: pathlib.Path

    def read(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays of a key, or None where there are none, or only a damaged file."""
        try:
            return read_arrays(self.folder / f"{key}.npz")
        except CheckpointError:
            return None

    def write(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep arrays under a key."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_arrays(self.folder / f"{key}.npz", arrays)


@contextlib.contextmanager
def one_at_a_time(folder: pathlib.Path) -> Iterator[None]:
    """Waits until no other process is inside; the lock of one that dies goes with it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
