"""Groups of held-out rows: warm and cold items, length of the user's history, popularity of the item.

A grouping labels the rows of one split: the users with a held-out item, in user order, as
`metrics.row_values` and `metrics.seed_values` list them. Every row belongs to exactly one group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fedvlr_jax.evaluation.metrics import warm_items
from fedvlr_jax.types import Dataset

HISTORY_LIMITS = (10, 20, 50, 100, 200, 500)  # largest length of each group but the last; figure 2 of the paper
DECILES = 10


class Grouping(NamedTuple):
    """``names`` of the groups, some possibly without rows, and ``group_u``, int64 [u], the group of each row."""

    names: tuple[str, ...]
    group_u: np.ndarray


class GroupMean(NamedTuple):
    """The number of rows of one group, and their mean over rows and seeds (None without rows)."""

    name: str
    rows: int
    mean: float | None


def by_warmth(dataset: Dataset, item_u: np.ndarray) -> Grouping:
    """Whether the held-out item occurs in train ("warm") or not ("cold").

    Args:
      dataset: its train rows are read.
      item_u: int [u], the held-out item of each user, -1 where there is none (``ranks.item[split]``).
    """
    cold_i = ~warm_items(dataset.train_item, dataset.num_items)
    return Grouping(("warm", "cold"), cold_i[_held(item_u)].astype(np.int64))


def by_history(dataset: Dataset, item_u: np.ndarray) -> Grouping:
    """The length of the user's train history, 0-10, 11-20, ..., 201-500, >500. Args: as `by_warmth`."""
    starts = [0, *(limit + 1 for limit in HISTORY_LIMITS)]
    names = [f"{start}-{end}" for start, end in zip(starts[:-1], HISTORY_LIMITS, strict=True)]
    length_u = np.bincount(dataset.train_user, minlength=dataset.num_users)
    group_u = np.searchsorted(HISTORY_LIMITS, length_u)  # of all users
    return Grouping((*names, f">{HISTORY_LIMITS[-1]}"), group_u[np.asarray(item_u) >= 0])


def by_popularity(dataset: Dataset, item_u: np.ndarray) -> Grouping:
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
    return Grouping(tuple(names), decile_v[block_i][_held(item_u)])


GROUPINGS: dict[str, Callable[[Dataset, np.ndarray], Grouping]] = {
    "warmth": by_warmth,
    "history": by_history,
    "popularity": by_popularity,
}


def group_means(values_su: np.ndarray, grouping: Grouping) -> list[GroupMean]:
    """Mean and number of rows of every group, in the order of its names.

    Args:
      values_su: [s, u], a metric of every row under every seed (`metrics.seed_values`).
      grouping: of the same rows.

    Raises:
      ValueError: if the number of rows differs.
    """
    if values_su.ndim != 2 or values_su.shape[1] != grouping.group_u.size:
        raise ValueError(f"expected values [s, {grouping.group_u.size}] as the grouping, found {values_su.shape}")
    found = []
    for group, name in enumerate(grouping.names):
        inside_u = grouping.group_u == group
        rows = int(inside_u.sum())
        found.append(GroupMean(name, rows, float(values_su[:, inside_u].mean()) if rows else None))
    return found


def _held(item_u: np.ndarray) -> np.ndarray:
    """The held-out items of the users who have one."""
    item_u = np.asarray(item_u)
    return item_u[item_u >= 0]
