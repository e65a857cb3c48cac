"""Ranks of the held-out items among all candidates, with ties counted instead of broken.

The candidates of a user are all items except the user's train history: held-out validation items are candidates
when a test item is ranked, and the other way round, and so are the other held-out items of the same split, where a
user has several (`metrics` says what each metric makes of them). A score that is not finite (NaN, +inf or
-inf) counts as -inf, so that a diverged model cannot win, and is reported.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.evaluation.candidates import (
    EXCLUDED,
    INFINITY,
    block_candidates,
    block_keys,
    float32_scores,
    order_key,
    without_history,
)
from fedvlr_jax.evaluation.metrics import TEST
from fedvlr_jax.evaluation.targets import at_places, item_of, num_places, num_users_of, rows_of
from fedvlr_jax.types import Array, BlockScore, Bucket, HeldOut, PyTree, Ranks, Score, Targets

_WORST = np.iinfo(np.int32).max  # above every key


def rank_chunk(scores_ci: Array, history_cl: Array, target_tc: Array) -> tuple[Array, Array, Array, Array]:
    """Rank the held-out items of one chunk of users.

    Args:
      scores_ci: float32 [c, i], larger is better.
      history_cl: int32 [c, l], train items of each user, padded with ids ``>= num_items``.
      target_tc: int32 [t, c], held-out items, -1 where there is none; or [t, p, c], where users have several.

    Returns:
      ``(greater, tied, constant_c, nonfinite_c)`` as the fields of `types.Ranks`, the first two in the shape of
      `target_tc`. Without a held-out item, greater is 0 and tied is 1. The held-out item always belongs to its own
      tie group.

    Raises:
      TypeError: if the scores are not float32 (a wider type would gain ties in the conversion).
    """
    key_ci = order_key(float32_scores(scores_ci))
    candidate_ci = without_history(key_ci, history_cl)

    def rank_targets(target_tc: Array) -> tuple[Array, Array]:
        return jax.vmap(_target_rank, in_axes=(None, None, 0))(key_ci, candidate_ci, target_tc)

    greater_tc, tied_tc = at_places(rank_targets, target_tc, num_places(target_tc))
    greater_tc, tied_tc = jnp.where(target_tc < 0, 0, greater_tc), jnp.where(target_tc < 0, 1, tied_tc)

    # An excluded item is replaced by the best candidate, which moves neither the minimum nor the maximum.
    best_c1 = candidate_ci.max(axis=1, keepdims=True)
    worst_c = jnp.where(candidate_ci == EXCLUDED, best_c1, candidate_ci).min(axis=1)
    return greater_tc, tied_tc, worst_c == best_c1[:, 0], (candidate_ci == -INFINITY).sum(axis=1)


def rank_all(score: Score, params: PyTree, buckets: Sequence[Bucket], targets: Targets, *, chunk: int) -> Ranks:
    """Rank the held-out items of all users, `chunk` users at a time.

    Pure and jit-able (``static_argnames=("score", "chunk")``); memory is bounded by chunk x num_items scores (chunk
    x size with a `BlockScore`), whatever the number of users.

    Args:
      score: `Score`; its values for empty slots are ignored.
      params: whatever `score` needs.
      buckets: the users and their train histories; every user is in at most one slot.
      targets: the held-out items (validation, test).
      chunk: most users scored at once.

    Returns:
      The ranks; users that are in no bucket have item -1.

    Raises:
      ValueError: if `chunk` is not positive.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 user, found {chunk}")
    targets = jax.tree.map(lambda x: jnp.asarray(x, jnp.int32), targets)
    item_th, num_users = item_of(targets), num_users_of(targets)

    def rank_slots(ranks: Ranks, slots: Bucket) -> tuple[Ranks, None]:
        row = rows_of(targets, slots.user)
        target = item_th.at[:, row].get(mode="fill", fill_value=-1)
        greater, tied, constant_c, nonfinite_c = _rank_slots(score, params, slots, target)
        rows = {"item": target, "greater": greater, "tied": tied}
        users = {"constant": constant_c, "nonfinite": nonfinite_c}
        found = {name: getattr(ranks, name).at[:, row].set(x, mode="drop") for name, x in rows.items()}
        found |= {name: getattr(ranks, name).at[slots.user].set(x, mode="drop") for name, x in users.items()}
        return ranks._replace(**found), None

    ranks = jax.tree.map(jnp.asarray, unranked(targets))
    for bucket in buckets:
        if bucket.user.shape[0]:
            ranks, _ = jax.lax.scan(rank_slots, ranks, split_slots(bucket, chunk, num_users))
    return ranks


def without_test(targets: Targets) -> Targets:
    """The held-out items with -1 in place of the test items, for evaluations that must not see them (NumPy)."""
    hidden_th = np.array(item_of(targets))
    hidden_th[TEST] = -1
    return targets._replace(item=hidden_th) if isinstance(targets, HeldOut) else hidden_th


def unranked(targets: Targets) -> Ranks:
    """The ranks of users that were not ranked (NumPy): no item, nothing above it, tied with itself alone."""
    shape, num_users = item_of(targets).shape, num_users_of(targets)
    return Ranks(
        item=np.full(shape, -1, np.int32),
        greater=np.zeros(shape, np.int32),
        tied=np.ones(shape, np.int32),
        constant=np.zeros(num_users, bool),
        nonfinite=np.zeros(num_users, np.int32),
        user=targets.user if isinstance(targets, HeldOut) else None,
    )


