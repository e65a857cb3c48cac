"""Parts of scores: they sum to the score of every host in every variant, and are what a formula says they are."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import MODELS, settings, spread, tiny_dataset

from fedvlr_jax.federated.score_views import VIEWS
from fedvlr_jax.inference.parts import CONSTANT, PRIOR, coalitions, score_parts, view_history_parts
from fedvlr_jax.training.experiment import before_rounds, make_experiment
from fedvlr_jax.types import Bucket

PLAIN = tiny_dataset()
AGES = np.concatenate([np.random.default_rng(u).permutation(n) for u, n in enumerate(np.bincount(PLAIN.train_user))])
DATASET = dataclasses.replace(PLAIN, train_age=AGES.astype(np.int32))
FAST = [("fcf", "fedvlr"), ("fedncf", "fedvlr"), ("fedprior", "base")]


def problem(host: str, variant: str, **case):
    """An algorithm with random private states, what scoring reads, and the slot of one user."""
    experiment = make_experiment(settings(host__name=host, variant=variant, **case), DATASET)
    algorithm, clients = experiment.algorithm, experiment.clients
    state = algorithm.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    both = state.public.params, state.private.params
    noisy = jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape).astype(x.dtype), both)
    state = state.replace(
        public=state.public.replace(params=noisy[0]), private=state.private.replace(params=noisy[1])
    )
    params = algorithm.snapshot(state, clients.content, clients.prior)
    bucket = clients.buckets[-1]
    return experiment, params, Bucket(bucket.user[1:2], bucket.history[1:2])


@pytest.mark.slow
@pytest.mark.parametrize(("host", "variant"), spread(MODELS, FAST))
def test_parts_sum_to_the_score(host, variant):
    experiment, params, slot = problem(host, variant)
    algorithm = experiment.algorithm
    both = jax.jit(lambda *x: (algorithm.score(*x)[0], score_parts(algorithm, *x).value_pi))
    score_i, parts = both(params, slot)
    np.testing.assert_allclose(parts.sum(axis=0), score_i, rtol=1e-4, atol=1e-4 * float(jnp.abs(score_i).max()))
    assert (np.ptp(np.asarray(parts), axis=1) > 0).sum() >= 1


def test_parts_of_a_client_that_ranks_with_the_next_ones_deviation_sum_to_its_score():
    swapped = {"host__swapped": True, "host__deviation": 1.0, "host__fusion_weight": 0.0}
    experiment, params, slot = problem("fedblend", "base", **swapped)
    score_i = experiment.algorithm.score(params, slot)[0]
    parts = score_parts(experiment.algorithm, params, slot).value_pi.sum(axis=0)
    np.testing.assert_allclose(parts, score_i, rtol=1e-4, atol=1e-4 * float(jnp.abs(score_i).max()))


def test_the_part_of_a_view_is_its_product_with_the_user():
    """fcf + fedvlr: w_uj F_j,i . theta_u, written out."""
    experiment, params, slot = problem("fcf", "fedvlr")
    parts = score_parts(experiment.algorithm, params, slot)
    assert parts.names == ("sum", "mlp", "gate", CONSTANT)
    assert parts.exact
    w_j = np.asarray(experiment.algorithm.router_weights(params, slot))[0]
    theta_d = np.asarray(params.private.params["theta"]["w"])[int(slot.user[0])]
    views_ijd = np.asarray(params.broadcast.rows["views"])
    expected_ji = np.einsum("j,ijd,d->ji", w_j, views_ijd, theta_d)
    np.testing.assert_allclose(parts.value_pi[:3], expected_ji, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(parts.value_pi[3], 0, atol=1e-6)


def test_coalitions_give_shapley_values_of_any_game():
    """Against the mean over all orders of the players."""
    size, rng = 3, np.random.default_rng(0)
    mask_sp, coefficient_sp = coalitions(size, linear=False)
    worth = {tuple(mask): rng.normal() for mask in mask_sp.tolist()}
    found = coefficient_sp.T @ np.array([worth[tuple(mask)] for mask in mask_sp.tolist()])
    expected = np.zeros(size)
    for order in itertools.permutations(range(size)):
        inside = [0.0] * size
        for player in order:
            before = worth[tuple(inside)]
            inside[player] = 1.0
            expected[player] += (worth[tuple(inside)] - before) / 6
    np.testing.assert_allclose(found, expected)


def test_linear_coalitions_are_the_shapley_values_of_a_sum():
    mask_sp, coefficient_sp = coalitions(4, linear=True)
    value_p = np.array([2.0, -1.0, 0.5, 3.0])
    np.testing.assert_allclose(coefficient_sp.T @ (7 + mask_sp @ value_p), value_p)
    mask_sp, coefficient_sp = coalitions(4, linear=False)
    np.testing.assert_allclose(coefficient_sp.T @ (7 + mask_sp @ value_p), value_p)


def test_items_of_a_history_sum_to_the_prior():
    experiment, _, slot = problem("fedprior", "base")
    user = int(slot.user[0])
    formed = before_rounds(experiment.settings, DATASET, experiment.algorithm.model.host).formed(DATASET)
    rows_ri = formed.item_scores(DATASET, DATASET.train_user == user)
    np.testing.assert_allclose(rows_ri.sum(axis=0), experiment.clients.prior.score_ui[user], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_items_of_a_history_sum_to_what_score_views_add_beyond_the_constant_ones():
    experiment, params, slot = problem("fedblend", "base", host__fusion_weight=0.0)
    item_b = np.setdiff1d(np.arange(40), np.asarray(slot.history[0]))[:5]
    found_lb = np.asarray(view_history_parts(experiment.algorithm, params, slot, item_b))
    parts = score_parts(experiment.algorithm, params, slot)
    by_history = [k for k, name in enumerate(VIEWS) if name not in ("popularity", "novelty")]
    np.testing.assert_allclose(
        found_lb.sum(axis=0), np.asarray(parts.value_pi)[by_history][:, item_b].sum(axis=0), rtol=1e-3, atol=1e-4
    )
    real = np.asarray(slot.history[0]) < 40
    assert (found_lb[~real] == 0).all()
    assert (np.abs(found_lb[real]).max(axis=1) > 0).all()


def test_a_prior_is_one_part_of_its_own():
    experiment, params, slot = problem("fedprior", "fedvlr")
    names = score_parts(experiment.algorithm, params, slot).names
    assert names == ("sum", "mlp", "gate", CONSTANT, PRIOR)
