"""FedNCF (Perifanis & Efraimidis 2022): NeuMF with private user vectors and public item tables and layers.

s = out([MLP([q_u, Q_i + g_i]), p_u * (P_i + g_i)]) with layers 2d -> d -> d/2 -> d/4 (ReLU) and an output
d/4 + d -> 1; at d = 64 these are 10,945 numbers. In the variant `base` g_i is absent.

The first layer and the product p_u * (P_i + g_i) are linear in the item's row, so their item halves are formed apart
from the user's: with rows that all clients share they are computed once, or become one matrix product.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedvlr_jax.models.hosts.host import Host, ItemRows, product
from fedvlr_jax.types import Array, PyTree


def init_layers(key: Array, dim: int) -> PyTree:
    """The public layers, ``{"layer_0", "layer_1", "layer_2", "out"}`` with ``kernel`` and ``bias`` each."""
    shapes = {
        "layer_0": (2 * dim, dim),
        "layer_1": (dim, dim // 2),
        "layer_2": (dim // 2, dim // 4),
        "out": (dim // 4 + dim, 1),
    }
    keys = jax.random.split(key, len(shapes))
    return {
        name: nn.Dense(width).init(k, jnp.zeros((1, depth)))["params"]
        for k, (name, (depth, width)) in zip(keys, shapes.items(), strict=True)
    }


def make(num_items: int, *, dim: int, init_scale: float, **_: Any) -> Host:
    """Private p_u, q_u [d]; public tables P, Q [i, d] and the layers; alpha_u equal."""

    def init_public(key: Array) -> PyTree:
        key_p, key_q, key_head = jax.random.split(key, 3)
        return {
            "tables": {
                "P": init_scale * jax.random.normal(key_p, (num_items, dim)),
                "Q": init_scale * jax.random.normal(key_q, (num_items, dim)),
            },
            "head": init_layers(key_head, dim),
        }

    def init_private(key: Array) -> PyTree:
        p_d, q_d = init_scale * jax.random.normal(key, (2, dim))
        return {"p": p_d, "q": q_d}

    def hidden(q_d: Array, head: PyTree, items: ItemRows) -> Array:
        """The MLP's last hidden layer, [b, d/4]."""
        rounded = items.tables["Q"].dtype
        user_dh, item_dh = jnp.split(head["layer_0"]["kernel"], 2)
        x_bh = product(items.tables["Q"], item_dh) + (q_d @ user_dh + head["layer_0"]["bias"])[None]
        if items.views_bjd is not None:
            x_bh = x_bh + items.project(item_dh, shared=items.views_bjd.shape[0] == num_items)
        for name in ("layer_1", "layer_2"):
            x_bh = product(nn.relu(x_bh).astype(rounded), head[name]["kernel"]) + head[name]["bias"][None]
        return nn.relu(x_bh)

    def score(theta: PyTree, head: PyTree, items: ItemRows) -> Array:
        of_hidden, of_product = jnp.split(head["out"]["kernel"][:, 0], (dim // 4,))
        weight_d = theta["p"] * of_product
        s_b = hidden(theta["q"], head, items) @ of_hidden + product(items.tables["P"], weight_d) + head["out"]["bias"]
        return s_b if items.views_bjd is None else s_b + items.dot(weight_d)

    return Host(
        init_private=init_private,
        score=score,
        init_public=init_public,
        linear=False,
        has_item_tables=True,
    )
