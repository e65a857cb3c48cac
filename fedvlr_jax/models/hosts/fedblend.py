"""FedBlend: bi-level fusion of scores. The server forms views, every client weighs them.

    s_ui = sum_v (w_v + d_uv) t(z_uiv),      t(z) = asinh(a z) / a,   a = `stretch`, t(z) = z for a = 0

The views z (`federated/score_views.py`) come from item-item maps that a secure sum and the item features allow. The
weights w [v] are public, learned in the rounds: a client's upload is their gradient, and nothing else. The deviation
d_u is private; it stays small by the penalty |d_u|^2 / (2 `deviation`), and is zero where `deviation` is 0.

A client learns from the items that it had last: softmax over its candidates, with views that were formed without
these items, of any client (`Evidence`). It ranks with views of whole histories. With `fusion_weight` above zero the
model of FCF is trained beside, in any variant, and its standardised logits are one more view of that weight.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fedvlr_jax.federated.objectives import is_off
from fedvlr_jax.federated.score_views import VIEWS
from fedvlr_jax.models.hosts import fcf
from fedvlr_jax.models.hosts.fedprior import standardise
from fedvlr_jax.models.hosts.host import Host, ItemRows
from fedvlr_jax.types import Array, Evidence, PyTree, given


def make(
    num_items: int, *, stretch: float, deviation: float, fusion_weight: float, swapped: bool, **options: Any
) -> Host:
    """The host.

    Args:
      num_items: |I|.
      stretch: a; 0 takes views as they are.
      deviation: 1 / tau, the variance of private weights; 0 = shared weights alone.
      fusion_weight: weight of trained logits; 0 = none are trained.
      swapped: see `Host.swaps`.
      options: those of FCF.
    """
    trained = fcf.make(num_items, **options)
    trains_items = not is_off(fusion_weight)

    def view_weights(theta: PyTree, head: PyTree) -> Array:
        return head["w"] + jnp.sqrt(deviation) * theta["d"]

    def blend(theta: PyTree, head: PyTree, z_bv: Array) -> Array:
        return stretched(z_bv, stretch) @ view_weights(theta, head)

    def evidence_loss(theta: PyTree, head: PyTree, evidence: Evidence) -> Array:
        s_b = jnp.where(evidence.candidate_b, blend(theta, head, evidence.z_bv), -jnp.inf)
        target_b = evidence.target_b
        log_p_b = jnp.where(target_b > 0, s_b - jax.nn.logsumexp(s_b), 0.0)
        fit = -jnp.sum(target_b * log_p_b) / jnp.maximum(jnp.sum(target_b), 1.0)
        return fit + 0.5 * jnp.sum(theta["d"] ** 2)  # d = sqrt(deviation) theta["d"]

    def rank(theta: PyTree, head: PyTree, s_i: Array | None, z_iv: Array) -> Array:
        blended_i = blend(theta, head, z_iv)
        return blended_i + fusion_weight * standardise(given(s_i)) if trains_items else blended_i

    def init_private(key: Array) -> PyTree:
        return {"d": jnp.zeros(len(VIEWS))} | (trained.init_private(key) if trains_items else {})

    def score(theta: PyTree, head: PyTree, items: ItemRows) -> Array:
        return trained.score(theta, head, items)

    return trained._replace(
        init_private=init_private,
        init_public=lambda key: {"tables": {}, "head": {"w": jnp.zeros(len(VIEWS))}},
        score=score,
        evidence_loss=evidence_loss,
        rank=rank,
        view_weights=view_weights,
        swaps=swapped,
        trains_items=trains_items,
        has_item_tables=not trains_items,
    )


def stretched(z: Array, stretch: float | Array) -> Array:
    """t(z) = asinh(a z) / a, which is z at a = 0: large deviations count by their logarithm."""
    safe = jnp.maximum(stretch, 1e-3)
    return jnp.where(stretch > 0, jnp.arcsinh(safe * z) / safe, z)
