"""Client side: routers phi_u, which weigh the views for one user.

A router turns a client's own history, seen through every view, into one weight vector per client. The paper's is
`mlp`: h_u = concat_j mean_{i in O_u} F_j[i], then Linear(|G| d -> d), ReLU, Linear(d -> |G|), softmax. The activation
can be a smooth one, which statements about smooth objectives need.

Views and history are fixed within a round, so h_u is too, and plain SGD keeps the first layer W in the span of h_u:

    W_a = W_0 + h e_a^T,   b_a = b_0 + e_a,   e_a = -eta (sum of the first a gradients of b),

because the gradient of W is h times that of b. The steps of a round then need W_0 only as W_0^T h + b_0 and h as
|h|^2: `ClosedForm.summarise` forms both before the first step and `ClosedForm.finish` writes W once after the last,
instead of reading and writing |G| d^2 numbers in every step. The cotangent of h, sum_a W_a delta_a, comes out of the
same two numbers.

A router may also have public parameters phi_0, which the server learns from all clients: they are broadcast with the
head, their gradient is part of every upload, and the client's own parameters are a deviation from them,

    w_u = softmax(logits_0(x_u; phi_0) + logits_u(x_u; phi_u)),

with phi_u empty, |G| numbers, or of low rank. What it reads, x_u, is the pooled history or statistics of it.

To add a router: a factory ``make(dim, num_views, activation) -> Router`` and a row in ``ROUTERS``. The tests over
that table judge it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedvlr_jax.models.router_logits import (
    Activation,
    Layers,
    MakeLogits,
    as_array,
    constant,
    history_statistics,
    linear,
    low_rank,
    mean_rows,
    nothing,
    two_layers,
)
from fedvlr_jax.types import Array, PyTree

ACTIVATIONS: dict[str, Activation] = {"relu": nn.relu, "gelu": nn.gelu, "softplus": nn.softplus}
"""Activations of the router and of operator `mlp` by the name in the config; all but relu are smooth."""


class ClosedForm(NamedTuple):
    """A router's steps of a round without its largest parameters; exact under plain SGD.

    Attributes:
      summarise: ``(phi, pooled_jd) -> summary``, before the first step, differentiable in `pooled_jd`.
      start: ``(phi) -> moving``, the parameters that the steps move in place of `phi`.
      weights: ``(moving, summary) -> w_j``.
      finish: ``(phi, pooled_jd, moving) -> phi`` after the last step.
    """

    summarise: Callable[[PyTree, Array], PyTree]
    start: Callable[[PyTree], PyTree]
    weights: Callable[[PyTree, PyTree], Array]
    finish: Callable[[PyTree, Array, PyTree], PyTree]


class Router(NamedTuple):
    """One way to weigh views, as pure functions.

    Attributes:
      init: ``(key) -> phi``, the private parameters of one client.
      weights: ``(phi, pooled_jd [j, d]) -> w_j``, non-negative and summing to one; with `init_shared`, of a `Phi`.
      closed_form: the same over the steps of a round, or None.
      init_shared: ``(key) -> phi_0``, public parameters of the router, or None for a router that is private.
      read: ``(rows_ljd, weight_l) -> pooled``, what `weights` gets of the history's rows in every view, of which some
        have weight 0; differentiable.
    """

    init: Callable[[Array], PyTree]
    weights: Callable[[PyTree, Array], Array]
    closed_form: ClosedForm | None = None
    init_shared: Callable[[Array], PyTree] | None = None
    read: Callable[[Array, Array], Array] = mean_rows


class Phi(NamedTuple):
    """All parameters of a router with a public part: ``shared`` phi_0 and ``own`` phi_u."""

    shared: PyTree
    own: PyTree


class Summary(NamedTuple):
    """What the steps of a round need of the pooled history in router `mlp`.

    Attributes:
      hidden_d: W_0^T h + b_0, [d].
      square: |h|^2, [].
    """

    hidden_d: Array
    square: Array


def make_mlp(dim: int, num_views: int, activation: Activation) -> Router:
    """The paper's router; see the top of this file."""
    layers = Layers(dim, num_views, activation)

    def init(key: Array) -> PyTree:
        return layers.init(key, jnp.zeros((num_views, dim)))

    def weights(phi: PyTree, pooled_jd: Array) -> Array:
        return as_array(layers.apply(phi, pooled_jd))

    def moving_weights(moving: PyTree, summary: Summary) -> Array:
        """``W_a^T h + b_a = (W_0^T h + b_0) + e + |h|^2 e``, then the rest of the router.

        The last term is the move of W; it is no path of the gradient of b, which is what steps e.
        """
        e_d = moving["shift"]
        hidden_d = summary.hidden_d + e_d + summary.square * jax.lax.stop_gradient(e_d)
        return as_array(layers.apply({"params": {"out": moving["out"]}}, hidden_d, method=Layers.weigh))

    return Router(init, weights, ClosedForm(_summarise, _start, moving_weights, _finish))


