"""Which point of a grid a benchmark takes: the mean over the seeds of the search decides, test ranks never."""

from __future__ import annotations

import itertools

import pytest

from fedvlr_jax.benchmark.searching import at_ends, choose_point
from fedvlr_jax.benchmark.storage import Stored


class Run(Stored):
    """A finished run that has no ranks to look at."""

    def __init__(self, valid: float | None):
        self.result = {"best_valid": valid}


def tried(values: dict[tuple[int, int], float | str | None]) -> dict[tuple[int, int], Stored | str]:
    """Runs by (point, seed): a validation value, or the reason of a failure."""
    return {key: value if isinstance(value, str) else Run(value) for key, value in values.items()}


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ({(0, 0): 0.5, (0, 1): 0.1, (1, 0): 0.4, (1, 1): 0.3}, 1),  # seed 0 alone says 0
        ({(0, 0): 0.5, (0, 1): 0.5, (1, 0): 0.25, (1, 1): 0.75}, 0),  # equal means: the first
        ({(0, 0): 0.9, (0, 1): "not finite", (1, 0): 0.1, (1, 1): 0.1}, 1),
        ({(0, 0): 0.9, (0, 1): None, (1, 0): 0.1, (1, 1): 0.1}, 1),  # never evaluated
        ({(0, 0): "broken", (0, 1): "broken", (1, 0): "broken", (1, 1): "broken"}, 0),
    ],
)
def test_the_mean_over_the_seeds_of_the_search_decides(values, best):
    assert choose_point([0, 1], (0, 1), tried(values)) == best


def test_without_a_search_the_first_point_is_taken():
    assert choose_point([0, 1, 2], (), {}) == 0


def grid(**axes):
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


@pytest.mark.parametrize(
    ("chosen", "points", "ends"),
    [
        ({"lr": 0.1}, grid(lr=(0.001, 0.01, 0.1)), ("lr 0.1, the largest of 3",)),
        ({"lr": 0.001}, grid(lr=(0.001, 0.01, 0.1)), ("lr 0.001, the least of 3",)),
        ({"lr": 0.01}, grid(lr=(0.001, 0.01, 0.1)), ()),
        ({"lr": 0.1, "k": 5}, grid(lr=(0.1, 0.01), k=(5, 9, 7)), ("k 5, the least of 3",)),  # two are always ends
        ({"reg": 0.0}, grid(reg=(0.0, 0.1, 1.0)), ()),  # nothing lies below
        ({"reg": 1.0}, grid(reg=(0.0, 0.1, 1.0)), ("reg 1, the largest of 3",)),
        ({"a": 1.0, "b": 0.0}, [{"a": x, "b": 1 - x} for x in (0.0, 0.5, 1.0)], ()),  # shares end there
        ({"kind": "x", "on": True}, grid(kind=("x", "y", "z"), on=(True, False)), ()),
        ({}, [{}], ()),
    ],
)
def test_a_point_at_an_end_of_its_grid_is_named(chosen, points, ends):
    assert at_ends(chosen, points) == ends
