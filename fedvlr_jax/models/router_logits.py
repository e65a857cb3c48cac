"""What a router reads of a client's history, and the summands of its logits, public or the client's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedvlr_jax.types import Array, PyTree

Activation = Callable[[Array], Array]

RANK = 2
"""Of a client's own deviation in router `shared_low_rank`."""


def mean_rows(rows_ljd: Array, weight_l: Array) -> Array:
    """h_u by view, [j, d]: the weighted mean of the history's rows. Linear in `rows_ljd`."""
    return jnp.einsum("l,ljd->jd", weight_l / jnp.maximum(jnp.sum(weight_l), 1.0), rows_ljd)


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


class Layers(nn.Module):
    """The two layers of router `mlp`; 12,547 parameters at |G| = 3, d = 64."""

    dim: int
    num_views: int
    activation: Activation

    def setup(self) -> None:
        """Both layers, which several methods use."""
        self.hidden, self.out = nn.Dense(self.dim), nn.Dense(self.num_views)

    def __call__(self, pooled_jd: Array) -> Array:
        return nn.softmax(self.logits(pooled_jd))

    def logits(self, pooled_jd: Array) -> Array:
        """What the softmax is taken of, [j]."""
        return self.out(self.activation(self.hidden(pooled_jd.reshape(-1))))

    def weigh(self, hidden_d: Array) -> Array:
        """w_j from the first layer's output before the activation, [d]."""
        return nn.softmax(self.out(self.activation(hidden_d)))


def as_array(x: Any) -> Array:
    """flax types the result of ``apply`` as anything."""
    return x


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
    layers = Layers(dim, num_views, activation)

    def init(key: Array) -> PyTree:
        params = layers.init(key, jnp.zeros((num_views, dim)))["params"]
        return params | {"out": jax.tree.map(jnp.zeros_like, params["out"])}

    def of(params: PyTree, pooled_jd: Array) -> Array:
        return as_array(layers.apply({"params": params}, pooled_jd, method=Layers.logits))

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
