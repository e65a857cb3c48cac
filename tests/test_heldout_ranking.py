"""Ranks of several held-out rows a user against a loop over rows, wherever they are computed."""

from __future__ import annotations

import dataclasses
import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from ranking_oracle import largest_array, one_bucket, random_dataset, rank_of

from fedvlr_jax.data.arrays import from_arrays
from fedvlr_jax.data.buckets import heldout_targets
from fedvlr_jax.evaluation import ranking
from fedvlr_jax.inference.recommend import _without_held_out
from fedvlr_jax.types import BlockScore, Bucket, Dataset, HeldOut

rank_all = jax.jit(ranking.rank_all, static_argnames=("score", "chunk"))


def look_up(score_ui, chunk):
    """A score function whose parameters are the scores of all users."""
    return score_ui.at[chunk.user].get(mode="fill", fill_value=jnp.nan)


def in_blocks(num_items: int, size: int) -> BlockScore:
    """`look_up`, some items at a time."""
    return BlockScore(
        look_up, lambda params, s_ci, first: jax.lax.dynamic_slice_in_dim(s_ci, first, size, 1), num_items, size
    )


def with_several(dataset: Dataset, seed: int = 0, most: int = 4) -> Dataset:
    """The same histories with 0 to `most` validation and test rows a user; user 1 has none, user 2 has most."""
    rng = np.random.default_rng(seed)
    rows = [(u, i, 0) for u, i in zip(dataset.train_user.tolist(), dataset.train_item.tolist(), strict=True)]
    for user in range(dataset.num_users):
        free = rng.permutation(np.setdiff1d(np.arange(dataset.num_items), [i for u, i, _ in rows if u == user]))
        valid, test = {1: (0, 0), 2: (most, most)}.get(user, rng.integers(0, most, 2))
        rows += [(user, item, 1 if k < valid else 2) for k, item in enumerate(free[: valid + test].tolist())]
    user, item, label = np.array(rows)[rng.permutation(len(rows))].T
    made = from_arrays(user, item, splits=label, item_ids=np.arange(dataset.num_items))
    return dataclasses.replace(made, V=dataset.V, C=dataset.C)


DATASET = with_several(random_dataset(0, num_users=13, num_items=31))
SCORES = np.random.default_rng(1).integers(0, 6, (13, 31)).astype(np.float32)


def by_a_loop(dataset: Dataset, score_ui) -> tuple[np.ndarray, np.ndarray]:
    """(greater, tied) of every place for a held-out row."""
    found = [
        [
            rank_of(score_ui[u], dataset.train_item[dataset.train_user == u], item)
            for u, item in zip(dataset.held_user, items, strict=True)
        ]
        for items in (dataset.valid_item, dataset.test_item)
    ]
    greater_th, tied_th = np.moveaxis(np.array(found), -1, 0)
    return greater_th, tied_th


@hypothesis.given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(1, 2)), max_size=30))
@hypothesis.settings(deadline=None, max_examples=50, derandomize=True, database=None)
def test_held_out_rows_stand_user_after_user_by_item(rows):
    held = {(user, item): label for user, item, label in rows} | {(0, 8): 1, (0, 9): 2}
    train = {(user, 0): 0 for user in range(5)}
    user, item, label = np.array([(*pair, label) for pair, label in (held | train).items()]).T
    dataset = from_arrays(user, item, splits=label, item_ids=np.arange(10))
    of_user = np.arange(5) if dataset.held_user is None else dataset.held_user
    width_u = []
    for one in range(5):
        expected = [sorted(i for (u, i), lab in held.items() if (u, lab) == (one, label)) for label in (1, 2)]
        width_u.append(max(1, *map(len, expected)))
        for items, found in zip(expected, (dataset.valid_item, dataset.test_item), strict=True):
            assert found[of_user == one].tolist() == items + [-1] * (width_u[-1] - len(items))
    np.testing.assert_array_equal(of_user, np.repeat(np.arange(5), width_u))
    assert (dataset.held_user is None) == (max(width_u) == 1)


