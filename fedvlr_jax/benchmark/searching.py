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


LEAST_VALUES = 3  # of a field, of fewer than which every one is at an end


def at_ends(chosen: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """What of a chosen point is the least or the largest number that was tried: beyond it nobody has looked.

    >>> at_ends({"lr": 0.1, "reg": 0.0}, [{"lr": lr, "reg": reg} for lr in (0.001, 0.01, 0.1) for reg in (0.0, 1, 2)])
    ('lr 0.1, the largest of 3',)

    Args:
      chosen: one of `points`.
      points: that validation chose among, all with the same fields.

    Returns:
      One phrase for each field with at least `LEAST_VALUES` numbers of which the chosen one is at an end. Where
      nothing can lie beyond there is none: 0 as the least, what it is the size of is left out; and shares, two fields
      that add up to 1.
    """
    found = []
    for field, value in chosen.items():
        values = [point.get(field) for point in points]
        numbers = {x for x in values if isinstance(x, int | float) and not isinstance(x, bool)}
        if len(numbers) < LEAST_VALUES or value not in numbers or _is_share(field, points):
            continue
        if value == max(numbers):
            found.append(f"{field} {value:g}, the largest of {len(numbers)}")
        elif value == min(numbers) and value != 0:
            found.append(f"{field} {value:g}, the least of {len(numbers)}")
    return tuple(found)


def _is_share(field: str, points: Sequence[Mapping[str, Any]]) -> bool:
    others = [name for name, x in points[0].items() if name != field and isinstance(x, float)]
    return any(all(point[field] + point.get(name, 0.0) == 1 for point in points) for name in others)


def collect(
    method: Method, hyper: Mapping[str, Any], points: Sequence[Mapping[str, Any]], tried: Tried, final: Tried
) -> MethodRuns:
    """The record of a method from the runs of its search among `points` and those at the chosen one."""
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
        points=len(points),
        ends=at_ends(hyper, points),
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
