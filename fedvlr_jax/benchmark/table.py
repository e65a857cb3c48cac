"""From finished runs to the numbers of the table: one row for each method, one estimate for each metric."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fedvlr_jax.benchmark import order
from fedvlr_jax.benchmark.published import published
from fedvlr_jax.benchmark.records import MethodRuns
from fedvlr_jax.data.buckets import heldout_targets
from fedvlr_jax.evaluation.groups import by_warmth
from fedvlr_jax.evaluation.intervals import Interval, mean_intervals
from fedvlr_jax.evaluation.list_metrics import list_metric_names
from fedvlr_jax.evaluation.metrics import (
    CUTOFFS,
    SELECTION_METRIC,
    TEST,
    VALID,
    main_metrics,
    printed_metrics,
    seed_user_values,
    set_metrics,
)
from fedvlr_jax.evaluation.targets import item_of
from fedvlr_jax.types import Dataset, Ranks

WARM, COLD = 0, 1  # groups of `by_warmth`
TIE_RATE, CONSTANT_RATE = "tie_rate", "constant_score_rate"
RESAMPLES = 10_000  # of every interval


class Column(NamedTuple):
    """A metric of the rows of one split, or of one group of test rows (`WARM`, `COLD`; None = all)."""

    name: str
    metric: str
    split: int = TEST
    group: int | None = None


def metric_columns(*, several: bool = False) -> tuple[Column, ...]:
    """What the table has of every method; a name without a prefix is of all test rows.

    Args:
      several: whether some user has several held-out rows.
    """
    return (
        *(Column(metric, metric) for metric in (*printed_metrics(*CUTOFFS), *set_metrics(several, *CUTOFFS))),
        *(
            Column(f"{name} {metric}", metric, group=group)
            for name, group in (("test_warm", WARM), ("test_cold", COLD))
            for metric in main_metrics()
        ),
        Column(f"valid {SELECTION_METRIC}", SELECTION_METRIC, split=VALID),
    )


class Estimate(NamedTuple):
    """One number of the table, a fraction.

    Attributes:
      mean: over users and seeds; None for a method without a finished run, or without such a row.
      std: sample standard deviation over seeds of their means; None with one seed.
      low, high: 95 % bootstrap interval over users and seeds; None where there is none.
      published: what the paper prints, or None.
    """

    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None
    published: float | None = None


class TableRow(NamedTuple):
    """A method and its numbers.

    Attributes:
      method: what it is computed from.
      block: one of `order.BLOCKS`.
      scores: an estimate for each of `metric_columns`, for each metric of whole lists where they were judged
        (`evaluation.list_metrics`; novelty in bits), `TIE_RATE` (share of tied test rows) and `CONSTANT_RATE`
        (share of users whose candidates have one score).
      nonfinite_users: users with scores that are not finite, mean over seeds.
      below_popularity: whether `SELECTION_METRIC` on test is below popularity's.
      megabytes: 10^6 bytes moved until the best round, mean over seeds; None for centralised methods.
    """

    method: MethodRuns
    block: str
    scores: Mapping[str, Estimate]
    nonfinite_users: float = 0.0
    below_popularity: bool = False
    megabytes: float | None = None


def make_rows(methods: Sequence[MethodRuns], dataset: Dataset) -> list[TableRow]:
    """The rows of the table, in its order (`order.in_order`).

    Args:
      methods: all methods of the benchmark; their names are distinct.
      dataset: what they were run on.

    Raises:
      ValueError: if two methods share a name, or one was ranked on other held-out items than the data set's.
    """
    check(methods, dataset)
    columns = metric_columns(several=dataset.held_user is not None)
    group_h = by_warmth(dataset, dataset.test_item).group_h
    estimates = _estimates(list(filter(order.has_numbers, methods)), columns, group_h)
    floor = estimates.get((order.POPULARITY, SELECTION_METRIC), Estimate()).mean
    return [_row(method, dataset, columns, estimates, floor) for method in order.in_order(methods)]


def values_of(method: MethodRuns, column: Column, group_h: np.ndarray) -> np.ndarray:
    """float64 [s, u], a column's values under every seed, of users with such a row; `group_h` is `by_warmth`."""
    inside = None if column.group is None else group_h == column.group
    return seed_user_values(method.ranks, column.metric, split=column.split, inside=inside)


