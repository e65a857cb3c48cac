"""The train rows of a data set, client by client, and where what they say of pairs of items is added."""

from __future__ import annotations

import numpy as np

from fedvlr_jax.types import Dataset


def split_by_user(dataset: Dataset, values: np.ndarray) -> list[np.ndarray]:
    """The entries of `values` of each user, possibly none.

    Args:
      dataset: its train rows are sorted by user.
      values: [rows, ...], one entry for each train row, such as ``dataset.train_item``.
    """
    ends = np.cumsum(np.bincount(dataset.train_user, minlength=dataset.num_users))
    return np.split(values, ends[:-1])


def places_of(ids_n: np.ndarray, num_items: int) -> np.ndarray:
    """int64 [n n], where a block lies in a matrix [i, i] whose rows follow each other."""
    return (ids_n[:, None].astype(np.int64) * num_items + ids_n).reshape(-1)


def add_at(total_ii: np.ndarray, at_m: np.ndarray, block: np.ndarray | float) -> None:
    """Adds a client's block [n, n], or one number, in place; one flat index is twice as fast as two."""
    total_ii.reshape(-1)[at_m] += block if isinstance(block, float) else block.reshape(-1)
