"""What a baseline is, and the two ways in which baselines score: one row for everybody, or item to item."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.types import Array, Bucket, Dataset, PyTree


class Baseline(NamedTuple):
    """A centralised model without a training loop.

    Attributes:
      fit: ``fit(dataset, **hyper) -> params``; reads the train rows only, computes in float64.
      score: ``score(params, chunk) -> s_ci``, float32 scores of all items, jit-able.
      grid: the hyper-parameters to choose from on validation, the simplest first.
    """

    fit: Callable[..., PyTree]
    score: Callable[[PyTree, Bucket], Array]
    grid: tuple[dict[str, Any], ...]


def score_for_all(score_i: Array, chunk: Bucket) -> Array:
    """The same score of an item for every user: ``score_i`` [i] -> [c, i]."""
    return jnp.broadcast_to(score_i[None], (chunk.user.shape[0], score_i.shape[0]))


def score_item_to_item(weight_hpi: Array, chunk: Bucket) -> Array:
    """s = R S: sum of the rows of S that stand in a user's history, for S as `exact_parts` gives it -> [c, i]."""
    num_items, num_parts, _ = weight_hpi.shape
    row_c1 = jnp.arange(chunk.user.shape[0])[:, None]
    empty_ch = jnp.zeros((chunk.user.shape[0], num_items), jnp.float32)
    history_ch = empty_ch.at[row_c1, chunk.history].set(1.0, mode="drop")
    flat_hx = weight_hpi.reshape(num_items, num_parts * num_items)
    sum_cx = jnp.matmul(history_ch, flat_hx, precision=jax.lax.Precision.HIGHEST)
    return sum_cx.reshape(-1, num_parts, num_items).sum(axis=1)


def exact_parts(weight_hi: np.ndarray) -> Array:
    """Split item-to-item weights S so that float32 sums of its rows do not depend on their order.

    Float32 sums of the same numbers in another order differ in the last bit, which would break ties at random,
    and differently for another bucket or chunk. Here S is the sum of a coarse and a fine part, each a multiple of
    a power of two so large that every sum of rows is an integer multiple below 2^24, which float32 holds exactly.

    Args:
      weight_hi: float64 [i, i], row = item of the history, column = scored item.

    Returns:
      float32 [i, p, i] with p = (coarse, fine). The sum of the parts is S up to num_items 2^-46 times the
      largest column sum of |S|.
    """
    coarse_hi = _round(weight_hi)
    parts_hpi = np.empty((len(weight_hi), 2, len(weight_hi)), np.float32)
    parts_hpi[:, 0] = coarse_hi
    parts_hpi[:, 1] = _round(np.subtract(weight_hi, coarse_hi, out=coarse_hi))
    return jnp.asarray(parts_hpi)


def _round(weight_hi: np.ndarray) -> np.ndarray:
    """The nearest multiples of the smallest power of two for which no sum of rows can exceed 2^24 multiples."""
    bound = np.abs(weight_hi).sum(axis=0).max()
    unit = 2.0 ** (np.ceil(np.log2(bound)) - 23) if bound else 1.0
    multiple_hi = weight_hi / unit
    np.rint(multiple_hi, out=multiple_hi)
    multiple_hi *= unit
    return multiple_hi


def train_counts(dataset: Dataset) -> np.ndarray:
    """int64 [i], train rows of each item."""
    return np.bincount(dataset.train_item, minlength=dataset.num_items)


def train_matrix(dataset: Dataset) -> np.ndarray:
    """R, float32 [u, i]: 1 for the train rows. Its Gram matrices are exact (counts below 2^24)."""
    matrix_ui = np.zeros((dataset.num_users, dataset.num_items), np.float32)
    matrix_ui[dataset.train_user, dataset.train_item] = 1
    return matrix_ui
