"""The constant scorer: every item has the same score, so every rank is a matter of tie-breaking.

It is a control: an evaluator that breaks ties by item index reports HR@50 = 55.39 % and NDCG@50 = 15.97 % for
it on KU, whereas the expectation over tie-breaking is 9.3 and 2.4 %.
"""

from __future__ import annotations

import jax.numpy as jnp

from fedvlr_jax.baselines.base import Baseline, score_for_all
from fedvlr_jax.types import Array, Dataset


def fit(dataset: Dataset) -> Array:
    """float32 [i], zeros."""
    return jnp.zeros(dataset.num_items, jnp.float32)


constant = Baseline(fit=fit, score=score_for_all, grid=({},), printed=True)
