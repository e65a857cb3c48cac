"""The best items of every user, exactly, some items at a time if need be."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from fedvlr_jax.evaluation.candidates import EXCLUDED, block_candidates, block_keys, key_score
from fedvlr_jax.types import Array, BlockScore, Bucket, PyTree, Score


def top_items(score: Score, params: PyTree, slots: Bucket, *, num_items: int, k: int) -> tuple[Array, Array]:
    """The k best candidates of a chunk of users: all items except the train history.

    Pure and jit-able. A score that is not finite counts as -inf; among equal scores the lower id comes first.

    Args:
      score: `Score`; with a `BlockScore` memory is bounded by users x (size + k).
      params: whatever `score` needs.
      slots: users and their train histories.
      num_items: |I|.
      k: how many, at least 1.

    Returns:
      ``(item_ck, score_ck)``, int32 and float32 [c, k], best first; -1 and -inf where a user has fewer candidates.
      Rows of empty slots mean nothing.

    Raises:
      ValueError: if `k` is not positive.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1 item, found {k}")
    blocks = in_blocks(score, num_items)
    key_ck, item_ck = top_keys(blocks, params, blocks.prepare(params, slots), slots, k)
    missing_ck = key_ck == EXCLUDED
    return jnp.where(missing_ck, -1, item_ck), jnp.where(missing_ck, -jnp.inf, key_score(key_ck))


def top_keys(blocks: BlockScore, params: PyTree, ready: PyTree, slots: Bucket, k: int) -> tuple[Array, Array]:
    """The keys (`candidates.order_key`) and items of `top_items`, int32 [c, k]; `EXCLUDED` and -1 where none is left.

    Args:
      blocks, params: as the score of `top_items`.
      ready: what ``blocks.prepare`` gave for these slots.
      slots, k: as of `top_items`.
    """
    num_users = slots.user.shape[0]

    def merge(block: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
        key_ck, item_ck = best
        first, old, key_cb = block_keys(blocks, params, ready, block)
        candidate_cb = block_candidates(slots.history, first, old, key_cb)
        item_cb = jnp.broadcast_to((first + jnp.arange(blocks.size, dtype=jnp.int32))[None], candidate_cb.shape)
        # Equal keys keep their order: earlier blocks hold lower ids and come first.
        key_ck, at_ck = largest(jnp.concatenate([key_ck, candidate_cb], axis=1), k)
        return key_ck, jnp.take_along_axis(jnp.concatenate([item_ck, item_cb], axis=1), at_ck, axis=1)

    none = jnp.full((num_users, k), EXCLUDED, jnp.int32), jnp.full((num_users, k), -1, jnp.int32)
    key_ck, item_ck = jax.lax.fori_loop(0, num_blocks(blocks), merge, none)
    return key_ck, jnp.where(key_ck == EXCLUDED, -1, item_ck)


def num_blocks(blocks: BlockScore) -> int:
    """How many blocks of items there are."""
    return -(-blocks.num_items // blocks.size)


def largest(key_cn: Array, k: int) -> tuple[Array, Array]:
    """`jax.lax.top_k` of integers [c, n] with k <= n: values and positions, equal values in the order of positions.

    `top_k` sorts whole rows where it has no faster way. An element of the k largest is in one of the k groups of
    neighbours with the largest maxima (of equal maxima the first): any group that comes before its own holds an
    element that comes before it. So only the maxima, n / g, and the elements of these groups, k g, are sorted.
    """
    num_rows, n = key_cn.shape
    size = math.isqrt(n // k)
    if size < 2:
        return jax.lax.top_k(key_cn, k)
    groups = -(-n // size)
    padded_cn = jnp.pad(key_cn, ((0, 0), (0, groups * size - n)), constant_values=EXCLUDED)
    key_cgs = padded_cn.reshape(num_rows, groups, size)
    group_ck = jnp.sort(jax.lax.top_k(key_cgs.max(axis=2), k)[1], axis=1)  # in the order of positions again
    at_cks = group_ck[:, :, None] * size + jnp.arange(size, dtype=jnp.int32)[None, None]
    few_cks = jnp.take_along_axis(key_cgs, group_ck[:, :, None], axis=1)
    value_ck, at_ck = jax.lax.top_k(few_cks.reshape(num_rows, k * size), k)
    return value_ck, jnp.take_along_axis(at_cks.reshape(num_rows, k * size), at_ck, axis=1)


def in_blocks(score: Score, num_items: int) -> BlockScore:
    """A score by blocks of items; a function that scores all items is a single block."""
    if isinstance(score, BlockScore):
        return score
    return BlockScore(score, lambda params, s_ci, first: s_ci, num_items, num_items)
