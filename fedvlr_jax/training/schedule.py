"""How long a run goes on, and where it stands."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from fedvlr_jax.errors import ConfigError


class Plan(NamedTuple):
    """The settings of the loop.

    Attributes:
      seed: of everything random in the run.
      rounds: at most so many.
      eval_every: rounds between two evaluations; the last round is evaluated too.
      patience: evaluations without a better validation metric after which the run stops; 0 = never.
      eval_chunk: users scored at once.
      save_seconds: least time between two periodic checkpoints.
    """

    seed: int
    rounds: int
    eval_every: int
    patience: int
    eval_chunk: int
    save_seconds: float

    def next_evaluation(self, round_: int) -> int:
        """The first evaluated round after `round_`."""
        return min((round_ // self.eval_every + 1) * self.eval_every, self.rounds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunProgress:
    """Where a run stands. It is part of every checkpoint, so that all sums go on after a restart.

    Attributes:
      round: rounds done.
      best_round, best_value: the evaluated round with the best validation metric; None before the first
        evaluation, and the value also without validation rows.
      evaluations_since_best: evaluations without improvement.
      client_updates: local trainings so far, one for each client of each round's cohort.
      num_dropped: how many of them were not finite and left out.
      seconds_train, seconds_eval, seconds_compile: wall-clock time spent on each, over all restarts.
    """

    round: int = 0
    best_round: int | None = None
    best_value: float | None = None
    evaluations_since_best: int = 0
    client_updates: int = 0
    num_dropped: int = 0
    seconds_train: float = 0.0
    seconds_eval: float = 0.0
    seconds_compile: float = 0.0

    def is_finished(self, plan: Plan) -> bool:
        """Whether the rounds, or the patience, are used up."""
        return self.round >= plan.rounds or 0 < plan.patience <= self.evaluations_since_best

    def evaluated(self, value: float | None, seconds: float) -> RunProgress:
        """After an evaluation of the current round that took `seconds` and gave `value` (larger is better).

        Only a strict improvement moves the best round. Without validation rows (None) nothing can be chosen,
        and the latest round counts as the best.
        """
        seconds += self.seconds_eval
        if value is None or self.best_value is None or value > self.best_value:
            best = {"best_round": self.round, "best_value": value, "evaluations_since_best": 0}
        else:
            best = {"evaluations_since_best": self.evaluations_since_best + 1}
        return dataclasses.replace(self, seconds_eval=seconds, **best)

    def add_seconds(self, **seconds: float) -> RunProgress:
        """With some more time on the named clocks (train, eval, compile)."""
        return dataclasses.replace(
            self, **{f"seconds_{name}": getattr(self, f"seconds_{name}") + more for name, more in seconds.items()}
        )

    @property
    def updates_per_second(self) -> float:
        """Client updates per second of training time."""
        return self.client_updates / self.seconds_train if self.seconds_train else 0.0


def make_plan(settings: Mapping[str, Any]) -> Plan:
    """The checked settings of the loop.

    Raises:
      ConfigError: if one of them is out of range.
    """
    evaluation, checkpoint = settings["eval"], settings["checkpoint"]
    bounds = {
        "seed": (settings["seed"], 0),
        "rounds": (settings["rounds"], 1),
        "eval.every": (evaluation["every"], 1),
        "eval.patience": (evaluation["patience"], 0),
        "eval.chunk": (evaluation["chunk"], 1),
        "checkpoint.seconds": (checkpoint["seconds"], 0),
    }
    for name, (value, least) in bounds.items():
        if not value >= least:
            raise ConfigError(f"{name}: expected at least {least}, found {value}")
    return Plan(
        seed=settings["seed"],
        rounds=settings["rounds"],
        eval_every=min(evaluation["every"], settings["rounds"]),
        patience=evaluation["patience"],
        eval_chunk=evaluation["chunk"],
        save_seconds=checkpoint["seconds"],
    )


def read_progress(record: Mapping[str, Any] | None) -> RunProgress:
    """The progress inside a checkpoint's record; a fresh one without a record."""
    if record is None:
        return RunProgress()
    return RunProgress(**{field.name: record[field.name] for field in dataclasses.fields(RunProgress)})
