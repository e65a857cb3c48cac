"""What all methods share: the choice among the points of a grid, and the record of what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedvlr_jax.benchmark.methods import Method
from fedvlr_jax.benchmark.records import MethodRuns
from fedvlr_jax.benchmark.storage import Stored

Key = tuple[int, int]
"""(index of the point in the grid, seed) of a run."""

Tried = dict[Key, Stored | str]
"""What became of runs: read back from their folders, or the reason of their failure."""


def choose_point(points: Sequence[int], seeds: Sequence[int], tried: Mapping[Key, Stored | str]) -> int:
    """The best of these points on validation, averaged over the seeds of the search; the first of equals.

    A point of which one run failed is worse than any other. Test ranks are not looked at.
    """
    if not seeds:
        return points[0]

    def value(k: int) -> float:
        runs = [tried[k, seed] for seed in seeds]
        values = [run.result["best_valid"] for run in runs if isinstance(run, Stored)]
        return float(np.mean(values)) if len(values) == len(runs) and None not in values else -np.inf

    return max(points, key=lambda k: (value(k), -k))


def collect(method: Method, hyper: Mapping[str, Any], num_points: int, tried: Tried, final: Tried) -> MethodRuns:
    """The record of a method from the runs of its search and those at the chosen point."""
    done = {seed: run for (_, seed), run in final.items() if isinstance(run, Stored)}
    everything = tried | final
    finished = [run for run in everything.values() if isinstance(run, Stored)]
    first = next(iter([*done.values(), *finished]), None)  # sizes may depend on the point: those of the chosen one
    sizes = first.result if first else {}
    return MethodRuns(
        name=method.name,
        family=method.family,
        host=method.host,
        variant=method.variant,
        hyper=hyper,
        points=num_points,
        seeds=tuple(done),
        ranks=tuple(run.ranks for run in done.values()),
        best_rounds=tuple(run.result["best_round"] for run in done.values()),
        curves=tuple(run.curve for run in done.values()),
        seconds=sum(run.result["seconds"] for run in finished),
        megabytes_per_round=sizes.get("megabytes_per_round"),
        num_public=sizes.get("num_public"),
        num_private_per_client=sizes.get("num_private_per_client"),
        lists=tuple(run.result["lists"] for run in done.values() if "lists" in run.result),
        failures=tuple(
            f"point {k}, seed {seed}: {run}" for (k, seed), run in everything.items() if isinstance(run, str)
        ),
    )
