"""Groups of held-out rows: warm and cold items, length of the user's history, popularity of the item.

A grouping labels the held-out rows of one split, in the order of users, as `metrics.row_values` and
`metrics.seed_values` list them. Every row belongs to exactly one group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fedvlr_jax.evaluation.metrics import user_means, warm_items
from fedvlr_jax.types import Dataset

HISTORY_LIMITS = (10, 20, 50, 100, 200, 500)  # largest length of each group but the last; figure 2 of the paper
DECILES = 10


class Grouping(NamedTuple):
    """Attributes:
    names: of the groups, some possibly without rows.
    group_h: int64 [rows], the group of each row.
    user_h: int [rows], the user of each row, ascending.
    """

    names: tuple[str, ...]
    group_h: np.ndarray
    user_h: np.ndarray


class GroupMean(NamedTuple):
    """The number of rows of one group, and their mean over a user's rows, users and seeds (None without rows)."""

    name: str
    rows: int
    mean: float | None


def by_warmth(dataset: Dataset, item_h: np.ndarray) -> Grouping:
    """Whether the held-out item occurs in train ("warm") or not ("cold").

    Args:
      dataset: its train rows are read.
      item_h: int [h], the held-out items of a split, -1 where there is none (``ranks.item[split]``).
    """
    cold_i = ~warm_items(dataset.train_item, dataset.num_items)
    item, user = _rows(dataset, item_h)
    return Grouping(("warm", "cold"), cold_i[item].astype(np.int64), user)


def by_history(dataset: Dataset, item_h: np.ndarray) -> Grouping:
    """The length of the user's train history, 0-10, 11-20, ..., 201-500, >500. Args: as `by_warmth`."""
    length_u = np.bincount(dataset.train_user, minlength=dataset.num_users)
    names, group_u = history_groups(length_u)
    _, user = _rows(dataset, item_h)
    return Grouping(names, group_u[user], user)


def history_groups(length_u: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the groups 0-10, 11-20, ..., >500, and int64 [u], the group of each history length."""
    starts = [0, *(limit + 1 for limit in HISTORY_LIMITS)]
    names = [f"{start}-{end}" for start, end in zip(starts[:-1], HISTORY_LIMITS, strict=True)]
    return (*names, f">{HISTORY_LIMITS[-1]}"), np.searchsorted(HISTORY_LIMITS, length_u)


def by_popularity(dataset: Dataset, item_h: np.ndarray) -> Grouping:
    """The popularity decile of the held-out item. Args: as `by_warmth`.

    All items of the catalogue are ordered by their train count; decile 1 holds the least popular tenth of *items*
    (not of rows: most rows of a long-tailed set are in the last deciles). Items with equal counts stay together, in
    the decile of the middle of their block, so that deciles hold a tenth of the items only roughly and some may be
    empty. The names give the counts.
    """
    count_i = np.bincount(dataset.train_item, minlength=dataset.num_items)
    value_v, block_i, size_v = np.unique(count_i, return_inverse=True, return_counts=True)
    middle_v = (np.cumsum(size_v) - size_v / 2) / dataset.num_items
    decile_v = np.floor(DECILES * middle_v).astype(np.int64)
    names = []
    for decile in range(DECILES):
        inside = value_v[decile_v == decile]
        counts = f"{inside[0]}-{inside[-1]} train rows" if inside.size else "no items"
        names.append(f"decile {decile + 1}: {counts}")
    item, user = _rows(dataset, item_h)
    return Grouping(tuple(names), decile_v[block_i][item], user)


GROUPINGS: dict[str, Callable[[Dataset, np.ndarray], Grouping]] = {
    "warmth": by_warmth,
    "history": by_history,
    "popularity": by_popularity,
}


def group_means(values_sh: np.ndarray, grouping: Grouping) -> list[GroupMean]:
    """Mean and number of rows of every group, in the order of its names.

    Args:
      values_sh: [s, rows], a metric of every row under every seed (`metrics.seed_values`).
      grouping: of the same rows.

    Raises:
      ValueError: if the number of rows differs.
    """
    if values_sh.ndim != 2 or values_sh.shape[1] != grouping.group_h.size:
        raise ValueError(f"expected values [s, {grouping.group_h.size}] as the grouping, found {values_sh.shape}")
    found = []
    for group, name in enumerate(grouping.names):
        inside_h = grouping.group_h == group
        rows, values_su = int(inside_h.sum()), user_means(values_sh[:, inside_h], grouping.user_h[inside_h])
        found.append(GroupMean(name, rows, float(values_su.mean()) if rows else None))
    return found


def _rows(dataset: Dataset, item_h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The held-out rows: their items and their users."""
    item_h = np.asarray(item_h)
    place = np.flatnonzero(item_h >= 0)
    return item_h[place], place if dataset.held_user is None else dataset.held_user[place]
