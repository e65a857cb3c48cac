"""FedRAP (Li, Long & Zhou, ICLR 2024), additive personalisation: s_ui = theta_u . (g_i + P_u,i) + b_u.

Every client keeps a private table P_u beside the public one. The loss adds -lambda ||P_u - D||_F^2 (mean over the
rows used, so that the two tables learn different things) and the server mu ||D||_1; both weights follow
tanh(t / 10) over rounds t.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from fedvlr_jax.models.hosts.fedavg import init_linear_head
from fedvlr_jax.models.hosts.host import Host, ItemRows
from fedvlr_jax.types import Array, PyTree, given


def curriculum(round_: Array) -> Array:
    """tanh(t / 10): regularisation starts at zero and reaches its final weight within some thirty rounds."""
    return jnp.tanh(round_.astype(float) / 10)


def make(
    num_items: int, *, dim: int, init_scale: float, additive_weight: float, sparsity_weight: float, **_: Any
) -> Host:
    """`additive_weight` is lambda, `sparsity_weight` is mu; the private table starts at zero."""

    def score(theta: PyTree, head: PyTree, items: ItemRows) -> Array:
        return items.dot(theta["w"]) + given(items.own).dot(theta["w"]) + theta["b"]

    def regulariser(theta: PyTree, items: ItemRows, weight_b: Array, round_: Array) -> Array:
        return -additive_weight * curriculum(round_) * jnp.sum(weight_b * given(items.own).distance())

    def server_penalty(D_id: Array, round_: Array) -> Array:
        return sparsity_weight * curriculum(round_) * jnp.sum(jnp.abs(D_id))

    def init_private(key: Array) -> PyTree:
        return init_linear_head(key, dim, init_scale)

    return Host(
        init_private=init_private,
        score=score,
        regulariser=regulariser,
        server_penalty=server_penalty,
        reads_D=True,
        private_item_table=True,
    )
