"""A mean of rows without those that push a row the hardest in the direction in which it is pushed.

Clients that agree on a plan for some items push the rows of these items together, however they hide it in their other
rows: their rows lie at the end of everybody's along the direction in which they pull. So rows are trimmed row by row,
along one direction each. Trimming coordinate by coordinate (`aggregation.make_trimmed_mean`) leaves out far more,
since in every coordinate others are at the ends.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedvlr_jax.federated.stacks import Stack, middle
from fedvlr_jax.models.model import Broadcast
from fedvlr_jax.types import Array

LARGE = 1e15
"""Numbers whose products might overflow are scaled by powers of two, or to 1."""

PASSES = 2
"""Times the direction of a row is found: the second time without what the first time leaves out."""


def trimmed_rows(stack: Stack, weight: Array, trim: float) -> Broadcast:
    """The mean of each row over the n clients that sent one, times their share of the weights.

    A client weighs alpha, or less where its row is longer: its weight times its norm is at most the median of these
    over the clients. The floor(trim n) at each end along the direction of the weighted sum are left out. The head
    counts as one more row. A row of zeros was not sent. Uploads that are all equal, or one client alone, give the
    weighted mean.

    Args:
      stack: of the round.
      weight: [], what a mean divides by.
      trim: share of the clients that is left out at each end, below a half.
    """
    present_s1 = (stack.alpha_s > 0)[:, None]
    inverse = jnp.where(weight > 0, 1 / jnp.where(weight > 0, weight, 1.0), 0.0)

    def weights(sent_si: Array, tree: dict[str, Array]) -> Array:
        """What the rows of every client count for, [s, i]."""
        leaves = jax.tree.leaves(tree)
        flat_sif = jnp.concatenate([x.reshape(*sent_si.shape, -1) for x in leaves], axis=2)
        return inverse * _weights(flat_sif, stack.alpha_s, sent_si, trim)

    rows, head = stack.uploads
    if jax.tree.leaves(rows):
        weight_si = weights(stack.touched_si & present_s1, rows)
        rows = jax.tree.map(lambda x: jnp.einsum("si,si...->i...", weight_si, x), rows)
    if jax.tree.leaves(head):
        weight_s = weights(present_s1, head)[:, 0]
        head = jax.tree.map(lambda x: jnp.tensordot(weight_s, x, axes=1), head)
    return Broadcast(rows, head)


def _weights(flat_sif: Array, alpha_s: Array, sent_si: Array, trim: float) -> Array:
    """What the rows count for, [s, i]: the bounded weights of those that are kept, scaled to the alpha of all that
    sent a row.
    """
    norm_si = _norm(flat_sif)
    sent_si = sent_si & (norm_si > 0)
    count_1i = jnp.sum(sent_si, axis=0, keepdims=True)
    alpha_si = jnp.where(sent_si, alpha_s[:, None], 0.0)
    excess_si = alpha_si * norm_si / _median(jnp.where(sent_si, alpha_si * norm_si, jnp.inf), count_1i)
    weight_si = jnp.where(jnp.isfinite(norm_si), alpha_si / jnp.maximum(excess_si, 1.0), 0.0)
    # The product is computed in float32 here and may fall below a whole number that it equals exactly.
    cut_1i = jnp.floor(trim * count_1i + 1e-4).astype(count_1i.dtype)
    kept_si = weight_si
    for _ in range(PASSES):
        sum_if = jnp.einsum("si,sif->if", kept_si, flat_sif)
        largest_i1 = jnp.max(jnp.abs(sum_if), axis=1, keepdims=True)
        sum_if = sum_if * jnp.where(largest_i1 > LARGE, 2.0**-20 / largest_i1, 1.0)  # its direction is what counts
        along_si = weight_si * jnp.einsum("if,sif->si", sum_if, flat_sif)
        rank_si = jnp.argsort(jnp.argsort(jnp.where(sent_si, along_si, jnp.inf), axis=0), axis=0)
        kept_si = jnp.where((rank_si >= cut_1i) & (rank_si < count_1i - cut_1i), weight_si, 0.0)
    all_1i, kept_1i = (jnp.sum(x, axis=0, keepdims=True) for x in (alpha_si, kept_si))
    return kept_si * all_1i / jnp.where(kept_1i > 0, kept_1i, 1.0)


def _norm(x_sif: Array) -> Array:
    """L2 norms [s, i] whose squares do not overflow; infinite only where a norm itself is too large."""
    largest_si1 = jnp.max(jnp.abs(x_sif), axis=2, keepdims=True)
    scale_si1 = jnp.where(largest_si1 > LARGE, 2.0**-80, 1.0)
    return jnp.linalg.norm(x_sif * scale_si1, axis=2) / scale_si1[..., 0]


def _median(x_si: Array, count_1i: Array) -> Array:
    """The median over the `count_1i` clients that sent a row, the others being infinite; infinite without any."""
    ordered_si = jnp.sort(x_si, axis=0)
    low_1i, high_1i = (
        jnp.take_along_axis(ordered_si, jnp.maximum(k, 0), axis=0) for k in ((count_1i - 1) // 2, count_1i // 2)
    )
    return middle(low_1i, high_1i)
