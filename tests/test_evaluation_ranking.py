"""Ranks against naive loops; what must not change them; bounded memory."""

from __future__ import annotations

import functools
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ranking_oracle import NUM_ITEMS, chunks, largest_array, one_bucket, random_dataset, rank_of

from fedvlr_jax.evaluation import ranking
from fedvlr_jax.types import Bucket

rank_chunk = jax.jit(ranking.rank_chunk)
rank_all = jax.jit(ranking.rank_all, static_argnames=("score", "chunk"))


def look_up(score_ui, chunk):
    """A score function whose parameters are the scores of all users."""
    return score_ui.at[chunk.user].get(mode="fill", fill_value=jnp.nan)


def targets(dataset):
    return np.stack([dataset.valid_item, dataset.test_item])


def tied_scores(seed, num_users, num_items):
    return np.random.default_rng(seed).integers(0, 6, (num_users, num_items)).astype(np.float32)


@hypothesis.given(chunks())
@hypothesis.settings(deadline=None, max_examples=150, derandomize=True, database=None)
def test_rank_chunk_equals_a_loop_over_candidates(case):
    scores_ci, history_cl, target_tc = case
    greater_tc, tied_tc, constant_c, nonfinite_c = rank_chunk(*case)
    for c in range(3):
        candidates = [i for i in range(NUM_ITEMS) if i not in history_cl[c]]
        values = [float(scores_ci[c, i]) if math.isfinite(scores_ci[c, i]) else -math.inf for i in candidates]
        assert constant_c[c] == (len(set(values)) <= 1)
        assert nonfinite_c[c] == values.count(-math.inf)
        for t in range(2):
            expected = rank_of(scores_ci[c], history_cl[c], target_tc[t, c])
            assert (greater_tc[t, c], tied_tc[t, c]) == expected


