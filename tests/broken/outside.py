"""Broken metrics and baselines: the law that each breaks, and words of its message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from laws import baselines, metrics

from fedvlr_jax.baselines import BASELINES
from fedvlr_jax.evaluation.metrics import METRICS


def lucky(greater: np.ndarray, tied: np.ndarray, k: int) -> np.ndarray:
    """Hit rate with every tie won."""
    return METRICS["HR"](greater, np.ones_like(tied), k)


def baseline(**changes: Callable[[Any], Any]) -> Any:
    """Popularity with other functions."""
    return BASELINES["popularity"]._replace(**changes)


def by_chunk(score_i: jax.Array, chunk: Any) -> jax.Array:
    """Scores that grow with the number of users of a chunk."""
    return chunk.user.shape[0] * jnp.broadcast_to(score_i[None], (chunk.user.shape[0], score_i.size))


def cheating(dataset: Any) -> jax.Array:
    """How often an item is held out."""
    return jnp.bincount(dataset.test_item, length=dataset.num_items).astype(jnp.float32)


OF_METRICS = {
    metrics.values_are_shares: ("outside of", lambda *args: 2 * METRICS["HR"](*args)),
    metrics.better_ranks_are_never_worse: ("worse rank", lambda greater, tied, k: np.minimum(greater, 9) / 10),
    metrics.ties_are_broken_at_random: ("ties are not broken at random", lucky),
}
OF_BASELINES = {
    baselines.scores_are_finite_numbers: ("not finite", baseline(fit=lambda dataset: jnp.full(14, jnp.nan))),
    baselines.scores_of_a_user_depend_on_no_chunk: ("depend on the chunk", baseline(score=by_chunk)),
    baselines.held_out_items_are_not_read: ("reads held-out items", baseline(fit=cheating)),
    baselines.features_are_needed_where_it_says_so: (
        "without features",
        baseline(fit=lambda dataset: jnp.full(14, jnp.inf if dataset.V is None else 1.0)),
    ),
}
