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


def mean_rows(rows_ljd: Array, weight_l: Array) -> Array:
    """h_u by view, [j, d]: the weighted mean of the history's rows. Linear in `rows_ljd`."""
    return jnp.einsum("l,ljd->jd", weight_l / jnp.maximum(jnp.sum(weight_l), 1.0), rows_ljd)


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


class _Layers(nn.Module):
    """The two layers of router `mlp`; 12,547 parameters at |G| = 3, d = 64."""

    dim: int
    num_views: int
    activation: Activation

    def setup(self) -> None:
        self.hidden, self.out = nn.Dense(self.dim), nn.Dense(self.num_views)

    def __call__(self, pooled_jd: Array) -> Array:
        return nn.softmax(self.logits(pooled_jd))

    def logits(self, pooled_jd: Array) -> Array:
        """What the softmax is taken of, [j]."""
        return self.out(self.activation(self.hidden(pooled_jd.reshape(-1))))

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


class Logits(NamedTuple):
    """One summand of a router's logits: ``init(key) -> parameters`` and ``of(parameters, pooled) -> [j]``."""

    init: Callable[[Array], PyTree]
    of: Callable[[PyTree, Array], Array]


MakeLogits = Callable[[int, int, Activation], Logits]


def nothing(dim: int, num_views: int, activation: Activation) -> Logits:
    """No summand: the client has no parameters of its own."""
    return Logits(lambda key: {}, lambda params, pooled: jnp.zeros(num_views))


def constant(dim: int, num_views: int, activation: Activation) -> Logits:
    """One number for each view, whatever the history."""
    return Logits(lambda key: {"logit_j": jnp.zeros(num_views)}, lambda params, pooled: params["logit_j"])


def two_layers(dim: int, num_views: int, activation: Activation) -> Logits:
    """The layers of the paper's router, the last one zero at first, so that all weights start equal."""
    layers = _Layers(dim, num_views, activation)

    def init(key: Array) -> PyTree:
        params = layers.init(key, jnp.zeros((num_views, dim)))["params"]
        return params | {"out": jax.tree.map(jnp.zeros_like, params["out"])}

    def of(params: PyTree, pooled_jd: Array) -> Array:
        return _array(layers.apply({"params": params}, pooled_jd, method=_Layers.logits))

    return Logits(init, of)


def linear(dim: int, num_views: int, activation: Activation) -> Logits:
    """A linear function of `history_statistics`, zero at first."""
    shapes = {"kernel": (num_views + 1, num_views), "bias": (num_views,)}
    return Logits(
        lambda key: {name: jnp.zeros(shape) for name, shape in shapes.items()},
        lambda params, statistic_k: statistic_k @ params["kernel"] + params["bias"],
    )


def low_rank(dim: int, num_views: int, activation: Activation) -> Logits:
    """``b + B (A h)`` with A [RANK, |G| d] random, B and b zero at first: a linear map of the history."""

    def init(key: Array) -> PyTree:
        down = jax.random.normal(key, (RANK, num_views * dim)) / jnp.sqrt(num_views * dim)
        return {"down": down, "up": jnp.zeros((num_views, RANK)), "logit_j": jnp.zeros(num_views)}

    def of(params: PyTree, pooled_jd: Array) -> Array:
        return params["logit_j"] + params["up"] @ (params["down"] @ pooled_jd.reshape(-1))

    return Logits(init, of)


RANK = 2
"""Of a client's own deviation in router `shared_low_rank`."""


def history_statistics(rows_ljd: Array, weight_l: Array) -> Array:
    """How well every view predicts the client's own history, and how much there is of it, [j + 1].

    For each view, the mean cosine between two different rows of the history: each row is held back once and compared
    with the rest. A history of one row has 0. The last number is log(1 + rows).
    """
    unit_ljd = rows_ljd * jax.lax.rsqrt(jnp.sum(rows_ljd**2, axis=-1, keepdims=True) + 1e-12)
    real_l = (weight_l > 0).astype(unit_ljd.dtype)
    n = jnp.sum(real_l)
    sum_jd = jnp.einsum("l,ljd->jd", real_l, unit_ljd)
    own_j = jnp.einsum("l,ljd->j", real_l, unit_ljd**2)
    cohesion_j = (jnp.sum(sum_jd**2, axis=-1) - own_j) / jnp.maximum(n * (n - 1), 1.0)
    return jnp.append(cohesion_j, jnp.log1p(n))


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
