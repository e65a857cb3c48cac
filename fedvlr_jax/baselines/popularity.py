"""Popularity: an item's score is its number of train rows."""

from __future__ import annotations

import jax.numpy as jnp

from fedvlr_jax.baselines.base import Baseline, score_for_all, train_counts
from fedvlr_jax.types import Array, Dataset


def fit(dataset: Dataset) -> Array:
    """float32 [i], the train count of each item."""
    return jnp.asarray(train_counts(dataset), jnp.float32)


popularity = Baseline(fit=fit, score=score_for_all, grid=({},), printed=True)
