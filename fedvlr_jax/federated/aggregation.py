"""Aggregators: how the uploads of a round become one mean cotangent of the broadcast.

To add an aggregator: a factory ``make(**options) -> Aggregator`` and a row in ``AGGREGATORS``. The tests over that
table judge it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedvlr_jax.federated import robust
from fedvlr_jax.federated.stacks import Stack, add_to_stack, empty_stack, merge_stacks, middle
from fedvlr_jax.federated.trimmed_rows import trimmed_rows
from fedvlr_jax.models.model import Broadcast, Upload
from fedvlr_jax.types import Array, PyTree


class Aggregator(NamedTuple):
    """One way to join uploads, as pure functions; uploads come in chunks of clients, leaves [c, ...].

    Attributes:
      init: ``(broadcast, num_slots) -> carry`` before the first chunk; at most `num_slots` clients will come.
      add: ``(carry, uploads, alpha_c) -> carry``. A client with alpha 0 was left out: it changes nothing, whatever it
        sent. Rows of repeated items of one upload add up where the aggregator is linear; others need distinct items.
      merge: ``(carry, axis) -> carry``, joins the carries of all devices along a mesh axis.
      finish: ``(carry, weight) -> mean``, shaped like the broadcast; ``weight`` [] is what a mean divides by, the sum
        of alpha over the clients that take part. It is zero with weight 0.
      linear: the carry is sum_c alpha_c upload_c, shaped like the broadcast. Only then may the backward pass do the
        summing, so that no upload is ever formed.
    """

    init: Callable[[Broadcast, int], PyTree]
    add: Callable[[PyTree, Upload, Array], PyTree]
    merge: Callable[[PyTree, str], PyTree]
    finish: Callable[[PyTree, Array], Broadcast]
    linear: bool = False


def make_weighted_mean(**_: Any) -> Aggregator:
    """sum_u alpha_u upload_u / sum_u alpha_u."""

    def finish(total: Broadcast, weight: Array) -> Broadcast:
        return optax.tree.scale(jnp.where(weight > 0, 1 / weight, 0.0), total)

    return Aggregator(
        init=lambda broadcast, num_slots: jax.tree.map(jnp.zeros_like, broadcast),
        add=add_uploads,
        merge=jax.lax.psum,
        finish=finish,
        linear=True,
    )


def add_uploads(total: Broadcast, uploads: Upload, alpha_c: Array) -> Broadcast:
    """``total + sum_c alpha_c upload_c``; a client with alpha 0 adds exactly nothing, whatever it sent."""

    def weighted(x: Array) -> Array:
        alpha = alpha_c.reshape((-1,) + (1,) * (x.ndim - 1))
        return jnp.where(alpha != 0, alpha * x, 0)

    def add_rows(table: Array, ct: Array) -> Array:
        if uploads.ids_n is None:
            return table + jnp.sum(weighted(ct), axis=0)
        return table.at[uploads.ids_n].add(weighted(ct), mode="drop")

    rows = jax.tree.map(add_rows, total.rows, uploads.rows)
    head = jax.tree.map(lambda t, ct: t + jnp.sum(weighted(ct), axis=0), total.head, uploads.head)
    return Broadcast(rows, head)


def _of_stacks(finish: Callable[[Stack, Array], Broadcast]) -> Aggregator:
    """An aggregator that sees all uploads of a round at once."""
    return Aggregator(empty_stack, add_to_stack, merge_stacks, finish)


def _make_order_statistic(statistic: Callable[[Array, Array], Array]) -> Aggregator:
    """A robust mean, coordinate by coordinate, from ``(x_s sorted with absent ones last, number present) -> []``.

    Most rows are touched by few clients, and a median that counted the others as zeros would be zero nearly
    everywhere. So the statistic is taken over the clients that sent a row, and counts with their share of the
    weights: uploads that are all equal, or one client alone, give the weighted mean exactly.
    """

    def finish(stack: Stack, weight: Array) -> Broadcast:
        inverse = jnp.where(weight > 0, 1 / weight, 0.0)
        present_s = stack.alpha_s > 0
        share_i = inverse * (stack.alpha_s @ stack.touched_si.astype(stack.alpha_s.dtype))

        def over_clients(x: Array, sent: Array, share: Array) -> Array:
            sent = jnp.broadcast_to(sent.reshape(sent.shape + (1,) * (x.ndim - sent.ndim)), x.shape)
            ordered = jnp.sort(jnp.where(sent, x, jnp.inf), axis=0)
            count = jnp.sum(sent, axis=0)
            value = jnp.where(count > 0, statistic(ordered, count), 0.0)
            return value * share.reshape(share.shape + (1,) * (value.ndim - share.ndim))

        rows = jax.tree.map(lambda x: over_clients(x, stack.touched_si, share_i), stack.uploads.rows)
        share = inverse * jnp.sum(stack.alpha_s)
        head = jax.tree.map(lambda x: over_clients(x, present_s, share), stack.uploads.head)
        return Broadcast(rows, head)

    return _of_stacks(finish)


def make_median(**_: Any) -> Aggregator:
    """The coordinate-wise median (Yin et al. 2018) over the clients that sent a row, times their share.

    It holds all uploads of a round at once: n_s times the size of a broadcast.
    """

    def median(ordered: Array, count: Array) -> Array:
        low, high = (_pick(ordered, index) for index in ((count - 1) // 2, count // 2))
        return middle(low, high)

    return _make_order_statistic(median)


def make_trimmed_mean(*, trim: float, **_: Any) -> Aggregator:
    """The mean of each coordinate without the floor(trim n) smallest and largest of n (Yin et al. 2018), times the
    share of the clients that sent it.

    As `make_median` it is taken over the n clients that sent a row, and holds all uploads of a round at once.
    """

    def trimmed_mean(ordered: Array, count: Array) -> Array:
        # The product is computed in float32 here and may fall below a whole number that it equals exactly.
        cut = jnp.floor(trim * count + 1e-4).astype(count.dtype)
        rank = jnp.arange(ordered.shape[0]).reshape((-1,) + (1,) * count.ndim)
        kept = (rank >= cut[None]) & (rank < (count - cut)[None])
        kept_s = jnp.where(kept, ordered, 0.0)
        scale = jnp.where(jnp.max(jnp.abs(kept_s), axis=0) > 1e30, 2.0**-30, 1.0)  # no sum overflows
        return jnp.sum(kept_s * scale[None], axis=0) / jnp.maximum(count - 2 * cut, 1) / scale

    return _make_order_statistic(trimmed_mean)


def _pick(ordered: Array, index: Array) -> Array:
    """ordered [s, ...] at `index` [...] of its first axis."""
    return jnp.take_along_axis(ordered, jnp.maximum(index, 0)[None], axis=0)[0]


def make_krum(*, byzantine: float, **_: Any) -> Aggregator:
    """The one upload that is closest to its neighbours (`robust.select_by_neighbours`)."""
    return _of_stacks(lambda stack, weight: robust.select_by_neighbours(stack, weight, byzantine, keep_one=True))


def make_multi_krum(*, byzantine: float, **_: Any) -> Aggregator:
    """The weighted mean of the uploads that are close to their neighbours (`robust.select_by_neighbours`)."""
    return _of_stacks(lambda stack, weight: robust.select_by_neighbours(stack, weight, byzantine, keep_one=False))


def make_geometric_median(**_: Any) -> Aggregator:
    """The upload with the least weighted sum of distances to all (`robust.geometric_median`)."""
    return _of_stacks(robust.geometric_median)


def make_norm_bound(**_: Any) -> Aggregator:
    """The weighted mean of the uploads scaled down to their median norm (`robust.norm_bound`)."""
    return _of_stacks(robust.norm_bound)


def make_fools_gold(**_: Any) -> Aggregator:
    """The mean in which clients weigh less the more they are like others (`robust.unlike_each_other`)."""
    return _of_stacks(robust.unlike_each_other)


def make_trimmed_rows(*, trim: float, **_: Any) -> Aggregator:
    """The mean of rows without those at the ends of the direction of their mean (`trimmed_rows.trimmed_rows`)."""
    return _of_stacks(lambda stack, weight: trimmed_rows(stack, weight, trim))


AGGREGATORS: dict[str, Callable[..., Aggregator]] = {
    "weighted_mean": make_weighted_mean,
    "norm_bound": make_norm_bound,
    "fools_gold": make_fools_gold,
    "trimmed_rows": make_trimmed_rows,
    "median": make_median,
    "trimmed_mean": make_trimmed_mean,
    "krum": make_krum,
    "multi_krum": make_multi_krum,
    "geometric_median": make_geometric_median,
}
"""Factories by the name in the config; each takes the options of ``config.aggregation`` that it knows."""
