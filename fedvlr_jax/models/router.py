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

To add a router: a factory ``make(dim, num_views, activation) -> Router`` and a row in ``ROUTERS``. The tests over
that table judge it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedvlr_jax.types import Array, PyTree

Activation = Callable[[Array], Array]

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
      weights: ``(phi, pooled_jd [j, d]) -> w_j``, non-negative and summing to one.
      closed_form: the same over the steps of a round, or None.
    """

    init: Callable[[Array], PyTree]
    weights: Callable[[PyTree, Array], Array]
    closed_form: ClosedForm | None = None


class Summary(NamedTuple):
    """What the steps of a round need of the pooled history in router `mlp`.

    Attributes:
      hidden_d: W_0^T h + b_0, [d].
      square: |h|^2, [].
    """

    hidden_d: Array
    square: Array


class _Layers(nn.Module):
    """The two layers of router `mlp`; 12,547 parameters at |G| = 3, d = 64."""

    dim: int
    num_views: int
    activation: Activation

    def setup(self) -> None:
        self.hidden, self.out = nn.Dense(self.dim), nn.Dense(self.num_views)

    def __call__(self, pooled_jd: Array) -> Array:
        return self.weigh(self.hidden(pooled_jd.reshape(-1)))

    def weigh(self, hidden_d: Array) -> Array:
        """w_j from the first layer's output before the activation, [d]."""
        return nn.softmax(self.out(self.activation(hidden_d)))


def make_mlp(dim: int, num_views: int, activation: Activation) -> Router:
    """The paper's router; see the top of this file."""
    layers = _Layers(dim, num_views, activation)

    def init(key: Array) -> PyTree:
        return layers.init(key, jnp.zeros((num_views, dim)))

    def weights(phi: PyTree, pooled_jd: Array) -> Array:
        return _array(layers.apply(phi, pooled_jd))

    def moving_weights(moving: PyTree, summary: Summary) -> Array:
        """``W_a^T h + b_a = (W_0^T h + b_0) + e + |h|^2 e``, then the rest of the router.

        The last term is the move of W; it is no path of the gradient of b, which is what steps e.
        """
        e_d = moving["shift"]
        hidden_d = summary.hidden_d + e_d + summary.square * jax.lax.stop_gradient(e_d)
        return _array(layers.apply({"params": {"out": moving["out"]}}, hidden_d, method=_Layers.weigh))

    return Router(init, weights, ClosedForm(_summarise, _start, moving_weights, _finish))


def _array(x: Any) -> Array:
    """flax types the result of ``apply`` as anything."""
    return x


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


ROUTERS: dict[str, Callable[[int, int, Activation], Router]] = {
    "mlp": make_mlp,
    "bias": make_bias,
    "uniform": make_uniform,
}
"""Factories ``(dim, num_views, activation) -> Router`` by the name in the config."""
