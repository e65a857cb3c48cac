"""The main metrics of every method on groups of test rows: warm and cold, history length, item popularity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from fedvlr_jax.benchmark import order
from fedvlr_jax.benchmark.records import MethodRuns
from fedvlr_jax.evaluation.groups import GROUPINGS, group_means
from fedvlr_jax.evaluation.metrics import main_metrics, seed_values
from fedvlr_jax.types import Dataset


class RowGroups(NamedTuple):
    """The groups of one grouping that hold test rows.

    Attributes:
      grouping: a key of `evaluation.groups.GROUPINGS`.
      names, sizes: of the groups, and the number of test rows in them.
      means: by method and main metric, the mean over rows and seeds of every group, fractions.
    """

    grouping: str
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    means: Mapping[str, Mapping[str, tuple[float, ...]]]


def make_groups(methods: Sequence[MethodRuns], dataset: Dataset) -> list[RowGroups]:
    """All groupings of the test rows; methods in the table's order, without those that have no finished run."""
    methods = order.in_order(filter(order.has_numbers, methods))
    found = []
    for label, group_rows in GROUPINGS.items():
        grouping = group_rows(dataset, dataset.test_item)
        means = {}
        for method in methods:
            cells = {name: group_means(seed_values(method.ranks, name), grouping) for name in main_metrics()}
            means[method.name] = {metric: tuple(g.mean for g in groups if g.rows) for metric, groups in cells.items()}
        sizes = [int((grouping.group_h == group).sum()) for group in range(len(grouping.names))]
        named = [(name, size) for name, size in zip(grouping.names, sizes, strict=True) if size]
        names, counts = zip(*named, strict=True) if named else ((), ())
        found.append(RowGroups(label, names, counts, means))
    return found


def long_rows(groupings: Sequence[RowGroups]) -> Iterator[tuple[str, str, str, int, str, float]]:
    """(method, grouping, group, rows, metric, mean) of every cell; the content of groups.csv."""
    for groups in groupings:
        for method, metrics in groups.means.items():
            for metric, means in metrics.items():
                for name, size, mean in zip(groups.names, groups.sizes, means, strict=True):
                    yield method, groups.grouping, name, size, metric, mean
