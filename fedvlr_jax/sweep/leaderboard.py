"""The points of a sweep ranked by validation alone, and the test metrics of the one that validation chose."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fedvlr_jax.benchmark.storage import Stored
from fedvlr_jax.evaluation.metrics import main_metrics
from fedvlr_jax.sweep.runs import SweepRuns
from fedvlr_jax.sweep.space import Sweep, SweepPoint, seeds_of


class LeaderboardRow(NamedTuple):
    """One point.

    Attributes:
      index: of the point.
      point: its fields.
      seeds: that it runs.
      valid: `SELECTION_METRIC` on validation at the best round, by seed; None for a seed that has not finished.
      failures: by seed, the reason; "" where there is none.
    """

    index: int
    point: SweepPoint
    seeds: tuple[int, ...]
    valid: tuple[float | None, ...]
    failures: tuple[str, ...]

    @property
    def value(self) -> float | None:
        """What points are ranked by: the mean over all seeds; None unless every one of them has a value."""
        return None if None in self.valid else statistics.fmean(self.valid)

    @property
    def std(self) -> float | None:
        """Sample standard deviation over seeds; None with one seed or where the mean is None."""
        return None if self.value is None else spread(self.valid)

    @property
    def status(self) -> str:
        """ "done", the reasons of failed seeds, or what is left to run."""
        reasons = [f"seed {s}: {why}" for s, why in zip(self.seeds, self.failures, strict=True) if why]
        if reasons:
            return "failed: " + "; ".join(reasons)
        left = [str(s) for s, value in zip(self.seeds, self.valid, strict=True) if value is None]
        return f"not run: seed {', '.join(left)}" if left else "done"


class Spread(NamedTuple):
    """Mean and sample standard deviation over seeds, fractions; None with one seed."""

    mean: float
    std: float | None


def make_leaderboard(sweep: Sweep, points: Sequence[SweepPoint], runs: SweepRuns) -> list[LeaderboardRow]:
    """All points, best first; what failed or has not run comes last, in the order of the points.

    Only the validation metric of `runs` is read.
    """
    found = []
    for k, point in enumerate(points):
        seeds = seeds_of(sweep, point)
        of = [runs[k, seed] for seed in seeds]
        valid = tuple(run.result["best_valid"] if isinstance(run, Stored) else None for run in of)
        found.append(LeaderboardRow(k, point, seeds, valid, tuple(run if isinstance(run, str) else "" for run in of)))
    return sorted(found, key=lambda s: (s.value is None, -(s.value or 0.0), s.index))


def choose(leaderboard: Sequence[LeaderboardRow]) -> LeaderboardRow | None:
    """The best point; None where no point has a value at every seed."""
    return leaderboard[0] if leaderboard and leaderboard[0].value is not None else None


def tested(best: LeaderboardRow, runs: SweepRuns) -> Mapping[str, Spread]:
    """The test metrics of the chosen point, at the rounds that validation chose; {} without test rows."""
    results = [runs[best.index, seed].result["test"] for seed in best.seeds]
    return {
        name: Spread(statistics.fmean(values), spread(values))
        for name in main_metrics()
        if None not in (values := [result.get(name) for result in results])
    }


def spread(values: Sequence[float]) -> float | None:
    """Sample standard deviation, None for a single value."""
    return statistics.stdev(values) if len(values) > 1 else None
