"""Held-out rows as flat arrays: user after user, several of a user where there are several."""

from __future__ import annotations

import numpy as np

from fedvlr_jax.types import Dataset

WAY_OUT = "label some rows as validation, or let prepare do it (split.by=ratio with split.valid above 0)"
"""What to do about a data set without validation rows."""


def place_rows(t: np.ndarray, user: np.ndarray, num_users: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Where held-out rows stand on the axis ``h`` of `types.Dataset`.

    Args:
      t: int [rows], 0 validation, 1 test.
      user: int [rows], their users; rows are sorted by (t, user).
      num_users: |U|.

    Returns:
      ``(at, held_user)``, int64 [rows], the place of each row, and `types.Dataset.held_user`.
    """
    group = t * num_users + user
    count_g = np.bincount(group, minlength=2 * num_users)
    width_u = np.maximum(count_g.reshape(2, num_users).max(axis=0), 1)
    start_u, before_g = np.cumsum(width_u) - width_u, np.cumsum(count_g) - count_g
    at = start_u[user] + np.arange(len(user)) - before_g[group]
    several = len(width_u) and width_u.max() > 1
    return at, np.repeat(np.arange(num_users, dtype=np.int32), width_u) if several else None


def held_users(dataset: Dataset) -> np.ndarray:
    """int32 [h], the user of each place for a held-out row."""
    return np.arange(dataset.num_users, dtype=np.int32) if dataset.held_user is None else dataset.held_user


def rows_a_user(dataset: Dataset) -> np.ndarray:
    """int64 [u], held-out rows of each user, both splits together."""
    held_h = (dataset.valid_item >= 0).astype(np.int64) + (dataset.test_item >= 0)
    return np.bincount(held_users(dataset), held_h, minlength=dataset.num_users).astype(np.int64)
