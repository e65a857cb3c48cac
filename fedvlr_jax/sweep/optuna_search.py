"""Points that depend on how earlier ones did: proposed by Optuna, which is imported only here and only when used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fedvlr_jax.extras import require_extra
from fedvlr_jax.sweep.space import Range, Sweep, SweepPoint, tidy

ScorePoints = Callable[[Sequence[SweepPoint]], Sequence[float | None]]
"""The values (larger is better) of all points so far; None for a failed one. New points are run first."""


def propose_points(sweep: Sweep, score: ScorePoints) -> list[SweepPoint]:
    """Propose points in batches, learning from the values of the earlier ones.

    Nothing is stored: with one seed the same values lead to the same proposals, so that a sweep which was stopped
    proposes the same points again and finds their runs done.

    Args:
      sweep: of kind optuna.
      score: runs what has not been run, and returns the values of all points.

    Returns:
      All points, in the order in which they were proposed.

    Raises:
      ConfigError: if Optuna is not installed.
    """
    with require_extra("optuna", "a sweep of kind optuna"):
        import optuna
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=sweep.seed))
    points: list[SweepPoint] = []
    while len(points) < sweep.samples:
        trials = [study.ask() for _ in range(min(sweep.batch, sweep.samples - len(points)))]
        points += [{field: _suggest(sweep, trial, field) for field in sweep.axes} for trial in trials]
        values = score(points)[-len(trials) :]
        for trial, value in zip(trials, values, strict=True):
            if value is None:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, value)
    return points


def _suggest(sweep: Sweep, trial: Any, field: str) -> Any:
    axis = sweep.axes[field]
    if not isinstance(axis, Range):
        return trial.suggest_categorical(field, axis)
    if field in sweep.whole:
        return trial.suggest_int(field, int(axis.low), int(axis.high), log=axis.log)
    return tidy(trial.suggest_float(field, axis.low, axis.high, log=axis.log), axis)
