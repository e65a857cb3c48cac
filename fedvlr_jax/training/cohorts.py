"""Part of a population as a round reads it: arrays of fixed shapes, built on the CPU in time O(its clients)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from fedvlr_jax.data.buckets import Histories
from fedvlr_jax.types import NOWHERE, Bucket, PyTree


class Cohort(NamedTuple):
    """The clients of one round.

    Attributes:
      ids: int64 [s], ascending; row k of the round's private state belongs to client ``ids[k]``.
      buckets: their histories, with ``row``. Empty slots come last.
      held: int32 [s], where each client stood in the cohort before, -1 if it was not in it.
    """

    ids: np.ndarray
    buckets: tuple[Bucket, ...]
    held: np.ndarray

    @property
    def fresh(self) -> np.ndarray:
        """int64, the rows of the clients that were not in the cohort before."""
        return np.flatnonzero(self.held < 0)


def make_cohort(histories: Histories, ids: np.ndarray, before: np.ndarray) -> Cohort:
    """The cohort `ids` after the cohort `before`; the shapes depend on the number of clients alone.

    Args:
      histories: of the whole population.
      ids: int [s], distinct, ascending.
      before: int [m], distinct, ascending; empty for the first cohort.
    """
    ids = ids.astype(np.int64)
    kind_s = histories.kind_u[ids]
    capacities = np.minimum(histories.count_k, ids.size).tolist()
    buckets = tuple(
        _bucket(histories, ids, np.flatnonzero(kind_s == k), k, size) for k, size in enumerate(capacities)
    )
    place_s = np.searchsorted(before, ids)
    held_s = np.append(before, -1)[place_s] == ids
    return Cohort(ids, buckets, np.where(held_s, place_s, -1).astype(np.int32))


def blocks(histories: Histories, *, chunk: int, least: int) -> Iterator[tuple[int, np.ndarray, Bucket]]:
    """All clients with a history, a block of one bucket at a time; its shapes depend on the bucket alone.

    Args:
      histories: of the whole population.
      chunk: clients that are computed at once; a block has a whole number of equal chunks of at most as many.
      least: clients in a block, roughly.

    Yields:
      ``(number of chunks, ids int64 [m], bucket)`` with ``bucket.row[k] = k`` for the m clients in it.
    """
    for k, count in enumerate(histories.count_k.tolist()):
        num_chunks, size = block_size(count, chunk=chunk, least=least)
        members = np.flatnonzero(histories.kind_u == k)
        for begin in range(0, count, size):
            ids = members[begin : begin + size]
            yield num_chunks, ids, _bucket(histories, ids, np.arange(ids.size), k, size)


def block_size(count: int, *, chunk: int, least: int) -> tuple[int, int]:
    """Chunks and slots of a block (see `blocks`) of a bucket of `count` clients, as few empty slots as can be."""
    num_chunks = -(-min(count, max(least, chunk)) // chunk)
    return num_chunks, num_chunks * -(-min(count, num_chunks * chunk) // num_chunks)


def spread_rows(states: PyTree, rows: np.ndarray, size: int) -> PyTree:
    """States [m, ...] at `rows` of arrays of `size` rows, zero elsewhere."""

    def spread(x: np.ndarray) -> np.ndarray:
        out = np.zeros((size, *x.shape[1:]), x.dtype)
        out[rows] = x
        return out

    return jax.tree.map(spread, states)


def _bucket(histories: Histories, ids: np.ndarray, row: np.ndarray, kind: int, size: int) -> Bucket:
    """The clients ``ids[row]``, all of one kind, in a bucket of `size` slots."""
    users, width = ids[row], int(histories.width_k[kind])
    bucket = Bucket(
        user=np.full(size, histories.kind_u.size, np.int32),
        history=np.full((size, width), histories.num_items, np.int32),
        row=np.full(size, NOWHERE, np.int32),
    )
    bucket.user[: row.size], bucket.row[: row.size] = users, row
    bucket.history[: row.size] = histories.padded(users, width)
    return bucket
