"""Client side: the mixture-of-experts router phi_u that weighs the views for one user.

The router reads the client's own history through every view, h_u = concat_j mean_{i in O_u} F_j[i], and returns
one weight vector per client: Linear(|G| d -> d), ReLU, Linear(d -> |G|), softmax. It is normalised once. The
activation can be a smooth one, which statements about smooth objectives need.

Views and history are fixed within a round, so h_u is too, and plain SGD keeps the first layer W in the span of h_u:

    W_a = W_0 + h e_a^T,   b_a = b_0 + e_a,   e_a = -eta (sum of the first a gradients of b),

because the gradient of W is h times that of b. The steps of a round then need W_0 only as W_0^T h + b_0 and h as
|h|^2: `summarise_history` forms both before the first step and `expand` writes W once after the last, instead of
reading and writing |G| d^2 numbers in every step. The cotangent of h, sum_a W_a delta_a, comes out of the same two
numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedvlr_jax.types import Array, PyTree

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"relu": nn.relu, "gelu": nn.gelu, "softplus": nn.softplus}
"""Activations of the router and of operator `mlp` by the name in the config; all but relu are smooth."""


class Router(nn.Module):
    """``pooled_jd [j, d] -> w_j [j]``, non-negative and summing to one; 12,547 parameters at |G| = 3, d = 64."""

    dim: int
    num_views: int
    activation: Callable[[Array], Array] = nn.relu

    def setup(self):
        """The two layers."""
        self.hidden, self.out = nn.Dense(self.dim), nn.Dense(self.num_views)

    def __call__(self, pooled_jd: Array) -> Array:
        """w_j from the pooled history."""
        return self.weigh(self.hidden(pooled_jd.reshape(-1)))

    def weigh(self, hidden_d: Array) -> Array:
        """w_j from the first layer's output before the activation, [d]."""
        return nn.softmax(self.out(self.activation(hidden_d)))


class ClosedFormInput(NamedTuple):
    """What the steps of a round need of the pooled history.

    Attributes:
      hidden_d: W_0^T h + b_0, [d].
      square: |h|^2, [].
    """

    hidden_d: Array
    square: Array


def summarise_history(phi: PyTree, pooled_jd: Array) -> ClosedFormInput:
    """The first layer applied to the pooled history before the first step; differentiate it with respect to h.

    ``square`` is h . h with the left factor held fixed: its cotangent then is what the moves of W add to that of h.
    """
    layer, h = phi["params"]["hidden"], pooled_jd.reshape(-1)
    return ClosedFormInput(h @ layer["kernel"] + layer["bias"], jax.lax.stop_gradient(h) @ h)


def start(phi: PyTree) -> PyTree:
    """What moves during the steps: e (zero at first) and the second layer."""
    return {"shift": jnp.zeros_like(phi["params"]["hidden"]["bias"]), "out": phi["params"]["out"]}


def closed_form_weights(router: Router, moving: PyTree, summary: ClosedFormInput) -> Array:
    """w_j after some steps: ``W_a^T h + b_a = (W_0^T h + b_0) + e + |h|^2 e``.

    The last term is the move of W; it is no path of the gradient of b, which is what steps e.
    """
    e_d = moving["shift"]
    hidden_d = summary.hidden_d + e_d + summary.square * jax.lax.stop_gradient(e_d)
    return router.apply({"params": {"out": moving["out"]}}, hidden_d, method=Router.weigh)


def expand(phi: PyTree, pooled_jd: Array, moving: PyTree) -> PyTree:
    """The router's parameters after the last step, from those before the first."""
    layer, e_d = phi["params"]["hidden"], moving["shift"]
    hidden = {"kernel": layer["kernel"] + jnp.outer(pooled_jd, e_d), "bias": layer["bias"] + e_d}
    return {"params": {"hidden": hidden, "out": moving["out"]}}
