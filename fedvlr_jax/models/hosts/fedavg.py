"""FedAvg (McMahan et al. 2017) with a private linear head: s_ui = theta_u . g_i + b_u."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fedvlr_jax.models.hosts.host import Host, ItemRows
from fedvlr_jax.types import Array, PyTree


def init_linear_head(key: Array, dim: int, scale: float) -> PyTree:
    """A private linear head, ``w`` [d] and ``b`` []."""
    return {"w": scale * jax.random.normal(key, (dim,)), "b": jnp.zeros(())}


def linear_score(theta: PyTree, head: PyTree, items: ItemRows) -> Array:
    """theta_u . g_i + b_u."""
    return items.dot(theta["w"]) + theta["b"]


def make(num_items: int, *, dim: int, init_scale: float, **_: Any) -> Host:
    """alpha_u is proportional to the number of train positives of u."""
    return Host(
        init_private=lambda key: init_linear_head(key, dim, init_scale),
        score=linear_score,
        client_weight=lambda num_positives: num_positives,
    )
