"""Robust means of whole uploads: they look at distances between clients, not at one coordinate at a time.

A row that a client did not send counts as zeros here, as it does in a mean.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fedvlr_jax.federated.stacks import Stack, middle
from fedvlr_jax.models.model import Broadcast
from fedvlr_jax.types import Array

ITERATIONS = 64
"""Steps of Weiszfeld's algorithm."""

SMOOTHING = 1e-9
"""Distances below this share of the largest norm count as this (Pillutla et al. 2022)."""

SAME = 1e-5
"""Uploads with 1 - cosine below this count as the same."""


def select_by_neighbours(stack: Stack, weight: Array, byzantine: float, *, keep_one: bool) -> Broadcast:
    """Krum and multi-Krum (Blanchard et al., NeurIPS 2017).

    Of n clients, f = floor(byzantine n) may send anything. A client's score is the sum of squared distances to the
    n - f - 2 (at least one) nearest others. The best one is kept, or the n - f best: their mean weighted by alpha,
    times the share of all clients' weights.

    Args:
      stack: of the round.
      weight: [], what a mean divides by.
      byzantine: share of clients that may send anything, below a half.
      keep_one: Krum; else multi-Krum.
    """
    present_s = stack.alpha_s > 0
    count = jnp.sum(present_s)
    # The product is computed in float32 here and may fall below a whole number that it equals exactly.
    bad = jnp.floor(byzantine * count + 1e-4).astype(count.dtype)
    squared_ss = jax.lax.map(lambda one: _squared_distance_s(stack.uploads, one), stack.uploads)
    others_ss = present_s[None] & ~jnp.eye(present_s.size, dtype=bool)
    nearest_ss = jnp.sort(jnp.where(others_ss, squared_ss, jnp.inf), axis=1)
    counted_s = jnp.arange(present_s.size) < jnp.clip(count - bad - 2, 1, jnp.maximum(count - 1, 0))
    score_s = jnp.sum(jnp.where(counted_s[None], nearest_ss, 0.0), axis=1)
    place_s = jnp.argsort(jnp.argsort(jnp.where(present_s, score_s, jnp.inf)))
    kept_s = present_s & (place_s < (1 if keep_one else count - bad))
    return _scaled_mean(stack, weight, jnp.where(kept_s, stack.alpha_s, 0.0))


def geometric_median(stack: Stack, weight: Array) -> Broadcast:
    """The z with the least sum_s alpha_s ||z - upload_s||, by smoothed Weiszfeld steps from zero (Pillutla et al.,
    IEEE Transactions on Signal Processing 2022), times the share of all clients' weights.

    Args:
      stack: of the round.
      weight: [], what a mean divides by.
    """
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), stack.uploads)
    norm_s = jnp.sqrt(_squared_distance_s(stack.uploads, zero))
    least = SMOOTHING * jnp.max(jnp.where(jnp.isfinite(norm_s), norm_s, 0.0)) + jnp.finfo(norm_s.dtype).tiny

    def weights_at(z: Broadcast) -> Array:
        distance_s = jnp.sqrt(_squared_distance_s(stack.uploads, z))
        return stack.alpha_s / jnp.maximum(distance_s, least) * least

    def step(_: Any, z: Broadcast) -> Broadcast:
        return _mean(stack, weights_at(z))

    z = jax.lax.fori_loop(0, ITERATIONS, step, zero)
    return _scaled_mean(stack, weight, weights_at(z))


