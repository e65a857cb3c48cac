"""Sizes of a set of interactions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedvlr_jax.data.prepare.rows import Rows


class Sizes(NamedTuple):
    """Users and items with at least one row, and rows."""

    users: int
    items: int
    rows: int


def sizes(rows: Rows) -> Sizes:
    """The sizes of any rows."""
    users, items = (int(np.count_nonzero(np.bincount(code))) for code in (rows.user, rows.item))
    return Sizes(users, items, len(rows.user))


def sparsity(users: int, items: int, rows: int) -> float:
    """The percentage of (user, item) pairs without a row."""
    return 100 * (1 - rows / (users * items)) if users and items else 100.0


def statistics(rows: Rows, label: np.ndarray) -> dict[str, float | int]:
    """What a table of data sets has: sizes, sparsity in percent, rows a user, and the rows of each split.

    Args:
      rows: at least one.
      label: int8 [rows], the split of each.
    """
    users, items, total = sizes(rows)
    count = np.bincount(rows.user)
    split = np.bincount(label, minlength=3).tolist()
    return {
        "users": users,
        "items": items,
        "ratings": total,
        "sparsity_percent": round(sparsity(users, items, total), 4),
        "rows_a_user_mean": round(total / users, 4) if users else 0.0,
        "rows_a_user_median": float(np.median(count[count > 0])) if total else 0.0,
        "train_rows": split[0],
        "validation_rows": split[1],
        "test_rows": split[2],
    }
