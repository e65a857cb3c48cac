"""The federated item-to-item prior against regressions written out row by row, and how FedPrior uses it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws.rounds import first_state
from problems import client_data, histories, settings, tiny_dataset

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.baselines import BASELINES, select
from fedvlr_jax.federated import prior
from fedvlr_jax.federated.prior import PriorSettings
from fedvlr_jax.models.hosts.fedprior import standardise
from fedvlr_jax.training.experiment import make_experiment
from fedvlr_jax.training.priors import configured_prior

RNG = np.random.default_rng(0)
PLAIN = tiny_dataset()
AGES = np.concatenate([RNG.integers(0, len(items), len(items)) for items in histories(PLAIN)]).astype(np.int32)
DATASET = dataclasses.replace(PLAIN, train_age=AGES)
SETTINGS = PriorSettings(ridge=3.0, ridge_next=5.0)


def clients(dataset):
    ends = np.cumsum(np.bincount(dataset.train_user))[:-1]
    return list(zip(np.split(dataset.train_item, ends), np.split(dataset.train_age, ends), strict=True))


def similar_oracle(dataset, ridge):
    """Column i of B is the ridge regression of item i on all others, over rows whose Gram matrix is sum_u K_u."""
    size = dataset.num_items
    gram = np.zeros((size, size))
    for items, ages in clients(dataset):
        for a, i in zip(ages, items, strict=True):
            for b, j in zip(ages, items, strict=True):
                gram[i, j] += (1 + abs(int(a) - int(b))) ** -SETTINGS.reach
    values, vectors = np.linalg.eigh(gram)
    rows = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    weights = np.zeros((size, size))
    for i in range(size):
        others = np.delete(np.arange(size), i)
        left = np.vstack([rows[:, others], np.sqrt(ridge) * np.eye(size - 1)])
        weights[others, i] = np.linalg.lstsq(left, np.append(rows[:, i], np.zeros(size - 1)), rcond=None)[0]
    return weights


def next_oracle(dataset, ridge):
    """Ridge regression of the one-hot item at every time on the decayed items before it, row by row."""
    left, right = [], []
    for items, ages in clients(dataset):
        for now, item in zip(ages, items, strict=True):
            past = np.zeros(dataset.num_items)
            for age, other in zip(ages, items, strict=True):
                if age > now:
                    past[other] = (int(age) - int(now)) ** -SETTINGS.decay
            left.append(past)
            right.append(np.eye(dataset.num_items)[item])
    size = dataset.num_items
    left, right = np.array([*left, *np.sqrt(ridge) * np.eye(size)]), np.array([*right, *np.zeros((size, size))])
    return np.linalg.lstsq(left, right, rcond=None)[0]


def test_the_closed_form_on_sums_equals_both_regressions_on_all_histories():
    both = prior.federate(DATASET, SETTINGS).weight_ii
    expected = similar_oracle(DATASET, 3.0) + SETTINGS.next_weight * next_oracle(DATASET, 5.0)
    np.testing.assert_allclose(both, expected, atol=1e-9)
    one = prior.federate(DATASET, SETTINGS._replace(next_weight=0.0)).weight_ii
    np.testing.assert_allclose(one, similar_oracle(DATASET, 3.0), atol=1e-9)


def test_without_times_it_is_ease():
    matrix = np.zeros((PLAIN.num_users, PLAIN.num_items))
    matrix[PLAIN.train_user, PLAIN.train_item] = 1
    inverse = np.linalg.inv(matrix.T @ matrix + 3.0 * np.eye(PLAIN.num_items))
    expected = -inverse / np.diag(inverse)[None]
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(prior.federate(PLAIN, SETTINGS).weight_ii, expected, atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_the_kernel_is_positive_semidefinite_with_and_without_equal_times(seed):
    ages = np.random.default_rng(seed).integers(0, 12, 15)
    for reach in (0.1, 0.5, 2.0):
        block = prior.client_block(np.arange(15), ages, SETTINGS._replace(reach=reach))
        assert np.linalg.eigvalsh(block.similar_nn).min() > -1e-12


def test_the_sum_of_blocks_does_not_depend_on_the_order_of_clients_or_items():
    blocks = [prior.client_block(items, ages, SETTINGS) for items, ages in clients(DATASET)]
    turned = [prior.client_block(items[::-1], ages[::-1], SETTINGS) for items, ages in reversed(clients(DATASET))]
    for ours, theirs in zip(prior.add_blocks(blocks, 40), prior.add_blocks(turned, 40), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_messages_are_counted_once_in_both_directions():
    lengths = np.array([len(items) for items, _ in clients(DATASET)])
    numbers = (lengths * (lengths + 1) + lengths**2 + lengths * DATASET.num_items).sum()
    assert prior.federate(DATASET, SETTINGS).megabytes == pytest.approx(4e-6 * numbers)


def blend(dataset, features, config=SETTINGS):
    return np.asarray(prior.make_prior(dataset, prior.federate(dataset, config), features, config).blend_ii)


def test_rare_items_lean_on_seen_items_with_like_features():
    blend_ii = blend(DATASET, (DATASET.V, DATASET.C))
    count_i = np.bincount(DATASET.train_item, minlength=DATASET.num_items)
    unseen = count_i == 0
    assert unseen.any()
    np.testing.assert_allclose(blend_ii.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(blend_ii.diagonal(), count_i / (count_i + SETTINGS.shrinkage), atol=1e-6)
    assert np.all(blend_ii[:, unseen] == 0)  # an unseen item says nothing, not even about itself
    cosine_ii = DATASET.V @ DATASET.V.T + DATASET.C @ DATASET.C.T
    for i in np.flatnonzero(unseen):
        assert blend_ii[i].argmax() == np.where(unseen, -np.inf, cosine_ii[i]).argmax()


def test_without_features_rare_items_lean_on_all_seen_items_alike():
    blend_ii = blend(DATASET, (None, None))
    count_i = np.bincount(DATASET.train_item, minlength=DATASET.num_items)
    row = blend_ii[np.flatnonzero(count_i == 0)[0]]
    np.testing.assert_allclose(row[count_i > 0], 1 / np.count_nonzero(count_i), rtol=1e-5)


def test_a_client_scores_with_its_own_history_newer_items_first():
    weights = prior.federate(DATASET, SETTINGS)
    found = prior.make_prior(DATASET, weights, (DATASET.V, DATASET.C), SETTINGS)
    shrunk_ii = weights.weight_ii @ np.asarray(found.blend_ii, np.float64).T
    for user, (items, ages) in enumerate(clients(DATASET)):
        expected = sum((1.0 + a) ** -SETTINGS.decay * shrunk_ii[i] for i, a in zip(items, ages, strict=True))
        np.testing.assert_allclose(found.score_ui[user], expected, rtol=1e-4, atol=1e-5)


def scores(model_weight: float, data) -> np.ndarray:
    tree = settings(host__name="fedprior", variant="vbpr", host__model_weight=model_weight)
    algorithm = make_algorithm(tree, DATASET)
    state = first_state(algorithm)
    bucket = data.buckets[0]
    params = algorithm.snapshot(state, data.content, data.prior)
    by_slot = np.asarray(jax.jit(algorithm.score)(params, bucket))
    return by_slot[np.argsort(np.asarray(bucket.user))]


def test_ranking_joins_standardised_prior_and_blended_logits():
    data = client_data(DATASET)
    with_prior = data._replace(prior=configured_prior(settings(), DATASET).of(DATASET))
    trained_ui = scores(0.3, data).astype(np.float64)
    blended_ui = trained_ui @ np.asarray(with_prior.prior.blend_ii, np.float64).T

    def z(x):
        return (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)

    expected = z(np.asarray(with_prior.prior.score_ui, np.float64)) + 0.3 * z(blended_ui)
    np.testing.assert_allclose(scores(0.3, with_prior), expected, atol=2e-4)
    np.testing.assert_allclose(scores(0.0, with_prior), z(np.asarray(with_prior.prior.score_ui)), atol=2e-4)


def test_a_constant_row_stays_constant_and_finite():
    assert np.ptp(standardise(jnp.full(7, 3.0))) == 0
    assert np.isfinite(standardise(jnp.zeros(7))).all()


def test_an_experiment_has_a_prior_exactly_where_the_host_uses_it():
    assert make_experiment(settings(host__name="fcf", variant="base"), DATASET).clients.prior is None
    found = make_experiment(settings(host__name="fedprior", variant="base"), DATASET).clients.prior
    assert found.score_ui.shape == (DATASET.num_users, DATASET.num_items)


def test_a_modality_that_is_switched_off_makes_no_neighbours():
    tree = settings(fusion__modalities="D,C")
    off = configured_prior(tree, DATASET).of(DATASET).blend_ii
    absent = configured_prior(settings(), DATASET).of(dataclasses.replace(DATASET, V=None)).blend_ii
    np.testing.assert_array_equal(off, absent)


def test_the_prior_alone_is_a_baseline_whose_reach_is_chosen():
    baseline, found = BASELINES["fed_prior"], select(DATASET, client_data(DATASET).buckets, "fed_prior")
    assert found.hyper in baseline.grid
    assert len(baseline.grid) == 2
    for hyper in baseline.grid:
        chosen = PriorSettings(**hyper)
        expected = prior.make_prior(DATASET, prior.federate(DATASET, chosen), (DATASET.V, DATASET.C), chosen)
        np.testing.assert_allclose(baseline.fit(DATASET, **hyper), expected.score_ui, rtol=1e-5, atol=1e-6)


def test_features_enter_the_gram_matrix_as_in_collective_ease():
    features = (DATASET.V, DATASET.C)
    settings_ = SETTINGS._replace(reach=0.0, next_weight=0.0, content=0.3)
    sums = prior.sum_clients(DATASET, settings_)
    centred = np.hstack([x - x.mean(axis=0) for x in features]).astype(float)
    rows = np.vstack([(sums.similar_ii > 0) * 0.0, np.sqrt(3.0 * 0.3) * centred.T])
    inverse = np.linalg.inv(sums.similar_ii + rows.T @ rows + 3.0 * np.eye(DATASET.num_items))
    expected = np.eye(DATASET.num_items) - inverse / np.diag(inverse)[None]
    np.testing.assert_allclose(prior.solve_weights(sums, settings_, features), expected, atol=1e-6)


def test_without_shrinkage_no_item_leans_on_others():
    count_i = np.array([0, 1, 5])
    blend_ii = prior.make_blend(count_i, (np.eye(3, dtype=np.float32), None), PriorSettings(shrinkage=0.0))
    np.testing.assert_array_equal(blend_ii, np.eye(3))