def norm_bound(stack: Stack, weight: Array) -> Broadcast:
    """The weighted mean of the uploads scaled down to the median of their norms (Sun et al. 2019, with a bound that
    the round gives itself): whoever sends more counts for as much as half of the clients send at most.

    Args:
      stack: of the round.
      weight: [], what a mean divides by.
    """
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), stack.uploads)
    present_s = stack.alpha_s > 0
    norm_s = jnp.where(present_s, jnp.sqrt(_squared_distance_s(stack.uploads, zero)), jnp.inf)
    count, ordered_s = jnp.sum(present_s), jnp.sort(norm_s)
    low, high = (ordered_s[jnp.maximum(k, 0)] for k in ((count - 1) // 2, count // 2))
    bound = jnp.where(count > 0, middle(low, high), 0.0)
    factor_s = jnp.where(norm_s > bound, bound / jnp.where(norm_s > bound, norm_s, 1.0), 1.0)
    share_s = jnp.where(weight > 0, stack.alpha_s * factor_s / jnp.where(weight > 0, weight, 1.0), 0.0)
    return jax.tree.map(lambda x: jnp.tensordot(share_s, x, axes=1), stack.uploads)


def unlike_each_other(stack: Stack, weight: Array) -> Broadcast:
    """The mean in which a client weighs less the more its upload is like that of somebody else.

    FoolsGold (Fung, Yoon and Beschastnikh, RAID 2020), of one round alone: clients that follow a common plan send
    uploads that point the same way, honest ones have tastes of their own. A client's weight alpha is multiplied by
    1 - max over others of the cosine, scaled so that the largest factor is 1; of two clients, the one with the
    smaller maximum is pardoned: its cosine with the other is reduced by the ratio of the maxima. The mean is times
    the share of all clients' weights. Where all uploads are the same, or there is one, it is the weighted mean.

    Args:
      stack: of the round.
      weight: [], what a mean divides by.
    """
    present_s = stack.alpha_s > 0
    flat_sf = jnp.concatenate([x.reshape(x.shape[0], -1) for x in jax.tree.leaves(stack.uploads)], axis=1)
    scale_s1 = jnp.max(jnp.abs(flat_sf), axis=1, keepdims=True)  # no square overflows
    flat_sf = flat_sf / jnp.where(scale_s1 > 0, scale_s1, 1.0)
    norm_s1 = jnp.linalg.norm(flat_sf, axis=1, keepdims=True)
    unit_sf = flat_sf / jnp.where(norm_s1 > 0, norm_s1, 1.0)
    others_ss = present_s[None] & present_s[:, None] & ~jnp.eye(present_s.size, dtype=bool)
    cosine_ss = jnp.where(others_ss, jnp.clip(unit_sf @ unit_sf.T, 0.0, 1.0), 0.0)
    likest_s = jnp.max(cosine_ss, axis=1)
    pardon_ss = likest_s[:, None] / jnp.maximum(likest_s[None], 1e-12)
    factor_s = jnp.where(present_s, 1 - jnp.max(cosine_ss * jnp.minimum(pardon_ss, 1.0), axis=1), 0.0)
    largest = jnp.max(factor_s)
    factor_s = jnp.where(largest > SAME, factor_s / jnp.where(largest > SAME, largest, 1.0), 1.0)
    return _scaled_mean(stack, weight, stack.alpha_s * jnp.where(factor_s > SAME, factor_s, 0.0))


def _scaled_mean(stack: Stack, weight: Array, weight_s: Array) -> Broadcast:
    """The mean of the uploads with these weights, times sum_s alpha_s / weight; zeros with weight 0."""
    share = jnp.where(weight > 0, jnp.sum(stack.alpha_s) / jnp.where(weight > 0, weight, 1.0), 0.0)
    return jax.tree.map(lambda x: share * x, _mean(stack, weight_s))


def _mean(stack: Stack, weight_s: Array) -> Broadcast:
    share_s = weight_s / jnp.maximum(jnp.sum(weight_s), jnp.finfo(weight_s.dtype).tiny)
    return jax.tree.map(lambda x: jnp.tensordot(share_s, x, axes=1), stack.uploads)


def _squared_distance_s(uploads: Broadcast, one: Broadcast) -> Array:
    """||upload_s - one||^2 of every slot, [s]."""
    differences = jax.tree.map(lambda x, y: jnp.square(x - y[None]).reshape(x.shape[0], -1), uploads, one)
    return sum((jnp.sum(x, axis=1) for x in jax.tree.leaves(differences)), jnp.zeros(()))
