"""When to save: at once where it is due, else the best state waits in memory for the next save that is."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedvlr_jax.io.checkpoint import Checkpoints
from fedvlr_jax.mesh import agreed
from fedvlr_jax.schedule import Tally
from fedvlr_jax.types import PyTree

COPY_BYTES = 1 << 30  # states up to this size are copied while they wait; a larger one is saved at once
MAX_SHARE = 0.1  # saving takes at most this share of the time (best states above COPY_BYTES excepted)


class Saver:
    """Spreads the saves of a run, `seconds` apart at least, without ever losing the best state.

    A run killed between two saves starts again from the older checkpoint, whose record names the best round up
    to there, and repeats the same bits; so a best state may wait in memory.
    """

    def __init__(self, checkpoints: Checkpoints, *, seconds: float, identity: Mapping[str, Any]):
        """`identity` (settings and data) becomes part of every record, beside the tally."""
        self._checkpoints, self._seconds, self._identity = checkpoints, seconds, identity
        self._waiting: tuple[PyTree, Tally] | None = None
        self._next = float("-inf")

    def offer(self, state: PyTree, tally: Tally) -> None:
        """Take note of the state after an evaluation, and save it if that is due; it may be donated afterwards."""
        is_best = tally.round == tally.best_round
        if agreed(time.monotonic() >= self._next) or (is_best and _num_bytes(state) > COPY_BYTES):
            self.save(state, tally)
        elif is_best:
            self._waiting = (jax.tree.map(jnp.copy, state), tally)

    def save(self, state: PyTree, tally: Tally) -> None:
        """Save now: first the best state if it is waiting, then this one."""
        if tally.round == tally.best_round:
            self._waiting = None
        self.flush()
        self._write(state, tally)

    def flush(self) -> None:
        """Save the best state if it is waiting."""
        if self._waiting is not None:
            self._write(*self._waiting)
            self._waiting = None

    def _write(self, state: PyTree, tally: Tally) -> None:
        begin = time.monotonic()
        self._checkpoints.save(state, {**dataclasses.asdict(tally), **self._identity})
        end = time.monotonic()
        self._next = end + max(self._seconds, (end - begin) / MAX_SHARE)


def _num_bytes(state: PyTree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state))
