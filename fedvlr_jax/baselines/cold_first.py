"""Cold first: items without train rows (all tied) above all others, then popularity.

It is a control: where many held-out items have no train rows, knowing that an item is unseen is enough to
look good, and a model must not win by that alone.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from fedvlr_jax.baselines.base import Baseline, score_for_all, train_counts
from fedvlr_jax.types import Array, Dataset


def fit(dataset: Dataset) -> Array:
    """float32 [i], the train count of each item, or one more than the largest count for unseen items."""
    count_i = train_counts(dataset)
    return jnp.asarray(np.where(count_i == 0, count_i.max() + 1, count_i), jnp.float32)


cold_first = Baseline(fit=fit, score=score_for_all, grid=({},), printed=True)
