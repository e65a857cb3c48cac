"""Ragged histories as a few dense arrays, and what else the device needs of a data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fedvlr_jax.types import Bucket, ClientData, Dataset, HeldOut, Targets, content_of


class Histories(NamedTuple):
    """Every client's train items in CPU memory, and the bucket that each client belongs to.

    Attributes:
      item: int32 [rows], train items, client after client, ascending within one.
      start_u, length_u: int64 [u], where the items of each client begin, and how many there are.
      kind_u: int8 [u], the client's bucket; -1 for a client without items, who is in none.
      width_k, count_k: int64 [k], the longest history of each bucket, and its clients.
      num_items: |I|, the padding.
    """

    item: np.ndarray
    start_u: np.ndarray
    length_u: np.ndarray
    kind_u: np.ndarray
    width_k: np.ndarray
    count_k: np.ndarray
    num_items: int

    def padded(self, users: np.ndarray, width: int) -> np.ndarray:
        """int32 [c, width], the items of some clients, none of which has more, padded with ``num_items``."""
        slot_l, length_c1 = np.arange(width)[None], self.length_u[users][:, None]
        row_cl = np.minimum(self.start_u[users][:, None] + slot_l, len(self.item) - 1)
        return np.where(slot_l < length_c1, self.item[row_cl], self.num_items).astype(np.int32)


def make_histories(dataset: Dataset, *, min_length: int = 4, growth: float = 2.0, worth: int = 0) -> Histories:
    """Groups clients by history length, so that padding costs at most a factor `growth`, or `worth` slots a bucket.

    Bucket k holds the lengths in (w_{k-1}, w_k] with w_0 = `min_length` and w_k = ceil(growth w_{k-1}). Lengths up to
    `min_length` share the first bucket. Empty buckets are left out. Then a bucket joins the next wider one where
    that pads at most `worth` slots, the cheapest such pair first.

    Args:
      dataset: its train rows are sorted by (user, item).
      min_length: width up to which padding is not worth another bucket, at least 1.
      growth: ratio of neighbouring widths, above 1.
      worth: slots of padding that a bucket of its own must save, since every bucket is a part of every program and
        takes time to compile; 0 joins none.
    """
    if min_length < 1 or growth <= 1:
        raise ValueError(f"expected min_length >= 1 and growth > 1, found {min_length} and {growth}")
    length_u = np.bincount(dataset.train_user, minlength=dataset.num_users)
    kind_u, members, low, width = np.full(dataset.num_users, -1, np.int8), [], 0, min_length
    while low < length_u.max():
        inside_u = (low < length_u) & (length_u <= width)
        if inside_u.any():
            kind_u[inside_u] = len(members)
            members.append((length_u[inside_u].max(), np.count_nonzero(inside_u)))
        low, width = width, math.ceil(growth * width)
    width_k, count_k = np.array(members, np.int64).reshape(-1, 2).T
    kind_u, width_k, count_k = _join_cheap(kind_u, width_k, count_k, worth)
    start_u = np.cumsum(length_u) - length_u
    return Histories(dataset.train_item, start_u, length_u, kind_u, width_k, count_k, dataset.num_items)


def _join_cheap(
    kind_u: np.ndarray, width_k: np.ndarray, count_k: np.ndarray, worth: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The buckets after those that save at most `worth` slots have joined the next wider one."""
    while len(width_k) > 1:
        saved_k = count_k[:-1] * np.diff(width_k)
        k = int(saved_k.argmin())
        if saved_k[k] > worth:
            break
        kind_u = np.where(kind_u > k, kind_u - 1, kind_u)
        count_k = np.concatenate([count_k[:k], [count_k[k] + count_k[k + 1]], count_k[k + 2 :]])
        width_k = np.delete(width_k, k)
    return kind_u, width_k, count_k


def make_buckets(dataset: Dataset, **widths: Any) -> tuple[Bucket, ...]:
    """All clients in the buckets of `make_histories`, each as wide as its longest history.

    Args:
      dataset: its train rows are sorted by (user, item).
      widths: keywords of `make_histories`.

    Returns:
      Buckets of NumPy arrays by ascending width. Every user with a train row stands in exactly one slot, users ascend
      within a bucket, and a history is its user's train items in ascending order, then ``num_items``.
    """
    histories = make_histories(dataset, **widths)
    members = (np.flatnonzero(histories.kind_u == k) for k in range(len(histories.width_k)))
    pairs = zip(members, histories.width_k.tolist(), strict=True)
    return tuple(Bucket(user_c.astype(np.int32), histories.padded(user_c, width)) for user_c, width in pairs)


def merge_buckets(buckets: Sequence[Bucket], num_items: int, *, most: int = 1 << 24) -> tuple[Bucket, ...]:
    """All users in one bucket where that is small: compiling one program a bucket takes longer than running it.

    Args:
      buckets: at least one; NumPy or device arrays.
      num_items: |I|, the padding.
      most: slots of histories, padding included, up to which one bucket is small.
    """
    width = max(bucket.history.shape[1] for bucket in buckets)
    if len(buckets) == 1 or width * sum(bucket.user.shape[0] for bucket in buckets) > most:
        return tuple(buckets)
    padded = [
        np.pad(bucket.history, ((0, 0), (0, width - bucket.history.shape[1])), constant_values=num_items)
        for bucket in buckets
    ]
    return (Bucket(np.concatenate([bucket.user for bucket in buckets]), np.concatenate(padded)),)


def heldout_targets(dataset: Dataset) -> Targets:
    """The validation and test items of every user, as NumPy arrays."""
    item_th = np.stack([dataset.valid_item, dataset.test_item]).astype(np.int32)
    if dataset.held_user is None:
        return item_th
    width_u = np.bincount(dataset.held_user, minlength=dataset.num_users)
    start = np.concatenate([[0], np.cumsum(width_u), [width_u.sum()]]).astype(np.int32)
    return HeldOut(item_th, dataset.held_user, start, np.arange(width_u.max(), dtype=np.int32))


def make_client_data(dataset: Dataset, **widths: Any) -> ClientData:
    """Buckets (see `make_buckets`, with its keywords) and features as device arrays."""
    buckets = make_buckets(dataset, **widths)
    device = tuple(Bucket(jnp.asarray(b.user), jnp.asarray(b.history)) for b in buckets)
    return ClientData(device, content_of(dataset))
