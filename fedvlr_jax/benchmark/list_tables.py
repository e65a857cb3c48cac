"""Whole lists of every method, as tables of the report: what they show, and how popular it is beside histories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fedvlr_jax.benchmark.table import TableRow
from fedvlr_jax.benchmark.tables import blocks_of, short
from fedvlr_jax.evaluation.list_metrics import CALIBRATION, LIST_METRICS
from fedvlr_jax.evaluation.lists import NOVELTY
from fedvlr_jax.evaluation.metrics import MAIN_CUTOFF
from fedvlr_jax.report.tables import NOTHING, Table, percent

CALIBRATION_COLUMNS = ("method", "group", "users", "history", "list", "lift")


def list_tables(rows: Sequence[TableRow]) -> list[Table]:
    """The tables; none where no list was judged."""
    judged = [row for row in rows if row.method.lists]
    names = [f"{metric}@{MAIN_CUTOFF}" for metric in LIST_METRICS]
    names = [name for name in names if any(name in row.scores for row in judged)]
    if not names:
        return []

    def cells(row: TableRow) -> tuple[str, ...]:
        return (row.method.name, *(_cell(row, name) for name in names))

    about = (
        "The first items of every user, expected over the order of equal scores: share of all items that some list "
    )
    about += (
        "shows, Gini of exposures, share of users who know an item, self-information in bits, 1 - cosine within a "
    )
    about += "list. Percent but for novelty: mean ± standard deviation over seeds."
    heads = [f"{name} (bits)" if name.startswith(NOVELTY) else name for name in names]
    return [Table("Whole lists", about, ("method", *heads), blocks_of(judged, cells)), _calibration_table(judged)]


def calibration_rows(rows: Sequence[TableRow]) -> Iterator[tuple[str, str, int, float, float, float]]:
    """`CALIBRATION_COLUMNS` of every method and group, means over seeds; the content of calibration.csv."""
    for row in rows:
        for groups in zip(*(lists[CALIBRATION] for lists in row.method.lists), strict=True):
            means = (float(np.mean([group[name] for group in groups])) for name in CALIBRATION_COLUMNS[3:])
            yield row.method.name, groups[0]["group"], groups[0]["users"], *means


def _calibration_table(rows: Sequence[TableRow]) -> Table:
    first = rows[0].method.lists[0][CALIBRATION]
    lift = {(method, group): value for method, group, *_, value in calibration_rows(rows)}

    def cells(row: TableRow) -> tuple[str, ...]:
        return (row.method.name, *(percent(lift.get((row.method.name, group["group"]))) for group in first))

    columns = ("method", *(f"{group['group']} ({group['users']} users)" for group in first))
    known = ", ".join(f"{group['group']}: {percent(group['history'])}" for group in first)
    about = f"How much more popular the items of the list @{MAIN_CUTOFF} are than those of the history, percent, "
    about += f"by train rows of the user. Mean popularity of histories (share of users who know an item): {known}."
    return Table("Popularity of lists and histories", about, columns, blocks_of(rows, cells))


def _cell(row: TableRow, name: str) -> str:
    estimate = row.scores.get(name)
    if estimate is None or estimate.mean is None:
        return NOTHING
    if not name.startswith(NOVELTY):
        return short(estimate)
    return f"{estimate.mean:.2f}" + ("" if estimate.std is None else f" ± {estimate.std:.2f}")
