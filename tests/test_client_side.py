"""Sampling, objectives, router and hosts against naive formulas."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws.rounds import first_state
from problems import HOST_NAMES, client_data, relative_difference, settings, spread, tiny_dataset
from scipy import stats

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.federated import objectives, sampling
from fedvlr_jax.models.hosts import HOSTS
from fedvlr_jax.models.hosts.host import ItemRows
from fedvlr_jax.models.router import make_mlp
from fedvlr_jax.types import Bucket

DATASET = tiny_dataset()


def test_router_has_12547_parameters_and_returns_weights():
    router = make_mlp(64, 3, jax.nn.relu)
    pooled_jd = jax.random.normal(jax.random.key(0), (3, 64))
    params = router.init(jax.random.key(1))
    assert sum(x.size for x in jax.tree.leaves(params)) == 12_547
    w_j = np.asarray(router.weights(params, pooled_jd))
    assert w_j.shape == (3,)
    assert (w_j > 0).all()
    np.testing.assert_allclose(w_j.sum(), 1, rtol=1e-6)


def test_router_normalises_once():
    """A confident router stays confident; a second softmax would flatten (0.98, 0.02, 0) to (0.57, 0.22, 0.21)."""
    router = make_mlp(4, 3, jax.nn.relu)
    params = jax.tree.map(jnp.zeros_like, router.init(jax.random.key(1)))
    params["params"]["out"]["bias"] = jnp.log(jnp.array([0.98, 0.0199, 0.0001]))
    np.testing.assert_allclose(router.weights(params, jnp.zeros((3, 4))), [0.98, 0.0199, 0.0001], rtol=1e-5)


def test_negatives_are_uniform_over_the_catalogue_without_the_history():
    history = np.array([0, 3, 4, 5, 17, 19])
    padded_l = jnp.asarray([*history, 20, 20], jnp.int32)
    drawn = np.asarray(sampling.sample_negatives(jax.random.key(0), padded_l, 20, 25, 70)).ravel()
    allowed = np.setdiff1d(np.arange(20), history)
    counts = np.bincount(drawn, minlength=21)
    assert counts[history].sum() == 0
    assert counts[20] == 0
    assert stats.chisquare(counts[allowed]).pvalue > 1e-3


@pytest.mark.parametrize("num_items", [40, 5_000, 1_000_003])
def test_negatives_are_the_ranks_of_random_words_among_the_allowed_items(num_items):
    """With fewer items than draws, and with more: two ways to map a rank."""
    history = np.array([0, 2, 3, 17, 38])
    key = jax.random.key(3)
    drawn = np.asarray(sampling.sample_negatives(key, jnp.asarray(history, jnp.int32), num_items, 4, 3))
    word_lan = np.asarray(jax.random.bits(key, (5, 4, 3), jnp.uint32)).astype(np.uint64)
    allowed = np.setdiff1d(np.arange(num_items), history)
    rank_lan = (word_lan * np.uint64(allowed.size)) >> np.uint64(32)
    np.testing.assert_array_equal(drawn, allowed[rank_lan.astype(int)].swapaxes(0, 1))


def test_negatives_with_one_item_left_and_with_none():
    nearly = jnp.asarray([0, 1, 3, 4], jnp.int32)
    assert set(np.asarray(sampling.sample_negatives(jax.random.key(0), nearly, 5, 2, 9)).ravel().tolist()) == {2}
    everything = jnp.arange(5, dtype=jnp.int32)
    assert (np.asarray(sampling.sample_negatives(jax.random.key(0), everything, 5, 2, 9)) == 5).all()


def test_draws_do_not_depend_on_the_padding():
    history = list(range(3, 17, 2))
    drawn, held = [], []
    for width in (8, 32):
        history_l = jnp.asarray([*history, *[40] * (width - len(history))], jnp.int32)
        drawn.append(np.asarray(sampling.sample_negatives(jax.random.key(4), history_l, 40, 3, 2))[:, : len(history)])
        held.append(np.asarray(sampling.hold_out(jax.random.key(4), history_l, 40, 0.5))[:, : len(history)])
    np.testing.assert_array_equal(*drawn)
    np.testing.assert_array_equal(*held)


def test_cohorts_have_exactly_the_size_and_are_uniform():
    keys = jax.random.split(jax.random.key(0), 4_000)
    mask_ru = np.asarray(jax.vmap(lambda k: sampling.cohort_mask(k, 12, 5))(keys))
    assert (mask_ru.sum(axis=1) == 5).all()
    expected = 4_000 * 5 / 12
    assert np.abs(mask_ru.sum(axis=0) - expected).max() < 4.5 * np.sqrt(expected * 7 / 12)
    pair = (mask_ru[:, 0] & mask_ru[:, 1]).mean()
    assert abs(pair - 5 * 4 / (12 * 11)) < 0.025


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_hold_out_divides_the_history(length, share):
    history_l = jnp.asarray([*range(length), *[20] * (8 - length)], jnp.int32)
    input_l, target_l = (np.asarray(x) for x in sampling.hold_out(jax.random.key(1), history_l, 20, share))
    assert input_l[length:].sum() == target_l[length:].sum() == 0
    if length == 1 or share == 0:
        assert (input_l[:length] == 1).all()
        assert (target_l[:length] == 1).all()
        return
    assert (input_l + target_l)[:length].tolist() == [1] * length
    assert target_l.sum() == np.clip(np.round(share * length), 1, length - 1)


def test_objectives_say_which_positives_the_model_may_read():
    history_l = jnp.asarray([2, 3, 5, 7, 11, 20, 20], jnp.int32)
    for name, make in objectives.OBJECTIVES.items():
        objective = make(20, steps=2, negatives=3, holdout=0.4, confidence=1.0)
        draw = objective.draw(jax.random.key(0), history_l)
        covered_l = np.maximum(draw.input_l, draw.target_l)
        np.testing.assert_array_equal(covered_l, history_l < 20)
        assert (float(draw.input_l.sum()), float(draw.target_l.sum())) == ((3, 2) if name == "softmax" else (5, 5))
        assert objective.all_items == (draw.negative_aln is None) == (name in ("softmax", "squared"))


def naive_losses(s_l, s_ln, negatives):
    sigma = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    return {
        "bce": -(np.log(sigma(s_l)).sum() + np.log(1 - sigma(s_ln)).sum()) / (s_l.size + s_ln.size),
        "bpr": -np.log(sigma(s_l[:, None] - s_ln)).mean(),
    }


@pytest.mark.parametrize("name", ["bce", "bpr"])
def test_sampled_losses_equal_the_formula_and_ignore_padding(name):
    rng = np.random.default_rng(0)
    s_l, s_ln = rng.normal(size=3), rng.normal(size=(3, 4))
    weight = jnp.array([1.0, 1.0, 1.0, 0.0, 0.0])
    draw = objectives.Draw(jnp.arange(5), weight, weight, None)
    padded_l = jnp.asarray(np.append(s_l, [99.0, -99.0]), jnp.float32)
    padded_ln = jnp.asarray(np.vstack([s_ln, np.full((2, 4), 50.0)]), jnp.float32)
    value = {"bce": objectives.bce_loss, "bpr": objectives.bpr_loss}[name](draw, padded_l, padded_ln)
    np.testing.assert_allclose(value, naive_losses(s_l, s_ln, 4)[name], rtol=1e-5)


def test_softmax_loss_leaves_the_input_out_of_the_normaliser():
    s_i = np.random.default_rng(0).normal(size=9)
    draw = objectives.Draw(
        jnp.array([1, 4, 6, 9]), jnp.array([0.0, 1.0, 1.0, 0.0]), jnp.array([1.0, 0.0, 0.0, 0.0]), None
    )
    p = np.exp(s_i) / np.exp(np.delete(s_i, 1)).sum()
    np.testing.assert_allclose(
        objectives.softmax_loss(draw, jnp.asarray(s_i, jnp.float32)), -np.log(p[[4, 6]]).mean(), rtol=1e-5
    )


def test_undivided_history_keeps_all_items_in_the_normaliser():
    s_i = np.random.default_rng(0).normal(size=5)
    one = jnp.array([1.0, 1.0])
    draw = objectives.Draw(jnp.array([1, 3]), one, one, None)
    p = np.exp(s_i) / np.exp(s_i).sum()
    value = objectives.softmax_loss(draw, jnp.asarray(s_i, jnp.float32))
    np.testing.assert_allclose(value, -np.log(p[[1, 3]]).mean(), rtol=1e-5)


def test_fcf_closed_form_solves_the_normal_equations_and_stops_moving():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        g_id, r_i = rng.normal(size=(30, 4)), (rng.random(30) < 0.2).astype(float)
        host = HOSTS["fcf"](30, dim=4, init_scale=0.1, objective="squared", confidence=3.0, ridge=0.5)
        items = ItemRows(jnp.asarray(g_id)[:, None], None, {})
        theta = jax.jit(host.solve)({"w": jnp.zeros(4)}, {}, items, jnp.asarray(r_i))
        c = np.diag(1 + 3 * r_i)
        expected = np.linalg.inv(g_id.T @ c @ g_id + 0.5 * np.eye(4)) @ g_id.T @ c @ r_i
        np.testing.assert_allclose(theta["w"], expected, rtol=1e-10)
        draw = objectives.Draw(jnp.flatnonzero(r_i), jnp.ones(int(r_i.sum())), jnp.ones(int(r_i.sum())), None)

        def objective(theta):
            value = objectives.make_squared_loss(3.0)(draw, host.score(theta, {}, items))
            return value + host.regulariser(theta, items, None, jnp.zeros(()))

        assert np.abs(jax.jit(jax.grad(objective))(theta)["w"]).max() < 1e-12


@pytest.mark.parametrize("w_j", [None, np.array([0.5, 0.2, 0.3])])
def test_dot_equals_fused_rows_times_query(w_j):
    rng = np.random.default_rng(0)
    views = rng.normal(size=(7, 3 if w_j is not None else 1, 4)).astype(np.float32)
    weights = None if w_j is None else jnp.asarray(w_j, jnp.float32)
    items = ItemRows(jnp.asarray(views), weights, {}, None, jnp.asarray(rng.normal(size=(7, 4)), jnp.float32))
    q = jnp.asarray(rng.normal(size=4), jnp.float32)
    np.testing.assert_allclose(items.dot(q), items.fused() @ q, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("host", spread(HOST_NAMES, ["fcf", "fedncf", "fedrap", "fedblend"]))
def test_scores_are_personal_finite_and_follow_an_item_permutation(host):
    algorithm = make_algorithm(settings(host__name=host), DATASET)
    state = first_state(algorithm)
    data = client_data(DATASET)
    s_ui = np.asarray(
        jax.jit(lambda s, b: algorithm.score(algorithm.snapshot(s, data.content), b))(state, data.buckets[0])
    )
    assert np.isfinite(s_ui).all()
    assert len(np.unique(s_ui.round(6), axis=0)) == DATASET.num_users
    assert (s_ui.std(axis=1) > 1e-4).all()


@pytest.mark.slow
def test_pfedrec_tuning_moves_only_the_rows_a_client_trains_on():
    def scores(steps):
        algorithm = make_algorithm(
            settings(host__name="pfedrec", host__tune_steps=steps, host__tune_lr=1.0, client__negatives=1), DATASET
        )
        state = first_state(algorithm)
        data = client_data(DATASET)
        score = jax.jit(lambda s: algorithm.score(algorithm.snapshot(s, data.content), data.buckets[0]))
        return np.asarray(score(state))

    plain, tuned = scores(0), scores(2)
    for c, history_l in enumerate(np.asarray(client_data(DATASET).buckets[0].history)):
        history = history_l[history_l < DATASET.num_items]
        changed = np.flatnonzero(np.abs(plain[c] - tuned[c]) > 1e-5)
        assert set(history) <= set(changed)
        assert len(changed) <= 3 * len(history)
        assert (tuned[c][history] > plain[c][history]).all()
        others = np.setdiff1d(changed, history)
        assert (tuned[c][others] < plain[c][others]).all()


def test_router_weights_read_the_history_of_one_client():
    algorithm = make_algorithm(settings(), DATASET)
    state = first_state(algorithm)
    data = client_data(DATASET)
    params = jax.jit(algorithm.snapshot)(state, data.content)
    bucket = data.buckets[0]
    weights = jax.jit(algorithm.router_weights)
    w_cj = weights(params, bucket)
    assert w_cj.shape == (DATASET.num_users, 3)
    np.testing.assert_allclose(w_cj.sum(axis=1), 1, rtol=1e-5)
    alone = weights(params, Bucket(bucket.user[2:3], bucket.history[2:3]))
    np.testing.assert_allclose(alone[0], w_cj[2], rtol=1e-5)
    swapped = weights(params, Bucket(bucket.user[2:3], bucket.history[3:4]))
    assert relative_difference(swapped[0], w_cj[2]) > 1e-4


def test_key_streams_do_not_collide():
    key = jax.random.key(0)
    seen = {
        tuple(np.asarray(jax.random.key_data(jax.random.fold_in(sampling.stream(key, purpose, r), u))).tolist())
        for purpose in range(5)
        for r in range(4)
        for u in range(6)
    }
    assert len(seen) == 5 * 4 * 6
    chex.assert_trees_all_equal(
        jax.random.key_data(sampling.entity_keys(key, jnp.array([4, 1])))[0],
        jax.random.key_data(jax.random.fold_in(key, 4)),
    )
