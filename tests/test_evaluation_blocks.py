"""Ranking and the best items with the scores of some items at a time: nothing but memory may change."""

from __future__ import annotations

import functools
import math

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from problems import HOST_NAMES, client_data, settings, tiny_dataset
from ranking_oracle import NUM_ITEMS, chunks, largest_array

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.evaluation.candidates import EXCLUDED, key_score, order_key
from fedvlr_jax.evaluation.ranking import rank_all, rank_chunk
from fedvlr_jax.evaluation.top import largest, top_items
from fedvlr_jax.types import BlockScore, Bucket

DATASET = tiny_dataset()
ROUTED = {"fusion__operators": "sum,gate"}


def blocks_of(num_items, size):
    """A score function, some items at a time, whose parameters are the scores of all users."""

    def score(params, score_ci, first):
        return jax.lax.dynamic_slice_in_dim(score_ci, first, size, axis=1)

    return BlockScore(look_up, score, num_items, size)


def look_up(score_ui, slots):
    return score_ui.at[slots.user].get(mode="fill", fill_value=jnp.nan)


@functools.cache
def compiled(size):
    score = blocks_of(NUM_ITEMS, size)
    return (
        jax.jit(lambda scores, slots, targets: rank_all(score, scores, (slots,), targets, chunk=2)),
        jax.jit(lambda scores, slots: top_items(score, scores, slots, num_items=NUM_ITEMS, k=4)),
    )


@pytest.mark.slow
@hypothesis.given(chunks(), st.sampled_from([1, 3, 5, 7]))
@hypothesis.settings(deadline=None, max_examples=150, derandomize=True, database=None)
def test_ranks_do_not_depend_on_how_many_items_are_scored_at_once(case, size):
    scores_ci, history_cl, target_tc = case
    ranks = compiled(size)[0](scores_ci, Bucket(np.arange(3), history_cl), target_tc)
    whole = rank_chunk(*map(jnp.asarray, case))
    for found, expected in zip(ranks[1:5], whole, strict=True):
        np.testing.assert_array_equal(found, expected)


@hypothesis.given(chunks(), st.sampled_from([1, 3, 5, 7]))
@hypothesis.settings(deadline=None, max_examples=150, derandomize=True, database=None)
def test_the_best_items_are_those_of_a_stable_sort(case, size):
    scores_ci, history_cl, _ = case
    item_ck, score_ck = compiled(size)[1](scores_ci, Bucket(np.arange(3), history_cl))
    for c in range(3):
        value = [float(s) if math.isfinite(s) else -math.inf for s in scores_ci[c]]
        order = sorted((i for i in range(NUM_ITEMS) if i not in history_cl[c]), key=lambda i: -value[i])[:4]
        missing = 4 - len(order)
        assert item_ck[c].tolist() == order + [-1] * missing
        assert np.asarray(score_ck[c]).tolist() == [value[i] for i in order] + [-math.inf] * missing


def test_a_key_gives_its_score_back():
    scores = np.array([0.0, 1.5, -1e-40, 3e38, -3.5, -np.inf], np.float32)
    np.testing.assert_array_equal(key_score(order_key(jnp.asarray(scores))), scores)


@pytest.mark.parametrize(("num_items", "k"), [(100, 4), (97, 4), (1000, 1), (1001, 50), (64, 16), (30, 30)])
@pytest.mark.parametrize("distinct", [1, 3, 40, 10**9], ids=lambda n: f"{n} values")
def test_the_largest_in_two_stages_are_those_of_one(num_items, k, distinct):
    key_cn = np.random.default_rng(num_items).integers(-distinct, distinct, (5, num_items), dtype=np.int32)
    key_cn[1, : num_items // 2] = EXCLUDED
    key_cn[2] = EXCLUDED
    expected = np.argsort(-key_cn.astype(np.int64), axis=1, kind="stable")[:, :k]
    value_ck, at_ck = largest(jnp.asarray(key_cn), k)
    np.testing.assert_array_equal(at_ck, expected)
    np.testing.assert_array_equal(value_ck, np.take_along_axis(key_cn, expected, axis=1))


def test_fewer_than_one_best_item_is_refused():
    with pytest.raises(ValueError, match="at least 1 item, found 0"):
        top_items(look_up, jnp.zeros((1, 3)), Bucket(np.zeros(1, int), np.full((1, 1), 3)), num_items=3, k=0)


def test_memory_is_bounded_by_users_times_items_at_once():
    num_users, num_items, size = 16, 5000, 50

    def score(params, ready, first):
        return jnp.broadcast_to(jax.lax.dynamic_slice_in_dim(params, first, size)[None], (num_users, size))

    blocks = BlockScore(lambda params, slots: None, score, num_items, size)
    slots = Bucket(np.arange(num_users), np.zeros((num_users, 3), np.int32))
    params, targets = np.zeros(num_items, np.float32), np.zeros((2, num_users), np.int32)
    rank = jax.make_jaxpr(lambda p: rank_all(blocks, p, (slots,), targets, chunk=num_users))(params)
    top = jax.make_jaxpr(lambda p: top_items(blocks, p, slots, num_items=num_items, k=20))(params)
    assert largest_array(rank) <= 2 * num_users * size  # both held-out items
    assert largest_array(top) <= num_users * (size + 20)


@pytest.mark.parametrize(
    "overrides",
    [
        {"host__name": "fcf"},
        {"host__name": "fcf", "objective": "squared", "variant": "base"},
        pytest.param({"host__name": "fedncf"}, marks=pytest.mark.slow),
        pytest.param({"host__name": "pfedrec", "host__tune_steps": 2}, marks=pytest.mark.slow),
        {"host__name": "pfedrec", "host__tune_steps": 2, "objective": "softmax"},
        {"host__name": "fedrap", "variant": "vbpr"},
    ],
    ids=lambda overrides: "-".join(map(str, overrides.values())),
)
def test_a_model_scores_some_items_as_it_scores_all(overrides):
    size = 11
    algorithm = make_algorithm(settings(**(ROUTED | overrides | {"eval__item_chunk": size})), DATASET)
    blocks = algorithm.rank_score
    data = client_data(DATASET)
    state = jax.jit(algorithm.init)(jax.random.key(0))

    @jax.jit
    def both(state, slots):
        params = algorithm.snapshot(state, data.content)
        ready = blocks.prepare(params, slots)
        firsts = [min(k * size, DATASET.num_items - size) for k in range(-(-DATASET.num_items // size))]
        return algorithm.score(params, slots), [(first, blocks.score(params, ready, first)) for first in firsts]

    whole_ci, parts = both(state, data.buckets[0])
    assert len(parts) == 4
    for first, part_cb in parts:
        np.testing.assert_allclose(part_cb, whole_ci[:, first : first + size], rtol=2e-5, atol=1e-6)


def test_all_items_at_once_is_the_plain_score():
    for item_chunk in (0, DATASET.num_items, 10**6):
        algorithm = make_algorithm(settings(eval__item_chunk=item_chunk), DATASET)
        assert algorithm.rank_score is algorithm.score


def test_a_host_that_blends_all_scores_refuses_some_items_at_a_time():
    assert "fedprior" in HOST_NAMES
    with pytest.raises(ConfigError, match=r"eval.item_chunk: expected 0 .*fedprior.*found 9"):
        make_algorithm(settings(host__name="fedprior", eval__item_chunk=9), DATASET)
