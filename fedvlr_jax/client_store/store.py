"""Private states of more clients than a device (or the memory of the CPU) can hold, on disk.

New states are kept in memory until they are spilled to a segment file (`segments.py`), which never changes
afterwards; the newest record of a client counts. A manifest, the ordered list of segments, is the whole content at
one moment: who keeps it (in a checkpoint's record) can return to that moment until `Store.retain` drops it. Clients
never written take no space; `init` makes their state anew each time it is read.

Threads: one lock guards the index, so calls from several threads are each whole, and a `gather` in the background
waits for a `commit` to end. What a `gather` returns that runs beside a `scatter` of the same clients is either
state; a run that must repeat the same bits orders them itself. One folder has one writer.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from fedvlr_jax.client_store.record import Layout
from fedvlr_jax.client_store.segments import (
    CHUNK_BYTES,
    read_ids,
    segments_of,
    sequence_numbers,
    sync_folder,
    write_segment,
)
from fedvlr_jax.client_store.snapshot import NEVER, VERSION, Init, View
from fedvlr_jax.errors import CheckpointError
from fedvlr_jax.types import PyTree

MAX_WASTE = 2.0  # a commit leaves at most this many records on disk for each client
MAX_SEGMENTS = 1000  # nor more files than this
_MEMORY = -1  # source of a client whose newest state is in no segment yet


class Store(View):
    """States that can be read and written; in memory alone if it has no folder."""

    def __init__(
        self, folder: pathlib.Path | None, layout: Layout, num_users: int, init: Init, *, max_dirty_bytes: int
    ):
        """A store in which no client was written; segments that are in `folder` stay there until `retain`.

        Args:
          folder: made if it is not there; None: everything stays in memory and nothing can be committed.
          layout, num_users, init: as for `View`.
          max_dirty_bytes: states newer than the last segment are spilled to one when they exceed this many bytes.

        Raises:
          CheckpointError: if the folder cannot be made.
        """
        super().__init__(folder, layout, num_users, init)
        self._max_dirty_bytes = max_dirty_bytes
        self._sequence = 0 if folder is None else _prepare(folder)
        self._dirty_ids = np.empty(0, np.int64)
        self._dirty = np.empty((0, layout.record_bytes), np.uint8)
        self._num_dirty = 0

    def scatter(self, ids: np.ndarray, states: PyTree) -> None:
        """Replace the states of some clients, in time O(s).

        Args:
          ids: int [s], distinct, ``0 <= id < num_users`` (no padding).
          states: leaves [s, ...].

        Raises:
          ValueError: if `ids` or `states` are not such; nothing is written.
          CheckpointError: if older states cannot be spilled; the new ones are in memory nonetheless.
        """
        ids = self._require_ids(ids)
        records = self._layout.pack(states, ids.size)
        with self._lock:
            self._assign_rows(ids)
            self._dirty[self._row[ids]] = records
            if self._folder is not None and self._num_dirty * self._layout.record_bytes > self._max_dirty_bytes:
                self._spill()

    def commit(self) -> dict[str, Any]:
        """Make everything written so far durable; only what changed since the last commit is written.

        If more than `MAX_WASTE` records per client (or `MAX_SEGMENTS` files) have gathered, the newest ones are first
        rewritten to one new segment, a few MB at a time, which takes time and space in proportion to all clients ever
        written. Earlier manifests stay readable.

        Returns:
          The manifest: JSON-ready, and with the segments in the folder all that `restore` needs.

        Raises:
          CheckpointError: if it cannot be written (a full disk, for example); everything is still in memory, and
            earlier manifests are intact.
          ValueError: if the store has no folder.
        """
        with self._lock:
            self._require_folder()
            self._spill()
            num_records = sum(segment.count for segment in self._segments)
            if num_records > MAX_WASTE * self._num_written or len(self._segments) > MAX_SEGMENTS:
                self._compact()
            return {
                "version": VERSION,
                "num_users": self._source.size,
                "layout": self._layout.describe(),
                "segments": [segment._asdict() for segment in self._segments],
            }

    def retain(self, manifests: Iterable[Mapping[str, Any]]) -> None:
        """Delete every segment that neither one of `manifests` nor the present content needs.

        Call it when the checkpoint that holds the newest manifest is complete, with all manifests still in use.

        Raises:
          CheckpointError: if a segment cannot be deleted.
          ValueError: if the store has no folder.
        """
        with self._lock:
            folder = self._require_folder()
            kept = {segment.name for manifest in manifests for segment in segments_of(manifest)}
            kept.update(segment.name for segment in self._segments)
            try:
                for name in sequence_numbers(folder).keys() - kept:
                    (folder / name).unlink(missing_ok=True)
            except OSError as error:
                raise CheckpointError(f"expected to delete old segments in {folder}, found: {error}") from error

    def _read(self, ids: np.ndarray) -> np.ndarray:
        records = super()._read(ids)
        dirty = np.flatnonzero(self._source[ids] == _MEMORY)
        records[dirty] = self._dirty[self._row[ids[dirty]]]
        return records

    def _assign_rows(self, ids: np.ndarray) -> None:
        """Give each client that has none a row in memory."""
        source = self._source[ids]
        new = ids[source != _MEMORY]
        first, end = self._num_dirty, self._num_dirty + new.size
        if end > len(self._dirty_ids):
            self._dirty_ids, self._dirty = (_grown(x, first, end) for x in (self._dirty_ids, self._dirty))
        self._dirty_ids[first:end] = new
        self._row[new] = np.arange(first, end)
        self._source[new] = _MEMORY
        self._num_written += np.count_nonzero(source == NEVER)
        self._num_dirty = end

    def _spill(self) -> None:
        """Move what is in memory to a new segment."""
        if self._num_dirty:
            order = np.argsort(self._dirty_ids[: self._num_dirty])
            self._write(self._dirty_ids[order], (self._dirty[rows] for rows in self._chunks(order)))
            self._num_dirty = 0

    def _compact(self) -> None:
        """Replace all segments by one that holds the newest of their records; nothing may be in memory."""
        old = [read_ids(self._folder, segment, self._layout, verify=False) for segment in self._segments]
        ids = np.unique(np.concatenate(old))
        self._write(ids, (self._read(chunk) for chunk in self._chunks(ids)), replace=True)

    def _write(self, ids: np.ndarray, chunks: Iterable[np.ndarray], *, replace: bool = False) -> None:
        """Write a segment and append it to the content, or let it replace all that is there."""
        segment = write_segment(self._folder, self._sequence + 1, self._layout, ids, chunks)
        self._sequence += 1
        if replace:
            self._segments.clear()
        self._adopt(segment, ids)

    def _chunks(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """Consecutive chunks of a vector, each of as many entries as there are records in `CHUNK_BYTES`."""
        step = max(1, CHUNK_BYTES // max(1, self._layout.record_bytes))
        return (rows[begin : begin + step] for begin in range(0, rows.size, step))

    def _require_folder(self) -> pathlib.Path:
        if self._folder is None:
            raise ValueError("expected a store with a folder, found one that is in memory alone")
        return self._folder


def _prepare(folder: pathlib.Path) -> int:
    """Make the folder of a store; the highest sequence number that is taken there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
        return max(sequence_numbers(folder).values(), default=0)
    except OSError as error:
        raise CheckpointError(f"expected a folder for client states, found: {error}") from error


def _grown(array: np.ndarray, used: int, least: int) -> np.ndarray:
    """A copy of the first `used` rows with room for `least`, and for twice as many as before."""
    grown = np.empty((max(least, 2 * len(array)), *array.shape[1:]), array.dtype)
    grown[:used] = array[:used]
    return grown
