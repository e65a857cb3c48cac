"""PFedRec (Zhang et al. 2023), dual personalisation: a private score function and personal item rows.

In a local step the score function moves first and the gradient of the items is taken at the moved point. Before
scoring, a client fine-tunes its own copy of the rows it trains on (its history and freshly drawn negatives) for
a few steps, so the scored rows are personal; nothing of that copy is uploaded.
"""

from __future__ import annotations

from typing import Any

from fedvlr_jax.models.hosts.fedavg import init_linear_head, linear_score
from fedvlr_jax.models.hosts.host import Host


def make(num_items: int, *, dim: int, init_scale: float, tune_steps: int, tune_lr: float, **_: Any) -> Host:
    """Private linear head; `tune_steps` steps at rate `tune_lr` on the client's rows before scoring (0 = off)."""
    return Host(
        init_private=lambda key: init_linear_head(key, dim, init_scale),
        score=linear_score,
        alternate=True,
        tune_steps=tune_steps,
        tune_lr=tune_lr,
    )
