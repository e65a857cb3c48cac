"""Server side of a round: aggregation of cotangents, the one pull-back, and the optimizer step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedvlr_jax.federated.client import Upload
from fedvlr_jax.federated.objectives import is_off
from fedvlr_jax.models.model import Broadcast
from fedvlr_jax.types import Array, PublicState, PyTree


class Aggregate(NamedTuple):
    """Running sums over the clients of a round.

    Attributes:
      cotangent: sum_u alpha_u of the clients' cotangents, shaped like the broadcast.
      weight: [], sum_u alpha_u over the clients that survived.
      loss: [], sum_u alpha_u times the client's mean loss over its local steps.
      num_dropped: int32 [], clients left out because their loss or upload was not finite.
    """

    cotangent: Broadcast
    weight: Array
    loss: Array
    num_dropped: Array


def empty_aggregate(broadcast: Broadcast) -> Aggregate:
    """The sum over no clients."""
    zero = jnp.zeros(())
    return Aggregate(jax.tree.map(jnp.zeros_like, broadcast), zero, zero, jnp.zeros((), jnp.int32))


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


def make_server_step(
    optimizer: optax.GradientTransformation, penalty: Callable[[PyTree, Array], Array], l2: float
) -> Callable:
    """The end of a round on the server.

    Args:
      optimizer: any optax transformation; SGD is Algorithm 1.
      penalty: ``(params, round) -> []``, terms of the public parameters outside the views.
      l2: weight of 0.5 ||params||^2.

    Returns:
      ``step(public, pull_back, aggregate) -> (PublicState, update_norm)``. Weights alpha are normalised over the
      clients that survived; with none left the gradient of the clients is zero.
    """

    def extra(params: PyTree, round_: Array) -> Array:
        value = penalty(params, round_)
        return value if is_off(l2) else value + 0.5 * l2 * optax.tree.norm(params, squared=True)

    def step(public: PublicState, pull_back: Callable, aggregate: Aggregate) -> tuple[PublicState, Array]:
        scale = jnp.where(aggregate.weight > 0, 1 / aggregate.weight, 0.0)
        (gradient,) = pull_back(optax.tree.scale(scale, aggregate.cotangent))
        gradient = optax.tree.add(gradient, jax.grad(extra)(public.params, public.round))
        updates, opt_state = optimizer.update(gradient, public.opt_state, public.params)
        params = optax.apply_updates(public.params, updates)
        new = PublicState(params=params, opt_state=opt_state, round=public.round + 1)
        return new, optax.tree.norm(gradient)

    return step
