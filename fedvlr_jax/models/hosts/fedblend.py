"""FedBlend: bi-level fusion of scores. The server forms views, every client weighs them.

    s_ui = sum_k w_uk t_k(z_ui),      w_u = start + turn (y + d_u)

with every view in two shapes, t(z) = z and t(z) = asinh(3 z) / 3. The views z (`federated/score_views.py`) come from
item-item maps that a secure sum and the item features allow. Weights start at the best single view, and are learned
in coordinates y in which all of them matter alike (`federated/view_basis.py`). y [k] is public, learned in the
rounds: a client's upload is its gradient, and nothing else. The deviation d_u is private; it stays small by the
penalty |d_u|^2 / (2 `deviation`), and is zero where `deviation` is 0.

A client learns from the items that it had last, by their probability p in a softmax over its candidates, with views
that were formed without these items, of any client (`Evidence`). The loss (1 - p^q) / q (Zhang & Sabuncu,
"Generalized cross entropy loss", NeurIPS 2018) is bounded: unlike -log p, its limit at q = 0, it does not give up the
head of the list for items that no view can find, which is what a measure like NDCG asks for.

It ranks with views of whole histories. With `fusion_weight` above zero the model of FCF is trained beside, in any
variant, and its standardised logits are one more view of that weight.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fedvlr_jax.agreed import Evidence, ViewBasis
from fedvlr_jax.federated.objectives import is_off
from fedvlr_jax.federated.score_views import weight_names
from fedvlr_jax.models.hosts import fcf
from fedvlr_jax.models.hosts.fedprior import standardise
from fedvlr_jax.models.hosts.host import Host, ItemRows
from fedvlr_jax.types import Array, PyTree


def make(
    num_items: int, *, loss_power: float, deviation: float, fusion_weight: float, swapped: bool, **options: Any
) -> Host:
    """The host.

    Args:
      num_items: |I|.
      loss_power: q of the loss.
      deviation: 1 / tau, the variance of private weights; 0 = shared weights alone.
      fusion_weight: weight of trained logits; 0 = none are trained.
      swapped: see `Host.swaps`.
      options: those of FCF.
    """
    trained, size = fcf.make(num_items, **options), len(weight_names())
    trains_items = not is_off(fusion_weight)

    def own(theta: PyTree, head: PyTree) -> Array:
        return head["y"] + jnp.sqrt(deviation) * theta["d"]

    def evidence_loss(theta: PyTree, head: PyTree, evidence: Evidence) -> Array:
        s_b = jnp.where(evidence.candidate_b, evidence.base_b + evidence.x_bk @ own(theta, head), -jnp.inf)
        fit = held_back_loss(s_b, evidence.target_b, loss_power)
        return fit + 0.5 * jnp.sum(theta["d"] ** 2)  # d_u = sqrt(deviation) theta["d"]

    def view_weights(theta: PyTree, head: PyTree, basis: ViewBasis) -> Array:
        return basis.start_k + basis.turn_kk @ own(theta, head)

    def combine(s_i: Array, blended_i: Array) -> Array:
        return blended_i + fusion_weight * standardise(s_i)

    def init_private(key: Array) -> PyTree:
        return {"d": jnp.zeros(size)} | (trained.init_private(key) if trains_items else {})

    def score(theta: PyTree, head: PyTree, items: ItemRows) -> Array:
        return trained.score(theta, head, items)

    return trained._replace(
        init_private=init_private,
        init_public=lambda key: {"tables": {}, "head": {"y": jnp.zeros(size)}},
        score=score,
        evidence_loss=evidence_loss,
        combine=combine if trains_items else None,
        view_weights=view_weights,
        swaps=swapped,
        trains_items=trains_items,
        has_item_tables=not trains_items,
    )


def held_back_loss(s_b: Array, target_b: Array, power: float | Array) -> Array:
    """Mean over a client's targets of (1 - p^q) / q, -log p at q = 0; p is their softmax probability.

    Args:
      s_b: [b], scores of its candidates, -inf for padding.
      target_b: [b], 1 for targets; a client without any has the loss 0.
      power: q in [0, 1].
    """
    log_p_b = jnp.where(target_b > 0, s_b - jax.nn.logsumexp(s_b), 0.0)
    safe = jnp.maximum(power, 1e-3)
    loss_b = jnp.where(power > 0, -jnp.expm1(safe * log_p_b) / safe, -log_p_b)
    return jnp.sum(target_b * loss_b) / jnp.maximum(jnp.sum(target_b), 1.0)
