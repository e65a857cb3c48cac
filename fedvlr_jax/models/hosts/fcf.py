"""FCF (Ammad-ud-din et al. 2019), federated collaborative filtering: s_ui = theta_u . g_i, alpha_u equal.

With the objective `squared` the user factor is solved in closed form, as in the original:
theta_u = (G^T C_u G + lambda I)^-1 G^T C_u r_u, with C_u = diag(1 + confidence r_u). The solution minimises the
client's loss, so differentiating at it gives the exact gradient of the items (envelope theorem).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fedvlr_jax.models.hosts.host import Host, ItemRows, no_regulariser
from fedvlr_jax.types import Array, PyTree


def make(
    num_items: int, *, dim: int, init_scale: float, objective: str, confidence: float, ridge: float, **_: Any
) -> Host:
    """User factor theta_u [d], no bias; `confidence` and `ridge` (lambda) matter for objective `squared` only."""

    def solve(theta: PyTree, head: PyTree, items: ItemRows, positive_i: Array) -> PyTree:
        g_id = items.fused().astype(theta["w"].dtype)
        c_i = 1 + confidence * positive_i
        gram_dd = g_id.T @ (c_i[:, None] * g_id) + ridge * jnp.eye(dim)
        return {"w": jax.scipy.linalg.solve(gram_dd, g_id.T @ (c_i * positive_i), assume_a="pos")}

    def ridge_term(theta: PyTree, items: ItemRows, weight_b: Array, round_: Array) -> Array:
        return 0.5 * ridge * jnp.sum(theta["w"] ** 2) / num_items

    closed_form = objective == "squared"
    return Host(
        init_private=lambda key: {"w": init_scale * jax.random.normal(key, (dim,))},
        score=lambda theta, head, items: items.dot(theta["w"]),
        regulariser=ridge_term if closed_form else no_regulariser,
        solve=solve if closed_form else None,
    )
