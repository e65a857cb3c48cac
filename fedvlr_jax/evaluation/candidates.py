"""Scores as candidates for a ranking: integers in the order of the scores, the train history left out.

Scores are compared as float32 bit patterns. A floating-point comparison inside XLA flushes subnormal
numbers to zero on some backends, which would tie scores that differ. A score that is not finite (NaN, +inf or
-inf) counts as -inf, so that a diverged model cannot win.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.types import Array, BlockScore, PyTree

EXCLUDED = np.iinfo(np.int32).min
"""Below every key of `order_key`, so an item of the history is never greater nor tied."""

INFINITY = np.int32(0x7F800000)
"""Bits of +inf; every finite magnitude has smaller bits."""


def block_keys(score: BlockScore, params: PyTree, ready: PyTree, k: Array) -> tuple[Array, Array, Array]:
    """Block k of the items: its first item, how many of its items an earlier block had, and keys [c, b]."""
    first = jnp.minimum(k * score.size, score.num_items - score.size)
    return first, k * score.size - first, order_key(float32_scores(score.score(params, ready, first)))


def block_candidates(history_cl: Array, first: Array, old: Array, key_cb: Array) -> Array:
    """The keys of a block with the history, and what an earlier block had, excluded."""
    size = key_cb.shape[1]
    at_cl = jnp.where(history_cl < first, size, history_cl - first)
    return without_history(jnp.where((jnp.arange(size) < old)[None], EXCLUDED, key_cb), at_cl)


def without_history(key_cb: Array, at_cl: Array) -> Array:
    """Keys with the columns `at_cl` of each row excluded; columns beyond the last are padding."""
    row_c1 = jnp.arange(key_cb.shape[0])[:, None]
    return key_cb.at[row_c1, at_cl].set(EXCLUDED, mode="drop")


def float32_scores(scores: Array) -> Array:
    """The scores as they are; a wider type would gain ties in a conversion.

    Raises:
      TypeError: if they are not float32.
    """
    if scores.dtype != jnp.float32:
        raise TypeError(f"scores must be float32 [c, i], found {scores.dtype} {scores.shape}")
    return scores


def order_key(scores_ci: Array) -> Array:
    """Integers ordered exactly as the finite float32 scores, 0.0 equal to -0.0; not finite is -inf."""
    bits_ci = jax.lax.bitcast_convert_type(scores_ci, jnp.int32)
    magnitude_ci = bits_ci & np.int32(0x7FFFFFFF)
    key_ci = jnp.where(bits_ci < 0, -magnitude_ci, magnitude_ci)
    return jnp.where(magnitude_ci >= INFINITY, -INFINITY, key_ci)


def key_score(key: Array) -> Array:
    """The float32 scores that `order_key` made these keys of."""
    sign = jnp.where(key < 0, np.int32(-(2**31)), 0)
    return jax.lax.bitcast_convert_type(jnp.abs(key) | sign, jnp.float32)
