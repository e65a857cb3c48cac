"""Whole lists of recommendations: which items are shown, how known, how popular and how alike they are.

The list of a user at a cut-off k is the first k candidates, equal scores in random order. Let the k-th place fall
into a tie group of e items behind g better ones. The better ones are in the list for certain, each of the e with
probability (k - g) / e, two of them together with probability (k - g)(k - g - 1) / (e (e - 1)), and everything else
is not. All values below are exact expectations under that; ties of different users are broken independently.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.evaluation.candidates import EXCLUDED, block_candidates, block_keys
from fedvlr_jax.evaluation.metrics import CUTOFFS
from fedvlr_jax.evaluation.ranking import split_slots
from fedvlr_jax.evaluation.top import in_blocks, num_blocks, top_keys
from fedvlr_jax.types import Array, BlockScore, Bucket, Dataset, PyTree, Score

NOVELTY, POPULARITY = "Novelty", "Popularity"
DIVERSITY = {"V": "VisualDiversity", "C": "TextDiversity"}
"""Diversity within a list, by the symbol of the features that it is measured on."""


class ItemFacts(NamedTuple):
    """What lists are judged by; all of it from train rows and features.

    Attributes:
      means: float32 [i] by metric (NumPy), the value of an item whose mean over a list is the metric.
      features: float32 [i, d] by metric, rows of unit norm (or zero) that cosines are taken of.
    """

    means: dict[str, Array]
    features: dict[str, Array]


class Lists(NamedTuple):
    """What the lists of some users are worth, at each of `CUTOFFS` (axis ``k``).

    Attributes:
      values: float32 [u, k] by metric, each user's; NaN where a list is too short to have one.
      exposure_ki: float32 [k, i], the expected number of these users who are shown an item.
      missed_ki: float32 [k, i], the logarithm of the probability that none of them is.
    """

    values: dict[str, Array]
    exposure_ki: Array
    missed_ki: Array


class _Cut(NamedTuple):
    """The lists of a chunk among its first places (axis ``p``), and the tie that may go on behind the last of them.

    Attributes:
      item_cp: int32 [c, p], best first; |I| where there is none.
      above_cpk, tied_cpk: whether a place is in the list for certain, and whether it is in the tie group of the cut.
      share_ck: the probability of each member of that group.
      size_ck, length_ck: members of the group, and items of the list.
      more_ck: whether the group of this cut is the one that goes on behind the last place.
      last_c, last_item_c: key and item of the last place.
      rest_c: how many members are behind it.
    """

    item_cp: Array
    above_cpk: Array
    tied_cpk: Array
    share_ck: Array
    size_ck: Array
    length_ck: Array
    more_ck: Array
    last_c: Array
    last_item_c: Array
    rest_c: Array


def item_facts(dataset: Dataset) -> ItemFacts:
    """The facts of a data set's items.

    Popularity is the share of users who have the item in train. The self-information of an item that n of |U| users
    have is -log2((n + 1) / (|U| + 1)) bits, so that an item nobody has is the most novel, and finitely so.
    """
    count_i = np.bincount(dataset.train_item, minlength=dataset.num_items)
    information_i = -np.log2((count_i + 1) / (dataset.num_users + 1))
    means: dict[str, Any] = {NOVELTY: information_i, POPULARITY: count_i / dataset.num_users}
    features: dict[str, Any] = {name: getattr(dataset, symbol) for symbol, name in DIVERSITY.items()}
    return ItemFacts(
        {name: x_i.astype(np.float32) for name, x_i in means.items()},
        {name: x_id.astype(np.float32, copy=False) for name, x_id in features.items() if x_id is not None},
    )


def list_chunk(
    score: Score,
    params: PyTree,
    slots: Bucket,
    facts: ItemFacts,
    *,
    num_users: int,
    cutoffs: Sequence[int] = CUTOFFS,
) -> Lists:
    """The lists of a chunk of users, [c, ...]; pure and jit-able.

    A score that is not finite counts as -inf. Values of empty slots mean nothing, and their lists expose nothing.
    With a `BlockScore` memory is bounded by users x (size + longest list), else by users x items.

    Args:
      score, params: as of `ranking.rank_all`.
      slots: users and their train histories; these items are not shown.
      facts: of the items.
      num_users: |U|, the user of an empty slot.
      cutoffs: lengths of lists, ascending.
    """
    facts = jax.tree.map(jnp.asarray, facts)
    num_items = facts.means[POPULARITY].size
    blocks = in_blocks(score, num_items)
    ready = blocks.prepare(params, slots)

    def tied_last(k: Array, last_c: Array) -> tuple[Array, Array]:
        """The first item of a block, and which of its items have the score of the last place."""
        first, old, key_cb = block_keys(blocks, params, ready, k)
        candidate_cb = block_candidates(slots.history, first, old, key_cb)
        return first, (candidate_cb == last_c[:, None]) & (last_c != EXCLUDED)[:, None]

    key_cp, item_cp = top_keys(blocks, params, ready, slots, cutoffs[-1])
    zero_c = jnp.zeros(slots.user.shape, jnp.int32)
    same_c = jax.lax.fori_loop(
        0, num_blocks(blocks), lambda k, n_c: n_c + tied_last(k, key_cp[:, -1])[1].sum(axis=1), zero_c
    )
    cut = _cut(key_cp, item_cp, same_c, cutoffs, num_items)
    real_c = (slots.user < num_users).astype(jnp.float32)
    squares = {name: (x_id**2).sum(axis=1) for name, x_id in facts.features.items()}
    tables = (facts.means, facts.features, squares)
    rest, exposure_ki, missed_ki = _rest(blocks, tied_last, cut, tables, real_c)
    share_cpk = (cut.above_cpk + cut.tied_cpk * cut.share_ck[:, None]) * real_c[:, None, None]
    shown_ki = exposure_ki.at[:, cut.item_cp].add(jnp.moveaxis(share_cpk, 2, 0), mode="drop")
    missed_ki = missed_ki.at[:, cut.item_cp].add(jnp.moveaxis(jnp.log1p(-share_cpk), 2, 0), mode="drop")
    rest_means, rest_features, rest_squares = rest
    values = {name: _mean(cut, x_i, rest_means[name]) for name, x_i in facts.means.items()}
    for name, x_id in facts.features.items():
        values[name] = _diversity(cut, x_id, squares[name], rest_features[name], rest_squares[name])
    return Lists(values, shown_ki, missed_ki)


def list_all(
    score: Score, params: PyTree, buckets: Sequence[Bucket], facts: ItemFacts, *, num_users: int, chunk: int
) -> Lists:
    """The lists of all users, `chunk` users at a time; pure and jit-able.

    Args:
      score, params, facts, num_users: as of `list_chunk`.
      buckets: the users and their train histories; every user is in at most one slot.
      chunk: most users scored at once.

    Returns:
      The lists, [u, ...]; users that are in no bucket have NaN.
    """

    def add(lists: Lists, slots: Bucket) -> tuple[Lists, None]:
        found = list_chunk(score, params, slots, facts, num_users=num_users)
        values = {name: x.at[slots.user].set(found.values[name], mode="drop") for name, x in lists.values.items()}
        return Lists(values, lists.exposure_ki + found.exposure_ki, lists.missed_ki + found.missed_ki), None

    lists = jax.tree.map(jnp.asarray, no_lists(facts, num_users))
    for bucket in buckets:
        if bucket.user.shape[0]:
            lists, _ = jax.lax.scan(add, lists, split_slots(bucket, chunk, num_users))
    return lists


def no_lists(facts: ItemFacts, num_users: int) -> Lists:
    """The lists of users none of whom is shown anything (NumPy)."""
    names, shape = (*facts.means, *facts.features), (len(CUTOFFS), facts.means[POPULARITY].size)
    values: Any = {name: np.full((num_users, len(CUTOFFS)), np.nan, np.float32) for name in names}
    nothing_ki: Any = np.zeros(shape, np.float32)
    return Lists(values, nothing_ki, nothing_ki)


def _cut(key_cp: Array, item_cp: Array, same_c: Array, cutoffs: Sequence[int], num_items: int) -> _Cut:
    """Args: keys and items of the first places, and how many candidates have the key of the last place."""
    last_c, real_cp = key_cp[:, -1], key_cp != EXCLUDED
    rest_c = same_c - ((key_cp == last_c[:, None]) & real_cp).sum(axis=1)
    edge_ck = key_cp[:, np.asarray(cutoffs) - 1]
    above_cpk = key_cp[:, :, None] > edge_ck[:, None]
    tied_cpk = (key_cp[:, :, None] == edge_ck[:, None]) & real_cp[:, :, None]
    more_ck = (edge_ck == last_c[:, None]) & (rest_c > 0)[:, None]
    size_ck = tied_cpk.sum(axis=1) + jnp.where(more_ck, rest_c[:, None], 0)
    better_ck = above_cpk.sum(axis=1)
    chosen_ck = jnp.clip(np.asarray(cutoffs)[None] - better_ck, 0, size_ck)
    return _Cut(
        item_cp=jnp.where(real_cp, item_cp, num_items),
        above_cpk=above_cpk.astype(jnp.float32),
        tied_cpk=tied_cpk.astype(jnp.float32),
        share_ck=chosen_ck / jnp.maximum(size_ck, 1),
        size_ck=size_ck.astype(jnp.float32),
        length_ck=(better_ck + chosen_ck).astype(jnp.float32),
        more_ck=more_ck,
        last_c=last_c,
        last_item_c=item_cp[:, -1],
        rest_c=rest_c,
    )


def _rest(
    blocks: BlockScore, tied_last: Any, cut: _Cut, tables: PyTree, real_c: Array
) -> tuple[PyTree, Array, Array]:
    """Sums of the tables [i, ...] over the members of a tie behind the last place, [c, ...], and what those expose.

    Of equal scores the lower ids come first, so the members behind the last place are those with a larger id.
    Nothing is computed where no user of the chunk has any.
    """
    share_ck = jnp.where(cut.more_ck, cut.share_ck, 0) * real_c[:, None]
    num_users, num_cuts = share_ck.shape

    def add(k: Array, carry: tuple[PyTree, Array, Array]) -> tuple[PyTree, Array, Array]:
        sums, exposure_ki, missed_ki = carry
        first, tied_cb = tied_last(k, cut.last_c)
        item_b = first + jnp.arange(blocks.size)
        rest_cb = (tied_cb & (item_b[None] > cut.last_item_c[:, None])).astype(jnp.float32)

        def of_block(x: Array, axis: int = 0) -> Array:
            return jax.lax.dynamic_slice_in_dim(x, first, blocks.size, axis)

        def onto(x_ki: Array, weight_ck: Array) -> Array:
            new_kb = of_block(x_ki, 1) + _product(weight_ck.T, rest_cb)
            return jax.lax.dynamic_update_slice_in_dim(x_ki, new_kb, first, 1)

        sums = jax.tree.map(lambda total, x: total + _product(rest_cb, of_block(x)), sums, tables)
        return sums, onto(exposure_ki, share_ck), onto(missed_ki, jnp.log1p(-share_ck))

    nothing = jax.tree.map(lambda x: jnp.zeros((num_users, *x.shape[1:])), tables)
    empty_ki = jnp.zeros((num_cuts, blocks.num_items))
    start = (nothing, empty_ki, empty_ki)
    return jax.lax.cond(
        jnp.any(cut.rest_c > 0), lambda: jax.lax.fori_loop(0, num_blocks(blocks), add, start), lambda: start
    )


def _mean(cut: _Cut, x_i: Array, rest_c: Array) -> Array:
    """E[mean of x over the list], float32 [c, k]; NaN for an empty list."""
    x_cp = x_i.at[cut.item_cp].get(mode="fill", fill_value=0)
    above_ck = _sum(cut.above_cpk, x_cp)
    tied_ck = _sum(cut.tied_cpk, x_cp) + jnp.where(cut.more_ck, rest_c[:, None], 0)
    return (above_ck + cut.share_ck * tied_ck) / cut.length_ck


def _diversity(cut: _Cut, x_id: Array, square_i: Array, rest_cd: Array, rest_square_c: Array) -> Array:
    """E[mean of 1 - cosine over the pairs of the list], float32 [c, k]; NaN for a list without pairs.

    The sum of all products x.y of pairs (x, y) of a set is |sum x|^2 - sum |x|^2; so sums over the certain members
    and over the tie group are all that is needed.
    """
    square_cp = square_i.at[cut.item_cp].get(mode="fill", fill_value=0)
    above_ckd, tied_ckd = _feature_sums(cut, x_id)
    tied_ckd += jnp.where(cut.more_ck[:, :, None], rest_cd[:, None], 0)
    tied_square_ck = _sum(cut.tied_cpk, square_cp) + jnp.where(cut.more_ck, rest_square_c[:, None], 0)
    above_ck = (above_ckd**2).sum(axis=2) - _sum(cut.above_cpk, square_cp)
    across_ck = 2 * (above_ckd * tied_ckd).sum(axis=2)
    tied_ck = (tied_ckd**2).sum(axis=2) - tied_square_ck
    both_ck = cut.share_ck * (cut.share_ck * cut.size_ck - 1) / jnp.maximum(cut.size_ck - 1, 1)
    cosines_ck = above_ck + cut.share_ck * across_ck + both_ck * tied_ck
    pairs_ck = cut.length_ck * (cut.length_ck - 1)
    return jnp.where(pairs_ck > 0, 1 - cosines_ck / pairs_ck, jnp.nan)


def _feature_sums(cut: _Cut, x_id: Array) -> tuple[Array, Array]:
    """Sums of features [c, k, d] over what is certainly in a list, and over what of its tie group is at hand.

    User after user: the features of one list stay in cache, those of all lists are far larger than it.
    """

    def one(user: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        item_p, above_pk, tied_pk = user
        x_pd = x_id.at[item_p].get(mode="fill", fill_value=0)
        sum_xd = _product(jnp.concatenate([above_pk, tied_pk], axis=1).T, x_pd)
        return sum_xd[: above_pk.shape[1]], sum_xd[above_pk.shape[1] :]

    return jax.lax.map(one, (cut.item_cp, cut.above_cpk, cut.tied_cpk))


def _sum(weight_cpk: Array, x_cp: Array) -> Array:
    return jnp.einsum("cpk,cp->ck", weight_cpk, x_cp, precision="highest")


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision="highest")
