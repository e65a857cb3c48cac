"""Mult-VAE: a variational autoencoder of histories (Liang et al., "Variational autoencoders for collaborative
filtering", WWW 2018).

    h = tanh(W_1 x / |x| + b_1),  (mean, log var) = W_2 h + b_2,  z ~ N(mean, var),  s_u = W_4 tanh(W_3 z + b_3) + b_4

x is the history with dropout .5, and scoring takes z = mean of the whole history. The loss of a user is the negative
multinomial log-likelihood of the history plus beta times the divergence of z from N(0, I), and that of a batch the
mean over its users. A last layer is an inner product, s_ui = (hidden_u, 1) . (row i of W_4, b_4i).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from fedvlr_jax.baselines.batches import Users, draw_users
from fedvlr_jax.baselines.layers import dropout, init_linear, linear, take, weighted_mean
from fedvlr_jax.baselines.learner import Learner
from fedvlr_jax.types import Array, Dataset, PyTree

HIDDEN = 4  # widths of the hidden layers, in units of the latent one
DROPOUT = 0.5


@struct.dataclass(kw_only=True)
class Inputs:
    """The train histories, float [u, i] of 0 and 1: with 10^4 users and items 0.4 GB."""

    history_ui: Array


def prepare(dataset: Dataset) -> Inputs:
    """The histories on the device."""
    shape = (dataset.num_users, dataset.num_items)
    return Inputs(history_ui=jnp.zeros(shape).at[dataset.train_user, dataset.train_item].set(1.0))


def init(key: Array, inputs: Inputs, dim: int) -> PyTree:
    """Four layers; biases are zero."""
    num_items, wide = inputs.history_ui.shape[1], HIDDEN * dim
    sizes = {"read": (num_items, wide), "encode": (wide, 2 * dim), "decode": (dim, wide), "write": (wide, num_items)}
    keys = jax.random.split(key, len(sizes))
    return {name: init_linear(k, *size) for k, (name, size) in zip(keys, sizes.items(), strict=True)}


def loss(params: PyTree, inputs: Inputs, epoch: PyTree, batch: Users, key: Array, hyper: dict[str, Array]) -> Array:
    """The loss of the module's head; ``hyper`` holds ``beta``."""
    key_dropout, key_z = jax.random.split(key)
    x_bi = take(inputs.history_ui, batch.user)
    mean_bd, log_var_bd = encode(params, dropout(key_dropout, x_bi, DROPOUT))
    z_bd = mean_bd + jnp.exp(log_var_bd / 2) * jax.random.normal(key_z, mean_bd.shape)
    log_share_bi = jax.nn.log_softmax(linear(params["write"], _decode(params, z_bd)))
    likelihood_b = jnp.sum(x_bi * log_share_bi, axis=1)
    divergence_b = jnp.sum(jnp.exp(log_var_bd) + mean_bd**2 - 1 - log_var_bd, axis=1) / 2
    return weighted_mean(-likelihood_b + hyper["beta"] * divergence_b, batch.weight)


def represent(params: PyTree, inputs: Inputs) -> tuple[Array, Array]:
    """The last hidden layer with a one, and the rows of the last layer with their biases."""
    mean_ud, _ = encode(params, inputs.history_ui)
    hidden_uh, last = _decode(params, mean_ud), params["write"]
    ones_u1 = jnp.ones((len(hidden_uh), 1), hidden_uh.dtype)
    return (
        jnp.concatenate([hidden_uh, ones_u1], axis=1),
        jnp.concatenate([last["kernel_df"], last["bias_d"][:, None]], axis=1),
    )


def encode(params: PyTree, x_bi: Array) -> tuple[Array, Array]:
    """Mean and logarithm of the variance of z, [b, d] each."""
    length_b1 = jnp.sqrt(jnp.maximum(jnp.sum(x_bi**2, axis=1, keepdims=True), 1e-12))
    hidden_bh = jnp.tanh(linear(params["read"], x_bi / length_b1))
    mean_bd, log_var_bd = jnp.split(linear(params["encode"], hidden_bh), 2, axis=1)
    return mean_bd, log_var_bd


def _decode(params: PyTree, z_bd: Array) -> Array:
    return jnp.tanh(linear(params["decode"], z_bd))


multvae = Learner(
    prepare=prepare,
    init=init,
    loss=loss,
    represent=represent,
    draw=draw_users,
    grid=tuple({"lr": lr, "beta": beta} for lr in (1e-3, 3e-3) for beta in (0.05, 0.2, 1.0)),
)