def _summarise(phi: PyTree, pooled_jd: Array) -> Summary:
    """The first layer applied to the pooled history.

    ``square`` is h . h with the left factor held fixed: its cotangent then is what the moves of W add to that of h.
    """
    layer, h = phi["params"]["hidden"], pooled_jd.reshape(-1)
    return Summary(h @ layer["kernel"] + layer["bias"], jax.lax.stop_gradient(h) @ h)


def _start(phi: PyTree) -> PyTree:
    """What moves during the steps: e (zero at first) and the second layer."""
    return {"shift": jnp.zeros_like(phi["params"]["hidden"]["bias"]), "out": phi["params"]["out"]}


def _finish(phi: PyTree, pooled_jd: Array, moving: PyTree) -> PyTree:
    """The parameters after the last step, from those before the first."""
    layer, e_d = phi["params"]["hidden"], moving["shift"]
    hidden = {"kernel": layer["kernel"] + jnp.outer(pooled_jd, e_d), "bias": layer["bias"] + e_d}
    return {"params": {"hidden": hidden, "out": moving["out"]}}


def make_bias(dim: int, num_views: int, activation: Activation) -> Router:
    """The softmax of |G| private numbers, which read no history: what is left of `mlp` without its input."""

    def weights(phi: PyTree, pooled_jd: Array) -> Array:
        return nn.softmax(phi["logit_j"])

    return Router(lambda key: {"logit_j": jnp.zeros(num_views)}, weights)


def make_uniform(dim: int, num_views: int, activation: Activation) -> Router:
    """Equal weights for everybody, without parameters: fusion that is not personal."""
    return Router(lambda key: {}, lambda phi, pooled_jd: jnp.full(num_views, 1 / num_views, pooled_jd.dtype))


def make_shared(
    dim: int,
    num_views: int,
    activation: Activation,
    *,
    shared: MakeLogits,
    own: MakeLogits = nothing,
    read: Callable[[Array, Array], Array] = mean_rows,
) -> Router:
    """A router whose logits are a public function of what it reads, `shared`, plus the client's own deviation."""
    of_all, of_one = (make(dim, num_views, activation) for make in (shared, own))

    def weights(phi: Phi, pooled: Array) -> Array:
        return nn.softmax(of_all.of(phi.shared, pooled) + of_one.of(phi.own, pooled))

    return Router(of_one.init, weights, init_shared=of_all.init, read=read)


def favour_first(router: Router, odds: float | Array) -> Router:
    """The router with the first view favoured: w_j is weighted by `odds` for the first view and 1 for the others.

    With a view of D alone as the first one, large odds start close to the variant `base`. Odds of 1 change nothing.
    """
    if isinstance(odds, (int, float)) and odds == 1:
        return router

    def tilted(weights: Callable[[PyTree, PyTree], Array]) -> Callable[[PyTree, PyTree], Array]:
        def weigh(phi: PyTree, pooled: PyTree) -> Array:
            w_j = weights(phi, pooled)
            favoured_j = w_j.at[0].multiply(odds)
            return favoured_j / jnp.sum(favoured_j)

        return weigh

    closed = router.closed_form
    if closed is not None:
        closed = closed._replace(weights=tilted(closed.weights))
    return router._replace(weights=tilted(router.weights), closed_form=closed)


def divergence(w_j: Array) -> Array:
    """KL(w || uniform) = log |G| minus the entropy of the weights, [], in nats."""
    return jnp.sum(w_j * jnp.log(jnp.maximum(w_j, 1e-30) * w_j.size))


ROUTERS: dict[str, Callable[[int, int, Activation], Router]] = {
    "mlp": make_mlp,
    "bias": make_bias,
    "uniform": make_uniform,
    "common": functools.partial(make_shared, shared=constant),
    "shared": functools.partial(make_shared, shared=two_layers),
    "shared_bias": functools.partial(make_shared, shared=two_layers, own=constant),
    "shared_low_rank": functools.partial(make_shared, shared=two_layers, own=low_rank),
    "statistics": functools.partial(make_shared, shared=linear, read=history_statistics),
    "statistics_bias": functools.partial(make_shared, shared=linear, own=constant, read=history_statistics),
}
"""Factories ``(dim, num_views, activation) -> Router`` by the name in the config."""
