"""How long a run goes on, and where it stands."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from fedvlr_jax.evaluation import selection
from fedvlr_jax.models.hosts import HOSTS
from fedvlr_jax.settings import check_settings


class Plan(NamedTuple):
    """The settings of the loop.

    Attributes:
      seed: of everything random in the run.
      rounds: at most so many.
      eval_every: rounds between two evaluations; the last round is evaluated too.
      patience: evaluations without a better validation metric after which the run stops; 0 = never.
      eval_chunk: users scored at once.
      save_seconds: least time between two periodic checkpoints.
      from_start: evaluate before the first round too.
    """

    seed: int
    rounds: int
    eval_every: int
    patience: int
    eval_chunk: int
    save_seconds: float
    from_start: bool

    def next_evaluation(self, round_: int) -> int:
        """The first evaluated round after `round_`."""
        return selection.next_evaluation(round_, self.eval_every, self.rounds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunProgress:
    """How far a run is. It is part of every checkpoint, so that all sums go on after a restart.

    Attributes:
      round: rounds done.
      best_round, best_value: the evaluated round with the best validation metric; None before the first
        evaluation, and the value also without validation rows.
      evaluations_since_best: evaluations without improvement.
      client_updates: local trainings so far, one for each client of each round's cohort.
      num_dropped: how many of them were not finite and left out.
      num_lost, failed_rounds: how many clients secure sums lost on the way, and rounds of which too few were left.
      epsilon: what these rounds have spent of a budget of differential privacy; None where nobody accounts for it.
      origin: what result.json says about the runs that this one started from; None for random parameters.
      seconds_train, seconds_eval, seconds_compile: wall-clock time spent on each, over all restarts.
    """

    round: int = 0
    best_round: int | None = None
    best_value: float | None = None
    evaluations_since_best: int = 0
    client_updates: int = 0
    num_dropped: int = 0
    num_lost: int = 0
    failed_rounds: int = 0
    epsilon: float | None = None
    origin: Mapping[str, Any] | None = None
    seconds_train: float = 0.0
    seconds_eval: float = 0.0
    seconds_compile: float = 0.0

    def is_finished(self, plan: Plan) -> bool:
        """Whether the rounds, or the patience, are used up."""
        return self.round >= plan.rounds or self._selection().is_exhausted(plan.patience)

    def evaluated(self, value: float | None, seconds: float) -> RunProgress:
        """After an evaluation of the current round that took `seconds` and gave `value`: `Selection.evaluated`."""
        best = self._selection().evaluated(self.round, value)
        return dataclasses.replace(self, seconds_eval=self.seconds_eval + seconds, **best._asdict())

    def _selection(self) -> selection.Selection:
        return selection.Selection(self.best_round, self.best_value, self.evaluations_since_best)

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
    """The settings of the loop, after a check of all settings.

    Raises:
      ConfigError: as `check_settings`.
    """
    check_settings(settings)
    evaluation = settings["eval"]
    return Plan(
        seed=settings["seed"],
        rounds=settings["rounds"],
        eval_every=min(evaluation["every"], settings["rounds"]),
        patience=evaluation["patience"],
        eval_chunk=evaluation["chunk"],
        save_seconds=settings["checkpoint"]["seconds"],
        from_start=getattr(HOSTS.get(settings["host"]["name"]), "starts_ready", False),
    )


def read_progress(record: Mapping[str, Any] | None) -> RunProgress:
    """The progress inside a checkpoint's record; a fresh one without a record."""
    if record is None:
        return RunProgress()
    fields = {field.name: record[field.name] for field in dataclasses.fields(RunProgress) if field.name in record}
    return RunProgress(**fields)
