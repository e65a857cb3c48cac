"""Server side of a round: it opens with what is broadcast, and closes with one pull-back and an optimizer step.

broadcast, pull_back = open_round(public, content)
...                                                    clients train, an aggregator joins their uploads
public, update_norm = close_round(public, pull_back, mean)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedvlr_jax.federated.objectives import is_off
from fedvlr_jax.models.model import Broadcast, Model
from fedvlr_jax.types import Array, Content, PublicState, PyTree

PullBack = Callable[[Broadcast], tuple[PyTree]]
"""Cotangent of the broadcast -> (gradient of the public parameters,)."""


class Aggregate(NamedTuple):
    """Running sums over the clients of a round.

    Attributes:
      carry: of the round's `aggregation.Aggregator`.
      weight: [], sum_u alpha_u over the clients that survived.
      loss: [], sum_u alpha_u times the client's mean loss over its local steps.
      num_dropped: int32 [], clients left out because their loss or upload was not finite.
      within: [], the sum over clients of 1/2 where a clip left the upload as it was, and -1/2 where it did not; None
        where nobody counts them.
    """

    carry: PyTree
    weight: Array
    loss: Array
    num_dropped: Array
    within: Array | None = None


class Server(NamedTuple):
    """The two halves of a round on the server.

    Attributes:
      open_round: ``(public, content) -> (broadcast, pull_back)``, both fixed within the round.
      close_round: ``(public, pull_back, mean) -> (public, update_norm)``: the mean cotangent is pulled back once, and
        the optimizer steps; ``update_norm`` [] is the L2 norm of the gradient.
    """

    open_round: Callable[[PublicState, Content], tuple[Broadcast, PullBack]]
    close_round: Callable[[PublicState, PullBack, Broadcast], tuple[PublicState, Array]]


def make_server(model: Model, optimizer: optax.GradientTransformation, l2: float | Array = 0.0) -> Server:
    """The server of a model.

    Args:
      model: what it publishes, and its penalty on public parameters outside the views.
      optimizer: any optax transformation; SGD is Algorithm 1.
      l2: weight of 0.5 ||params||^2.
    """

    def extra(params: PyTree, round_: Array) -> Array:
        value = model.penalty(params, round_)
        return value if is_off(l2) else value + 0.5 * l2 * optax.tree.norm(params, squared=True)

    def open_round(public: PublicState, content: Content) -> tuple[Broadcast, PullBack]:
        return jax.vjp(lambda params: model.publish(params, content), public.params)

    def close_round(public: PublicState, pull_back: PullBack, mean: Broadcast) -> tuple[PublicState, Array]:
        (gradient,) = pull_back(mean)
        gradient = optax.tree.add(gradient, jax.grad(extra)(public.params, public.round))
        updates, opt_state = optimizer.update(gradient, public.opt_state, public.params)
        params = optax.apply_updates(public.params, updates)
        new = public.replace(params=params, opt_state=opt_state, round=public.round + 1)
        return new, jnp.asarray(optax.tree.norm(gradient))

    return Server(open_round, close_round)
