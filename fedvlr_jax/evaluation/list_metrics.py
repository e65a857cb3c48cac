"""What the lists of all users say together: coverage, Gini, means, and popularity beside histories (NumPy)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedvlr_jax.evaluation.groups import history_groups
from fedvlr_jax.evaluation.lists import DIVERSITY, NOVELTY, POPULARITY, Lists
from fedvlr_jax.evaluation.metrics import CUTOFFS
from fedvlr_jax.types import Dataset

COVERAGE, GINI = "Coverage", "Gini"
LIST_METRICS = (COVERAGE, GINI, POPULARITY, NOVELTY, *DIVERSITY.values())
"""In the order of tables. All are fractions but for novelty, which is in bits."""

CALIBRATION = "calibration"


def summarise_lists(lists: Lists, dataset: Dataset) -> dict[str, Any]:
    """All metrics of lists.

    Args:
      lists: of all users of the data set.
      dataset: its train rows are read.

    Returns:
      ``{"Coverage@10": ..., "Gini@10": ..., ..., "calibration": [...]}`` for all `CUTOFFS`; None where no user has a
      value. Coverage is the expected share of all items that some list shows. Gini is that of the expected exposures
      of all items: 0 where all are shown equally often, near 1 where few are shown. The others are means over users.
      ``calibration`` has the groups of `history_calibration` at the largest cut-off.
    """
    exposure_ki, missed_ki = (np.asarray(x_ki, np.float64) for x_ki in (lists.exposure_ki, lists.missed_ki))
    found: dict[str, Any] = {}
    for k, cutoff in enumerate(CUTOFFS):
        found[f"{COVERAGE}@{cutoff}"] = float(-np.expm1(missed_ki[k]).mean())
        found[f"{GINI}@{cutoff}"] = gini(exposure_ki[k])
        found |= {f"{name}@{cutoff}": _mean(np.asarray(x_uk)[:, k]) for name, x_uk in lists.values.items()}
    return found | {CALIBRATION: history_calibration(np.asarray(lists.values[POPULARITY])[:, -1], dataset)}


def gini(amount: np.ndarray) -> float | None:
    """The Gini coefficient of amounts >= 0, [n]: 0 if all are equal, 1 - 1/n if one has all; None if all are 0.

    It is half the mean absolute difference of two amounts, over their mean.

    >>> gini(np.array([1, 1, 1])), gini(np.array([0, 0, 0, 8]))
    (0.0, 0.75)
    """
    ordered = np.sort(np.asarray(amount, np.float64))
    n, total = ordered.size, ordered.sum()
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total)) if total else None


def history_calibration(popularity_u: np.ndarray, dataset: Dataset) -> list[dict[str, Any]]:
    """How far lists are from the histories of their users in popularity, by the length of the history.

    Args:
      popularity_u: float [u], the mean popularity of each user's list; NaN for a user without one.
      dataset: its train rows are read.

    Returns:
      For every group with users and in the order of `groups.HISTORY_LIMITS`: ``group``, ``users``, ``history`` and
      ``list``, means over users of the mean popularity (share of users who have the item in train) of the items of
      the history and of the list, and ``lift``, ``list / history - 1``: above 0 where the model shows the group more
      popular items than it chose (Abdollahpouri et al., "The unfairness of popularity bias in recommendation", 2019).
    """
    popularity_i = np.bincount(dataset.train_item, minlength=dataset.num_items) / dataset.num_users
    length_u = np.bincount(dataset.train_user, minlength=dataset.num_users)
    total_u = np.bincount(dataset.train_user, popularity_i[dataset.train_item], minlength=dataset.num_users)
    has_both_u = (length_u > 0) & np.isfinite(popularity_u)
    names, group_u = history_groups(length_u)
    rows = []
    for group, name in enumerate(names):
        inside_u = has_both_u & (group_u == group)
        if inside_u.any():
            history = float((total_u[inside_u] / length_u[inside_u]).mean())
            shown = float(popularity_u[inside_u].mean(dtype=np.float64))
            values = {"history": history, "list": shown, "lift": shown / history - 1}
            rows.append({"group": name, "users": int(inside_u.sum()), **values})
    return rows


def list_metric_names(lists: dict[str, Any], *cutoffs: int) -> tuple[str, ...]:
    """Those of `LIST_METRICS` that a summary has at these cut-offs, such as "Coverage@50"."""
    return tuple(name for k in cutoffs for metric in LIST_METRICS if (name := f"{metric}@{k}") in lists)


def _mean(values_u: Sequence[float] | np.ndarray) -> float | None:
    """The mean over the users who have a value; None without any."""
    finite = np.asarray(values_u, np.float64)
    finite = finite[np.isfinite(finite)]
    return float(finite.mean()) if finite.size else None
