"""Features of all items, block by block: a run that was stopped goes on with the blocks that are not there yet."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from fedvlr_jax.errors import DataError

BLOCK_BATCHES = 8
"""Batches between two writes: at most so many are computed again after a kill."""
VERSION = 1
"""Raised whenever this code gives other numbers for the same files."""
Arrays = Mapping[str, np.ndarray]
EncodeBatch = Callable[[Sequence[Any]], tuple[np.ndarray, list[str]]]


class Cache(Protocol):
    """Finished blocks, by a key that names everything they depend on."""

    def read(self, key: str) -> Arrays | None:
        """The arrays that were written under the key, or None."""

    def write(self, key: str, arrays: Arrays) -> None:
        """Keep arrays, whole or not at all."""


class Progress(NamedTuple):
    """Where a run stands."""

    done: int
    total: int
    seconds_left: float | None
    """None until two batches are through; the first one compiles."""


class Encoded(NamedTuple):
    """The features of all items."""

    rows: np.ndarray
    """[i, d] float32; zeros where there is none."""
    present: np.ndarray
    """[i] bool."""
    reasons: tuple[str, ...]
    """For every item why it has no row, or ""."""


class Plan(NamedTuple):
    """What a block's key is made of, and how long it is."""

    checksum: str
    identities: Sequence[str]
    batch: int

    def blocks(self) -> list[range]:
        """The items of every block."""
        length, count = self.batch * BLOCK_BATCHES, len(self.identities)
        return [range(k, min(k + length, count)) for k in range(0, count, length)]

    def key(self, block: range) -> str:
        """SHA-256 of all that the block depends on."""
        inputs = [self.identities[k] for k in block]
        return hashlib.sha256(repr((VERSION, self.checksum, inputs)).encode()).hexdigest()


def encode_all(
    inputs: Sequence[Any],
    plan: Plan,
    stream: Callable[[Iterable[Any]], Generator[Any, None, None]],
    encode: EncodeBatch,
    cache: Cache | None,
    on_progress: Callable[[Progress], object],
) -> Encoded:
    """Blocks from the cache where it has them; the inputs of all others run through one stream.

    Args:
      inputs: one for each item.
      plan: the keys of the blocks.
      stream: what is done with each input before it joins a batch, in order.
      encode: a batch, perhaps shorter than the plan's, to rows and the reasons of those that are absent.
      cache, on_progress: as `encode.encode_images`.
    """
    if not inputs:
        raise DataError("features: expected at least one item, found none")
    blocks = plan.blocks()
    found = {block.start: cache and cache.read(plan.key(block)) for block in blocks}
    left = [block for block in blocks if found[block.start] is None]
    total = len(inputs)
    report = _reporter(total - sum(map(len, left)), total, on_progress)
    with contextlib.closing(stream(inputs[k] for block in left for k in block)) as prepared:
        for block in left:
            arrays = _encode_block(itertools.islice(prepared, len(block)), plan.batch, encode, report)
            found[block.start] = arrays
            if cache is not None:
                cache.write(plan.key(block), arrays)
    ordered = [found[block.start] for block in blocks]
    rows, reasons = (np.concatenate([arrays[name] for arrays in ordered if arrays]) for name in ("rows", "reasons"))
    return Encoded(rows, reasons == "", tuple(reasons.tolist()))


def _encode_block(
    inputs: Iterator[Any],
    batch: int,
    encode: EncodeBatch,
    report: Callable[[int], None],
) -> dict[str, np.ndarray]:
    """Batch by batch; rows of absent items are zeros."""
    rows: list[np.ndarray] = []
    reasons: list[str] = []
    while group := list(itertools.islice(inputs, batch)):
        rows_bd, why = encode(group)
        absent_b = np.array(why) != ""
        rows.append(np.where(absent_b[:, None], 0, rows_bd[: len(group)]).astype(np.float32))
        if not np.isfinite(rows[-1]).all():
            raise DataError("features: expected finite numbers, found others; are the weights damaged?")
        reasons += why
        report(len(group))
    return {"rows": np.concatenate(rows), "reasons": np.array(reasons, dtype=str)}


def _reporter(done: int, total: int, on_progress: Callable[[Progress], object]) -> Callable[[int], None]:
    """Counts items and estimates the time left from the batches after the first."""
    state = {"done": done}
    timed: list[tuple[float, int]] = []

    def report(count: int) -> None:
        state["done"] += count
        timed.append((time.monotonic(), state["done"]))
        (begin, first), (now, last) = timed[0], timed[-1]
        left = (now - begin) / (last - first) * (total - last) if last > first else None
        on_progress(Progress(last, total, left))

    return report
