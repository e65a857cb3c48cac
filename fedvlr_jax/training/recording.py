"""Where the loop leaves metrics and states: in the files of a workdir, or in memory alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp

from fedvlr_jax.io.writers import MetricWriter
from fedvlr_jax.training.saving import Saver
from fedvlr_jax.training.schedule import RunProgress
from fedvlr_jax.types import PyTree, RoundInfo


class Recorder(Protocol):
    """Where the loop leaves what it finds; the state of the best round survives in it.

    Attributes:
      kept: what is left of a run that fails, as the end of a message.
    """

    kept: ClassVar[str]

    def write(self, line: Mapping[str, Any], info: RoundInfo) -> None:
        """Note the metrics of an evaluation, and the info of each round since the one before."""

    def offer(self, state: PyTree, progress: RunProgress) -> None:
        """Take note of the state after an evaluation; it may be donated afterwards."""

    def save(self, state: PyTree, progress: RunProgress) -> None:
        """Keep the state at which the run stops."""

    def flush(self) -> None:
        """Keep what was offered, because the run fails."""


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """The `Recorder` of a workdir: metric files and checkpoints."""

    writer: MetricWriter
    saver: Saver
    kept: ClassVar[str] = "; the checkpoints up to the last evaluation are intact"

    def write(self, line: Mapping[str, Any], info: RoundInfo) -> None:
        """See `Recorder`."""
        self.writer.rounds(line["round"], loss=info.loss, update_norm=info.update_norm, num_dropped=info.num_dropped)
        self.writer.evaluation(line)

    def offer(self, state: PyTree, progress: RunProgress) -> None:
        """See `Recorder`."""
        self.saver.offer(state, progress)

    def save(self, state: PyTree, progress: RunProgress) -> None:
        """See `Recorder`."""
        self.saver.save(state, progress)

    def flush(self) -> None:
        """See `Recorder`."""
        self.saver.flush()


class InMemory:
    """The `Recorder` without files: `best` is the state of the best round so far, None before an evaluation."""

    kept: ClassVar[str] = ""

    def __init__(self) -> None:
        self.best: PyTree | None = None

    def write(self, line: Mapping[str, Any], info: RoundInfo) -> None:
        """See `Recorder`: metrics reach the caller as events."""

    def offer(self, state: PyTree, progress: RunProgress) -> None:
        """See `Recorder`."""
        if progress.round == progress.best_round:
            self.best = jax.tree.map(jnp.copy, state)

    def save(self, state: PyTree, progress: RunProgress) -> None:
        """See `Recorder`: every evaluated state was offered, and nothing goes on from here."""

    def flush(self) -> None:
        """See `Recorder`: nothing waits."""