def rank_block(
    score: Score, params: PyTree, block: Bucket, target_tb: Array, *, num_chunks: int
) -> tuple[Array, ...]:
    """`rank_chunk` of all slots of a bucket, equally many of them at a time; pure and jit-able.

    Args:
      score, params: as for `rank_all`.
      block: b slots, a multiple of `num_chunks`.
      target_tb: int32 [t, b] or [t, p, b], the held-out items of its users, -1 where there is none.
      num_chunks: how many chunks.

    Returns:
      ``(greater, tied, constant_b, nonfinite_b)``, the first two in the shape of `target_tb`; those of empty
      slots mean nothing.
    """
    num_slots = block.user.shape[0]

    def rank_slots(chunk: tuple[Bucket, Array]) -> tuple[Array, ...]:
        slots, target_ct = chunk
        return _rank_slots(score, params, slots, jnp.moveaxis(target_ct, 0, -1))

    block_and_targets = block, jnp.moveaxis(target_tb, -1, 0)
    chunks = jax.tree.map(lambda x: x.reshape(num_chunks, -1, *x.shape[1:]), block_and_targets)
    greater, tied, constant, nonfinite = jax.lax.map(rank_slots, chunks)
    joined = (jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], num_slots) for x in (greater, tied))
    return *joined, constant.reshape(-1), nonfinite.reshape(-1)


def _rank_slots(score: Score, params: PyTree, slots: Bucket, target_tc: Array) -> tuple[Array, ...]:
    if isinstance(score, BlockScore):
        return _rank_in_blocks(score, params, slots, target_tc)
    return rank_chunk(score(params, slots), slots.history, target_tc)


def _rank_in_blocks(score: BlockScore, params: PyTree, slots: Bucket, target_tc: Array) -> tuple[Array, ...]:
    """`rank_chunk` without ever holding the scores of more than ``score.size`` items.

    Two passes, so that a held-out item is compared by the very score that its block gave it: the first picks the keys
    of the held-out items, the second counts. The last block starts early enough to be whole; what of it belongs to
    the block before is not counted again.
    """
    ready = score.prepare(params, slots)
    num_blocks, most = -(-score.num_items // score.size), num_places(target_tc)
    num_users = slots.user.shape[0]

    def inside(target_tc: Array) -> tuple[Array, ...]:
        return (jnp.any(slots.history[None] == target_tc[:, :, None], axis=-1),)

    def pick(k: Array, found_tc: Array) -> Array:
        first, old, key_cb = block_keys(score, params, ready, k)
        at_tc = target_tc - first
        at_cx = jnp.clip(at_tc, 0, score.size - 1).reshape(-1, num_users).T
        key_tc = jnp.take_along_axis(key_cb, at_cx, axis=1).T.reshape(at_tc.shape)
        return jnp.where((at_tc >= old) & (at_tc < score.size), key_tc, found_tc)

    def count(k: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        greater_tc, tied_tc, best_c, worst_c, nonfinite_c = carry
        candidate_cb = block_candidates(slots.history, *block_keys(score, params, ready, k))
        lowest_c = jnp.where(candidate_cb == EXCLUDED, _WORST, candidate_cb).min(axis=1)

        def compare(key_tc: Array) -> tuple[Array, ...]:
            above, same = candidate_cb[None] > key_tc[:, :, None], candidate_cb[None] == key_tc[:, :, None]
            return above.sum(axis=-1), same.sum(axis=-1)

        more_tc, same_tc = at_places(compare, key_tc, most)
        return (
            greater_tc + more_tc,
            tied_tc + same_tc,
            jnp.maximum(best_c, candidate_cb.max(axis=1)),
            jnp.minimum(worst_c, lowest_c),
            nonfinite_c + (candidate_cb == -INFINITY).sum(axis=1),
        )

    key_tc = jax.lax.fori_loop(0, num_blocks, pick, jnp.zeros(target_tc.shape, jnp.int32))
    zero_tc, zero_c = jnp.zeros(target_tc.shape, jnp.int32), jnp.zeros(num_users, jnp.int32)
    start = (zero_tc, zero_tc, zero_c + EXCLUDED, zero_c + _WORST, zero_c)
    greater_tc, tied_tc, best_c, worst_c, nonfinite_c = jax.lax.fori_loop(0, num_blocks, count, start)
    missing_tc = target_tc < 0
    (inside_tc,) = at_places(inside, target_tc, most)
    return (
        jnp.where(missing_tc, 0, greater_tc),
        jnp.where(missing_tc, 1, tied_tc + inside_tc),
        (worst_c == best_c) | (best_c == EXCLUDED),
        nonfinite_c,
    )


def _target_rank(key_ci: Array, candidate_ci: Array, target_c: Array) -> tuple[Array, Array]:
    """Candidates above the target, and the size of its tie group, for every user of a chunk."""
    at_c1 = jnp.maximum(target_c, 0)[:, None]
    key_c1 = jnp.take_along_axis(key_ci, at_c1, axis=1)
    # A target inside the history is no candidate, but still one member of its own tie group.
    outside_c1 = jnp.take_along_axis(candidate_ci, at_c1, axis=1) == EXCLUDED
    greater_c = (candidate_ci > key_c1).sum(axis=1)
    tied_c = (candidate_ci == key_c1).sum(axis=1) + outside_c1[:, 0]
    return greater_c, tied_c


def split_slots(bucket: Bucket, chunk: int, num_users: int) -> Bucket:
    """The bucket as [number of chunks, slots, ...], with as few empty slots as equal chunks allow."""
    num_slots = bucket.user.shape[0]
    num_chunks = -(-num_slots // chunk)
    width = -(-num_slots // num_chunks)
    slot = jnp.arange(num_chunks * width).reshape(num_chunks, width)
    source = jnp.minimum(slot, num_slots - 1)
    return Bucket(
        user=jnp.where(slot < num_slots, jnp.asarray(bucket.user)[source], num_users),
        history=jnp.asarray(bucket.history)[source],
        row=None if bucket.row is None else jnp.asarray(bucket.row)[source],
    )
