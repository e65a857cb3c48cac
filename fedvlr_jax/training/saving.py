"""When to save: at once where it is due, else the best state waits in memory for the next save that is."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fedvlr_jax.federated.mesh import agreed
from fedvlr_jax.io.checkpoint import Checkpoints
from fedvlr_jax.training.schedule import RunProgress
from fedvlr_jax.types import PyTree

COPY_BYTES = 1 << 30  # states up to this size are copied while they wait; a larger one is saved at once
MAX_SHARE = 0.1  # saving takes at most this share of the time (best states above COPY_BYTES excepted)


class Saver:
    """Spreads the saves of a run, `seconds` apart at least, without ever losing the best state.

    A run killed between two saves starts again from the older checkpoint, whose record names the best round up
    to there, and repeats the same bits; so a best state may wait in memory.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        *,
        seconds: float,
        identity: Mapping[str, Any],
        commit: Callable[[], Mapping[str, Any]] = dict,
        retain: Callable[[Sequence[Mapping[str, Any]]], None] | None = None,
    ):
        """A saver of one run.

        Args:
          checkpoints: where to save.
          seconds: least time between two periodic saves.
          identity: settings and data, part of every record beside the progress.
          commit: makes durable what belongs to the state at hand but lies outside of it; part of its record.
          retain: takes the records of all checkpoints that are left after a save; the rest may go.
        """
        self._checkpoints, self._seconds, self._identity = checkpoints, seconds, identity
        self._commit, self._retain = commit, retain
        self._waiting: tuple[PyTree, dict[str, Any]] | None = None
        self._next = float("-inf")

    def offer(self, state: PyTree, progress: RunProgress) -> None:
        """Take note of the state after an evaluation, and save it if that is due; it may be donated afterwards."""
        is_best = progress.round == progress.best_round
        if agreed(time.monotonic() >= self._next) or (is_best and _num_bytes(state) > COPY_BYTES):
            self.save(state, progress)
        elif is_best:
            self._waiting = (jax.tree.map(jnp.copy, state), self._record(progress))

    def save(self, state: PyTree, progress: RunProgress) -> None:
        """Save now: first the best state if it is waiting, then this one."""
        if progress.round == progress.best_round:
            self._waiting = None
        self.flush()
        self._write(state, self._record(progress))

    def flush(self) -> None:
        """Save the best state if it is waiting."""
        if self._waiting is not None:
            self._write(*self._waiting)
            self._waiting = None

    def _record(self, progress: RunProgress) -> dict[str, Any]:
        return {**dataclasses.asdict(progress), **self._identity, **self._commit()}

    def _write(self, state: PyTree, record: Mapping[str, Any]) -> None:
        begin = time.monotonic()
        self._checkpoints.save(state, record)
        if self._retain is not None:
            self._retain(self._checkpoints.records())
        end = time.monotonic()
        self._next = end + max(self._seconds, (end - begin) / MAX_SHARE)


def _num_bytes(state: PyTree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(state))