@pytest.mark.parametrize(("chunk", "layout", "size"), [(1, [], None), (7, [1, 1, 10], 7), (50, [], 7)])
def test_ranks_are_those_of_every_row_on_its_own(chunk, layout, size):
    (bucket,) = one_bucket(DATASET)
    order = np.random.default_rng(2).permutation(13)
    buckets = tuple(Bucket(bucket.user[part], bucket.history[part]) for part in np.split(order, layout))
    score = look_up if size is None else in_blocks(31, size)
    targets = heldout_targets(DATASET)
    assert np.bincount(targets.user).max() == len(targets.place) == 4
    ranks = rank_all(score, jnp.asarray(SCORES), buckets, targets, chunk=chunk)
    np.testing.assert_array_equal(ranks.item, targets.item)
    np.testing.assert_array_equal(ranks.user, DATASET.held_user)
    greater_th, tied_th = by_a_loop(DATASET, SCORES)
    np.testing.assert_array_equal(ranks.greater, greater_th)
    np.testing.assert_array_equal(ranks.tied, tied_th)


def test_one_place_a_user_has_the_ranks_of_one_item_a_user():
    dataset = random_dataset(3, num_users=13, num_items=31)
    plain = heldout_targets(dataset)
    user = np.arange(13, dtype=np.int32)
    same = HeldOut(plain, user, np.arange(15, dtype=np.int32).clip(max=13), np.arange(1, dtype=np.int32))
    ranks = [rank_all(look_up, SCORES, one_bucket(dataset), targets, chunk=5) for targets in (plain, same)]
    jax.tree.map(np.testing.assert_array_equal, ranks[0], ranks[1]._replace(user=None))


def test_hidden_test_items_of_several_are_not_ranked_and_users_without_a_slot_have_no_ranks():
    targets = ranking.without_test(heldout_targets(DATASET))
    assert (targets.item[1] == -1).all()
    (bucket,) = one_bucket(DATASET)
    ranks = rank_all(look_up, SCORES, (Bucket(bucket.user[:5], bucket.history[:5]),), targets, chunk=2)
    greater_th, tied_th = by_a_loop(DATASET, SCORES)
    here = DATASET.held_user < 5
    np.testing.assert_array_equal(ranks.greater[0, here], greater_th[0, here])
    np.testing.assert_array_equal(ranks.tied[0, here], tied_th[0, here])
    for part in (np.s_[0, ~here], np.s_[1]):
        assert set(np.asarray(ranks.item)[part].tolist()) == {-1}
        assert set(np.asarray(ranks.tied)[part].tolist()) == {1}


def test_one_user_with_very_many_rows_costs_the_others_nothing():
    """No array is as large as users times the rows of that user; the work of a chunk ends with its own rows."""
    num_users, num_items, most = 3000, 2000, 500
    width_u = np.ones(num_users, np.int64)
    width_u[7] = most
    start = np.concatenate([[0], np.cumsum(width_u), [width_u.sum()]]).astype(np.int32)
    user = np.repeat(np.arange(num_users, dtype=np.int32), width_u)
    targets = HeldOut(np.zeros((2, len(user)), np.int32), user, start, np.arange(most, dtype=np.int32))
    buckets = (Bucket(np.arange(num_users), np.full((num_users, 3), num_items, np.int32)),)

    def score(score_i, slots):
        return jnp.broadcast_to(score_i[None], (slots.user.shape[0], num_items))

    program = functools.partial(ranking.rank_all, score, chunk=8)
    jaxpr = jax.make_jaxpr(lambda *arguments: program(*arguments))(np.zeros(num_items, np.float32), buckets, targets)
    assert largest_array(jaxpr) <= 2 * 8 * num_items < num_users * most


def test_seen_items_are_not_recommended():
    item_uk = np.tile(np.arange(31), (13, 1)).astype(np.int32)
    found, score_uk = _without_held_out(DATASET, item_uk, np.ones((13, 31), np.float32))
    for user in range(13):
        places = DATASET.held_user == user
        seen = {*DATASET.valid_item[places].tolist(), *DATASET.test_item[places].tolist()} - {-1}
        left = [i for i in range(31) if i not in seen]
        assert found[user].tolist() == left + [-1] * len(seen)
        assert np.isfinite(score_uk[user]).sum() == len(left)
