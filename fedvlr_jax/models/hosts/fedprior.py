"""FedPrior: FCF with FedVLR's views, ranked together with a federated item-to-item prior (`prior.py`).

The trained model is FCF, s_ui = theta_u . g_i, in any variant. The prior comes from one secure sum of small client
blocks before the first round; a client scores it on its own history, newer items first. When items are ranked, each
client joins the two after standardising them over the catalogue, which makes one weight fit all users:

    z(prior_u) + model_weight z(s_u),   z(x) = (x - mean x) / std x

The prior knows what follows what, which a sum over clients of their own pairs gives exactly; the trained model knows
tastes, through the views, and needs rounds for them. Neither private state nor a single pair leaves a client.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from fedvlr_jax.models.hosts import fcf
from fedvlr_jax.models.hosts.host import Host
from fedvlr_jax.types import Array


def standardise(x_i: Array) -> Array:
    """Zero mean and unit variance over the catalogue; a constant stays one."""
    centred_i = x_i - jnp.mean(x_i)
    return centred_i / jnp.sqrt(jnp.mean(centred_i**2) + 1e-12)


def make(num_items: int, *, model_weight: float, **options: Any) -> Host:
    """`model_weight` is the weight of the trained logits beside the prior's, both standardised."""

    def combine(s_i: Array, prior_i: Array) -> Array:
        return standardise(prior_i) + model_weight * standardise(s_i)

    return fcf.make(num_items, **options)._replace(combine=combine)
