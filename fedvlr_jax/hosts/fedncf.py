"""FedNCF (Perifanis & Efraimidis 2022): NeuMF with private user vectors and public item tables and layers.

s = out([MLP([q_u, Q_i + g_i]), p_u * (P_i + g_i)]) with layers 2d -> d -> d/2 -> d/4 (ReLU) and an output
d/4 + d -> 1; at d = 64 these are 10,945 numbers. In the variant `base` g_i is absent.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedvlr_jax.hosts.host import Host, ItemRows
from fedvlr_jax.types import Array, PyTree


class NeuMF(nn.Module):
    """The public layers; user vectors [d], item rows [b, d] -> logits [b]."""

    dim: int

    @nn.compact
    def __call__(self, p_d: Array, q_d: Array, P_bd: Array, Q_bd: Array) -> Array:
        x_b = jnp.concatenate([jnp.broadcast_to(q_d, Q_bd.shape), Q_bd], axis=-1)
        for depth, width in enumerate((self.dim, self.dim // 2, self.dim // 4)):
            x_b = nn.relu(nn.Dense(width, name=f"layer_{depth}")(x_b))
        joint_b = jnp.concatenate([x_b, p_d[None, :] * P_bd], axis=-1)
        return nn.Dense(1, name="out")(joint_b)[:, 0]


def make(num_items: int, *, dim: int, init_scale: float, **_) -> Host:
    """Private p_u, q_u [d]; public tables P, Q [i, d] and the layers; alpha_u equal."""
    network = NeuMF(dim)

    def init_public(key: Array) -> PyTree:
        key_p, key_q, key_head = jax.random.split(key, 3)
        row = jnp.zeros((1, dim))
        return {
            "tables": {
                "P": init_scale * jax.random.normal(key_p, (num_items, dim)),
                "Q": init_scale * jax.random.normal(key_q, (num_items, dim)),
            },
            "head": network.init(key_head, row[0], row[0], row, row),
        }

    def init_private(key: Array) -> PyTree:
        p_d, q_d = init_scale * jax.random.normal(key, (2, dim))
        return {"p": p_d, "q": q_d}

    def score(theta: PyTree, head: PyTree, items: ItemRows) -> Array:
        P_bd, Q_bd = items.tables["P"], items.tables["Q"]
        if items.views_bjd is not None:
            g_bd = items.fused()
            P_bd, Q_bd = P_bd + g_bd, Q_bd + g_bd
        return network.apply(head, theta["p"], theta["q"], P_bd, Q_bd)

    return Host(
        init_private=init_private,
        score=score,
        init_public=init_public,
        linear=False,
        own_item_tables=True,
    )