def long_rows(rows: Sequence[TableRow]) -> Iterator[tuple[str, str, *tuple[float | None, ...]]]:
    """(method, metric, mean, std, ci_low, ci_high, published) of every estimate; the content of table.csv."""
    for row in rows:
        for name, estimate in row.scores.items():
            yield row.method.name, name, *estimate


def check(methods: Sequence[MethodRuns], dataset: Dataset) -> None:
    """Refuses methods that share a name, or that were ranked on other rows than the data set's held-out ones."""
    names = [method.name for method in methods]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"expected methods with distinct names, found {', '.join(repeated)} more than once")
    item_th, user_h = item_of(heldout_targets(dataset)), dataset.held_user
    for method in methods:
        found = [(ranks.item, ranks.user) for ranks in method.ranks]
        if not all(np.array_equal(item, item_th) and np.array_equal(user, user_h) for item, user in found):
            raise ValueError(f"{method.name}: expected ranks of the held-out items of {dataset.name}, found others")


def _estimates(
    methods: Sequence[MethodRuns], columns: Sequence[Column], group_h: np.ndarray
) -> dict[tuple[str, str], Estimate]:
    """Every estimate by (method, column); those of the same rows and number of seeds share the bootstrap's draws."""
    populations: dict[tuple, list[tuple[tuple[str, str], np.ndarray]]] = {}
    for method, column in itertools.product(methods, columns):
        member = (method.name, column.name), values_of(method, column, group_h)
        populations.setdefault((column.split, column.group, len(method.seeds)), []).append(member)
    found = {}
    for members in populations.values():
        names, values = zip(*members, strict=True)
        without_rows = [Interval(None, None)] * len(names)
        intervals = mean_intervals(np.stack(values), resamples=RESAMPLES) if values[0].size else without_rows
        for name, values_su, interval in zip(names, values, intervals, strict=True):
            means = values_su.mean(axis=1) if values_su.size else []
            found[name] = _spread(means)._replace(low=interval.low, high=interval.high)
    return found


def _row(
    method: MethodRuns,
    dataset: Dataset,
    columns: Sequence[Column],
    estimates: Mapping[tuple[str, str], Estimate],
    floor: float | None,
) -> TableRow:
    known = published(dataset.name, method.name)
    scores = {
        column.name: estimates.get((method.name, column.name), Estimate())._replace(published=known.get(column.name))
        for column in columns
    }
    for name in list_metric_names(method.lists[0] if method.lists else {}, *CUTOFFS):
        scores[name] = _spread([lists.get(name) for lists in method.lists])
    scores[TIE_RATE] = _spread([_tie_rate(ranks) for ranks in method.ranks])
    scores[CONSTANT_RATE] = _spread([float(np.mean(ranks.constant)) for ranks in method.ranks])
    ndcg = scores[SELECTION_METRIC].mean
    return TableRow(
        method=method,
        block=order.block_of(method),
        scores=scores,
        nonfinite_users=_spread([float(np.count_nonzero(ranks.nonfinite)) for ranks in method.ranks]).mean or 0.0,
        below_popularity=floor is not None and ndcg is not None and ndcg < floor,
        megabytes=megabytes_of(method),
    )


def megabytes_of(method: MethodRuns) -> float | None:
    """10^6 bytes until the best round, mean over seeds: as its curve says, with what moved before the first round."""
    if method.megabytes_per_round is None or not method.seeds:
        return None
    if not any(method.curves):  # a single exchange
        return method.megabytes_per_round * float(np.mean(method.best_rounds))
    at_best = [
        next((point.megabytes for point in curve if point.round == best), method.megabytes_per_round * best)
        for curve, best in zip(method.curves, method.best_rounds, strict=True)
    ]
    return float(np.mean(at_best))


def _spread(value_s: Sequence[float | None] | np.ndarray) -> Estimate:
    """Mean and standard deviation over seeds of one number a seed; nothing where there is none."""
    if not len(value_s) or any(value is None for value in value_s):
        return Estimate()
    std = float(np.std(value_s, ddof=1)) if len(value_s) > 1 else None
    return Estimate(float(np.mean(value_s)), std)


def _tie_rate(ranks: Ranks) -> float | None:
    """Share of test rows whose item is tied with another candidate; None without test rows."""
    tied_h = np.asarray(ranks.tied[TEST])[np.asarray(ranks.item[TEST]) >= 0]
    return float(np.mean(tied_h > 1)) if tied_h.size else None
