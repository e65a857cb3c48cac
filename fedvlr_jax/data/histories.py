"""The train rows of a data set, client by client."""

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
