"""FedNCF (Perifanis & Efraimidis 2022): NeuMF with private user vectors and public item tables and layers.

s = out([MLP([q_u, Q_i + g_i]), p_u * (P_i + g_i)]) with layers 2d -> d -> d/2 -> d/4 (ReLU) and an output
d/4 + d -> 1; at d = 64 these are 10,945 numbers. In the variant `base` g_i is absent.

The first layer and the product p_u * (P_i + g_i) are linear in the item's row, so their item halves are formed apart
from the user's: with rows that all clients share they are computed once, or become one matrix product. Where a
simulation has many clients of one broadcast, `derive` computes the first layer's half once for all of them.
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

    def derive(tables: dict[str, Array], head: PyTree, weighed: bool) -> dict[str, Array]:
        """Q_i W in place of Q_i; a single view without weights is added to P_i and Q_i before."""
        _, item_dh = jnp.split(head["layer_0"]["kernel"], 2)
        P_id, Q_id = tables["P"], tables["Q"]
        rest = {name: rows for name, rows in tables.items() if name not in ("P", "Q")}
        if "views" in rest and not weighed:
            g_id = rest.pop("views")[:, 0]
            P_id, Q_id = P_id + g_id, Q_id + g_id
        return rest | {"P": P_id, "QW": Q_id @ item_dh}

    def score(theta: PyTree, head: PyTree, items: ItemRows) -> Array:
        user_dh, item_dh = jnp.split(head["layer_0"]["kernel"], 2)
        of_hidden, of_product = jnp.split(head["out"]["kernel"][:, 0], (dim // 4,))
        weight_d = theta["p"] * of_product
        P_bd, Q_bd, QW_bh = (items.tables.get(name) for name in ("P", "Q", "QW"))
        assert P_bd is not None
        rounded, g_bd = P_bd.dtype, None
        apart = items.views_bjd is not None and items.views_bjd.shape[0] == num_items
        if items.views_bjd is not None and not apart:  # few rows: g_i is formed once, and joins P_i and Q_i
            g_bd = items.fused().astype(rounded)
            P_bd = P_bd + g_bd
            Q_bd = g_bd if Q_bd is None else Q_bd + g_bd
        x_bh = (theta["q"] @ user_dh + head["layer_0"]["bias"])[None]
        if QW_bh is not None:
            x_bh = x_bh + QW_bh
        if Q_bd is not None:
            x_bh = x_bh + product(Q_bd, item_dh)
        if apart:
            x_bh = x_bh + items.project(item_dh)
        for name in ("layer_1", "layer_2"):
            x_bh = product(nn.relu(x_bh).astype(rounded), head[name]["kernel"]) + head[name]["bias"][None]
        s_b = nn.relu(x_bh) @ of_hidden + product(P_bd, weight_d) + head["out"]["bias"]
        return s_b + items.dot(weight_d) if apart else s_b

    return Host(
        init_private=init_private,
        score=score,
        init_public=init_public,
        derive=derive,
        linear=False,
        has_item_tables=True,
    )