def test_the_other_held_out_item_is_a_candidate():
    scores_ci = np.array([[3.0, 2.0, 1.0, 0.0]], np.float32)
    greater_tc, *_ = rank_chunk(scores_ci, np.array([[0, 4]]), np.array([[2], [1]]))
    np.testing.assert_array_equal(greater_tc, [[1], [0]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_ranks_last(bad):
    scores_ci = np.array([[bad, 1.0, -1e38, bad]], np.float32)
    greater_tc, tied_tc, constant_c, nonfinite_c = rank_chunk(scores_ci, np.array([[4]]), np.array([[0], [1]]))
    np.testing.assert_array_equal(greater_tc, [[2], [0]])
    np.testing.assert_array_equal(tied_tc, [[2], [1]])
    assert (constant_c[0], nonfinite_c[0]) == (False, 2)


def test_a_held_out_item_inside_the_history_is_its_own_tie_group():
    greater_tc, tied_tc, *_ = rank_chunk(np.zeros((1, 3), np.float32), np.array([[1]]), np.array([[1]]))
    assert (greater_tc[0, 0], tied_tc[0, 0]) == (0, 3)


@pytest.mark.parametrize(("chunk", "layout"), [(1, "one"), (4, "one"), (7, "two"), (23, "three"), (500, "two")])
def test_chunk_size_and_bucket_layout_do_not_change_ranks(chunk, layout):
    dataset = random_dataset(0, num_users=23, num_items=31)
    (bucket,) = one_bucket(dataset)
    score_ui = tied_scores(1, 23, 31)
    order = np.random.default_rng(2).permutation(23)
    cuts = {"one": [], "two": [9], "three": [1, 1, 20]}[layout]  # one of the three parts is empty
    buckets = tuple(Bucket(bucket.user[part], bucket.history[part]) for part in np.split(order, cuts))
    ranks = rank_all(look_up, score_ui, buckets, targets(dataset), chunk=chunk)

    np.testing.assert_array_equal(ranks.item, targets(dataset))
    for t, target_u in enumerate(targets(dataset)):
        expected = [rank_of(score_ui[u], bucket.history[u], target_u[u]) for u in range(23)]
        np.testing.assert_array_equal(np.stack([ranks.greater[t], ranks.tied[t]], axis=1), expected)
    assert not ranks.constant.any()
    assert not ranks.nonfinite.any()


def test_hidden_test_items_are_not_ranked_and_validation_items_are():
    dataset = random_dataset(0, num_users=23, num_items=31)
    whole_tu = targets(dataset)
    hidden_tu = ranking.without_test(whole_tu)
    np.testing.assert_array_equal(hidden_tu[0], whole_tu[0])
    assert (hidden_tu[1] == -1).all()
    assert (whole_tu[1] == targets(dataset)[1]).all()  # the argument is not changed
    ranks = rank_all(look_up, tied_scores(1, 23, 31), one_bucket(dataset), hidden_tu, chunk=5)
    assert (np.asarray(ranks.item[1]) == -1).all()


def test_only_the_order_of_scores_matters():
    dataset = random_dataset(3, num_users=11, num_items=19)
    score_ui = tied_scores(4, 11, 19)
    ranks = [
        rank_all(look_up, transform(score_ui).astype(np.float32), one_bucket(dataset), targets(dataset), chunk=5)
        for transform in (lambda s: s, lambda s: -np.exp(-s), lambda s: 2.0**-140 * s, lambda s: 1e30 * s**3)
    ]
    for other in ranks[1:]:
        jax.tree.map(np.testing.assert_array_equal, other, ranks[0])


def test_a_permutation_of_item_ids_changes_nothing():
    dataset = random_dataset(5, num_users=11, num_items=19)
    score_ui, new_id = tied_scores(6, 11, 19), np.random.default_rng(7).permutation(19)
    (bucket,) = one_bucket(dataset)
    renamed = Bucket(bucket.user, np.sort(np.append(new_id, 19)[bucket.history], axis=1).astype(np.int32))
    ranks = rank_all(look_up, score_ui, (bucket,), targets(dataset), chunk=5)
    after = rank_all(look_up, score_ui[:, np.argsort(new_id)], (renamed,), new_id[targets(dataset)], chunk=5)
    for name in ("greater", "tied", "constant", "nonfinite"):
        np.testing.assert_array_equal(getattr(after, name), getattr(ranks, name))


def test_users_without_a_slot_or_a_held_out_item_have_no_row():
    buckets = (Bucket(np.array([2, 0, 3]), np.array([[0], [1], [4]])),)  # user 3 of 3: an empty slot
    target_tu = np.array([[2, 3, -1], [3, 2, 1]])
    ranks = rank_all(look_up, np.zeros((3, 4), np.float32), buckets, target_tu, chunk=2)
    np.testing.assert_array_equal(ranks.item, [[2, -1, -1], [3, -1, 1]])
    np.testing.assert_array_equal(ranks.tied, [[3, 1, 1], [3, 1, 3]])
    np.testing.assert_array_equal(ranks.constant, [True, False, True])
    np.testing.assert_array_equal(ranks.nonfinite, [0, 0, 0])


def test_scores_of_another_type_and_an_empty_chunk_are_refused():
    with pytest.raises(TypeError, match=r"float32 .*found bfloat16 \(1, 3\)"):
        ranking.rank_chunk(jnp.zeros((1, 3), jnp.bfloat16), np.array([[3]]), np.array([[0]]))
    with pytest.raises(ValueError, match="at least 1 user, found 0"):
        ranking.rank_all(look_up, np.zeros((1, 3)), (), np.zeros((2, 1)), chunk=0)


def broadcast(score_i, slots):
    """A score function that makes its rows inside the chunk."""
    return jnp.broadcast_to(score_i[None], (slots.user.shape[0], score_i.shape[0]))


def test_memory_is_bounded_by_the_chunk():
    num_users, num_items = 3000, 2000
    buckets = (Bucket(np.arange(num_users), np.zeros((num_users, 3), np.int32)),)
    arguments = np.zeros(num_items, np.float32), buckets, np.zeros((2, num_users), np.int32)

    def largest(chunk):
        return largest_array(jax.make_jaxpr(functools.partial(ranking.rank_all, broadcast, chunk=chunk))(*arguments))

    assert largest(8) <= 2 * 8 * num_items  # both held-out items against all candidates
    assert largest(num_users) >= num_users * num_items  # the count does see an array of all users


def test_a_second_evaluation_does_not_compile_again():
    dataset, traces = random_dataset(8, num_users=6, num_items=9), []

    def score(params, slots):
        traces.append(1)
        return look_up(params, slots)

    program = jax.jit(ranking.rank_all, static_argnames=("score", "chunk"))
    after = []
    for seed in range(3):
        program(score, tied_scores(seed, 6, 9), one_bucket(dataset), targets(dataset), chunk=4)
        after.append(len(traces))
    assert after[0] == after[1] == after[2] > 0
