"""Algorithm 1 written out for any host, variant and objective: what one pull-back a round has to equal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedvlr_jax.algorithm import Algorithm
from fedvlr_jax.federated import sampling
from fedvlr_jax.federated.local_steps import make_solve
from fedvlr_jax.federated.private_state import trainable
from fedvlr_jax.federated.step_loss import make_loss
from fedvlr_jax.models.model import ITEM_TABLE, make_download
from fedvlr_jax.types import Array, ClientData, FedState
from laws.rounds import client


def naive_round(
    algorithm: Algorithm, state: FedState, data: ClientData, num_items: int, *, lr: float, server_lr: float
) -> tuple[Any, Any]:
    """Every client differentiates its loss through the fusion in every step, one client at a time.

    Plain SGD on both sides, all clients in one bucket, no L2 on the server; what a host adds to a step is read from
    its row.

    Returns:
      The public parameters, and the private ones of all clients in the order of the bucket, after the round.
    """
    model, number, params = algorithm.model, state.public.round, state.public.params
    train = _make_training(algorithm, data, number, lr)
    (bucket,) = data.buckets
    keys = sampling.entity_keys(sampling.stream(state.key, sampling.CLIENT, number), bucket.user)
    alpha_c = model.host.client_weight(jnp.sum(bucket.history < num_items, axis=1).astype(float))
    total, private = jax.grad(model.penalty)(params, number), []
    for u, history_l, key, alpha in zip(bucket.user, bucket.history, keys, alpha_c, strict=True):
        stepped, gradient = train(params, client(state.private.params, u), history_l, key)
        total = optax.tree.add_scale(total, alpha / jnp.sum(alpha_c), gradient)
        private.append(stepped)
    return optax.tree.add_scale(params, -server_lr, total), jax.tree.map(lambda *x: jnp.stack(x), *private)


def _make_training(algorithm: Algorithm, data: ClientData, number: Array, lr: float) -> Callable[..., tuple]:
    """``(public, private, history_l, key) -> (private, gradient of the public parameters, summed over steps)``."""
    model, local = algorithm.model, algorithm.local
    loss, solve = make_loss(model, local, number, all_items=True), make_solve(model)

    def download(params: Any, draw: Any) -> Any:
        broadcast = model.publish(params, data.content)
        return make_download(model, broadcast.rows, broadcast.head, draw.positive_l, draw.input_l)

    gradients = jax.grad(lambda params, private, draw: loss(download(params, draw), private, draw), (0, 1))

    @jax.jit
    def train(params: Any, private: Any, history_l: Array, key: Array) -> tuple[Any, Any]:
        draw, total = local.objective.draw(key, history_l), jax.tree.map(jnp.zeros_like, params)
        for a in range(local.steps):
            step = draw if draw.negative_aln is None else draw._replace(negative_aln=draw.negative_aln[a])
            if solve is not None:
                private = solve(download(params, step), private, step)
            of_public, of_private = gradients(params, private, step)
            table = private.get(ITEM_TABLE)
            private = optax.tree.add_scale(trainable(private), -lr, trainable(of_private))
            if table is not None:
                private |= {ITEM_TABLE: table - local.table_lr * of_private[ITEM_TABLE]}
            if model.host.alternate:
                of_public, _ = gradients(params, private, step)
            total = optax.tree.add(total, of_public)
        return private, total

    return train
