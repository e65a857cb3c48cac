"""Ragged histories as a few dense arrays, and what else the device needs of a data set."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from fedvlr_jax.types import Bucket, ClientData, Content, Dataset


def make_buckets(dataset: Dataset, *, min_length: int = 4, growth: float = 2.0) -> tuple[Bucket, ...]:
    """Groups clients by history length, so that padding costs at most a factor `growth`.

    Bucket k holds the lengths in (w_{k-1}, w_k] with w_0 = `min_length` and w_k = ceil(growth w_{k-1}); its arrays
    are as wide as its longest history. Lengths up to `min_length` share the first bucket. Empty buckets are left out.

    Args:
      dataset: its train rows are sorted by (user, item).
      min_length: width up to which padding is not worth another bucket, at least 1.
      growth: ratio of neighbouring widths, above 1.

    Returns:
      Buckets of NumPy arrays by ascending width. Every user stands in exactly one slot, users ascend within a
      bucket, and a history is its user's train items in ascending order, then ``num_items``.
    """
    if min_length < 1 or growth <= 1:
        raise ValueError(f"expected min_length >= 1 and growth > 1, found {min_length} and {growth}")
    length_u = np.bincount(dataset.train_user, minlength=dataset.num_users)
    start_u = np.cumsum(length_u) - length_u
    buckets, low, width = [], 0, min_length
    while low < length_u.max():
        user_c = np.flatnonzero((low < length_u) & (length_u <= width))
        if user_c.size:
            history_cl = _histories(dataset, start_u[user_c], length_u[user_c])
            buckets.append(Bucket(user_c.astype(np.int32), history_cl))
        low, width = width, math.ceil(growth * width)
    return tuple(buckets)


def _histories(dataset: Dataset, start_c: np.ndarray, length_c: np.ndarray) -> np.ndarray:
    """int32 [c, l], the train rows from each start on, padded with ``num_items``."""
    slot_l = np.arange(length_c.max())[None]
    row_cl = np.minimum(start_c[:, None] + slot_l, len(dataset.train_item) - 1)
    return np.where(slot_l < length_c[:, None], dataset.train_item[row_cl], dataset.num_items).astype(np.int32)


def heldout_targets(dataset: Dataset) -> np.ndarray:
    """int32 [t, u], the validation and the test item of every user, -1 where a user has none."""
    return np.stack([dataset.valid_item, dataset.test_item]).astype(np.int32)


def make_client_data(dataset: Dataset, *, min_length: int = 4, growth: float = 2.0) -> ClientData:
    """Buckets (see `make_buckets`) and features as device arrays."""
    buckets = make_buckets(dataset, min_length=min_length, growth=growth)
    content = Content(*(None if x is None else jnp.asarray(x) for x in (dataset.V, dataset.C)))
    return ClientData(tuple(Bucket(jnp.asarray(b.user), jnp.asarray(b.history)) for b in buckets), content)
