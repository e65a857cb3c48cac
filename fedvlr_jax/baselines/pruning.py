"""Subgraphs of the interactions that are drawn anew in every epoch, with fewer edges at popular nodes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedvlr_jax.baselines.graph import Graph, reweigh
from fedvlr_jax.types import Array


def prune(key: Array, graph: Graph, user_e: Array, item_e: Array, kept: float) -> Graph:
    """A share of the edges with new weights 1 / sqrt(degree_u degree_i); the others stay with weight 0.

    The largest of log(w_e) + Gumbel noise are a sample without replacement, one edge after the other with
    probabilities proportional to w_e among those that are left (Kool et al., ICML 2019).

    Args:
      key: of the epoch.
      graph: the interactions [u, i].
      user_e, item_e: int32 [e], the ends of its edges in their order.
      kept: the share, above 0 and at most 1; known when the program is built.
    """
    one_e = jnp.ones(user_e.shape)
    score_e = _log_weight(graph, user_e, item_e, one_e) + jax.random.gumbel(key, one_e.shape)
    _, chosen = jax.lax.top_k(score_e, round(kept * len(one_e)))
    is_kept_e = jnp.zeros_like(one_e).at[chosen].set(1.0)
    return reweigh(graph, is_kept_e * jnp.exp(_log_weight(graph, user_e, item_e, is_kept_e)))


def _log_weight(graph: Graph, user_e: Array, item_e: Array, count_e: Array) -> Array:
    """log(1 / sqrt(degree_u degree_i)) of every edge, where edges count `count_e` (0 or 1) times; [e].

    A degree of 0 is taken for 1.
    """
    degree_u = jax.ops.segment_sum(count_e, user_e, graph.num_targets)
    degree_i = jax.ops.segment_sum(count_e, item_e, graph.num_sources)
    return -jnp.log(jnp.maximum(degree_u[user_e] * degree_i[item_e], 1)) / 2
