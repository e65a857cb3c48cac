"""The prior of one noised sum: what a client moves, how large the noise is, how the budget is divided and spent."""

from __future__ import annotations

import dataclasses
import itertools
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from problems import settings, tiny_dataset

from fedvlr_jax.errors import ConfigError, RunWarning
from fedvlr_jax.federated import noisy_prior
from fedvlr_jax.federated.prior import PriorSettings
from fedvlr_jax.privacy.accounting import Guarantee, epsilon_of, guarantee_of
from fedvlr_jax.privacy.gaussian import gaussian_delta
from fedvlr_jax.training.experiment import make_experiment
from fedvlr_jax.training.priors import NoisedPrior, configured_prior
from fedvlr_jax.training.uncovered import EXACT_SUMS, not_covered

TINY = tiny_dataset()
AGE = np.random.default_rng(0).integers(0, 5, len(TINY.train_item)).astype(np.int32)
DATASET = dataclasses.replace(TINY, train_age=AGE)
FIELDS = PriorSettings()
SHARED = {
    "host__name": "fedprior",
    "aggregation__transforms": "clip,noise",
    "privacy__target_epsilon": 8.0,
    "privacy__delta": 1e-3,
    "privacy__prior_share": 0.7,
    "rounds": 20,
}


@hypothesis.given(
    st.lists(st.integers(0, 10**6), max_size=30), st.sampled_from([0.0, 0.75, 20.0, 60.0]), st.floats(0, 100)
)
@hypothesis.settings(deadline=None, max_examples=100)
def test_a_client_moves_the_sum_by_one_at_most_whatever_it_has(ages, decay, noise):
    similar_nn, popular_n = noisy_prior.client_block((1.0 + np.array(ages)) ** -decay, noisy_prior.shares(noise))
    norm = math.hypot(np.linalg.norm(similar_nn), np.linalg.norm(popular_n))
    assert norm <= 1 + 1e-12
    if len(ages) > 1 and decay < 1:  # nothing of what a client may send is left unused
        assert norm == pytest.approx(1.0)


def test_without_noise_the_release_is_the_sum_over_clients_pair_by_pair():
    similar_ii, popular_i = np.zeros((DATASET.num_items,) * 2), np.zeros(DATASET.num_items)
    for user in range(DATASET.num_users):
        own = np.flatnonzero(DATASET.train_user == user)
        weight = {DATASET.train_item[r]: (1.0 + DATASET.train_age[r]) ** -FIELDS.decay for r in own}
        pairs = list(itertools.permutations(weight, 2))
        size = math.sqrt(sum((weight[a] * weight[b]) ** 2 for a, b in pairs))
        for a, b in pairs:
            similar_ii[a, b] += weight[a] * weight[b] / size
        for item, own_weight in weight.items():
            popular_i[item] += own_weight / math.sqrt(sum(x**2 for x in weight.values()))
    released = noisy_prior.release(DATASET, FIELDS, 0.0, seed=0)
    np.testing.assert_allclose(released.similar_ii, similar_ii, atol=1e-12)
    np.testing.assert_allclose(released.popular_i, popular_i, atol=1e-12)


def test_a_client_more_or_less_moves_the_release_by_its_bound():
    without = dataclasses.replace(
        DATASET,
        **{x: getattr(DATASET, x)[DATASET.train_user != 3] for x in ("train_user", "train_item", "train_age")},
    )
    first, second = (noisy_prior.release(data, FIELDS, 0.0, seed=0) for data in (DATASET, without))
    similar = np.linalg.norm(first.similar_ii - second.similar_ii) * math.sqrt(noisy_prior.shares(0.0)[0])
    popular = np.linalg.norm(first.popular_i - second.popular_i) * math.sqrt(noisy_prior.shares(0.0)[1])
    assert 0 < math.hypot(similar, popular) <= 1 + 1e-12


def test_noise_on_the_sum_has_its_size_on_every_free_number():
    """In coordinates of which the norm is Frobenius': sqrt(2) times each pair."""
    shares = noisy_prior.shares(3.0)
    clean = noisy_prior.release(DATASET, FIELDS, 0.0, seed=0)
    noise = [noisy_prior.release(DATASET, FIELDS, 3.0, seed=k) for k in range(40)]
    similar = np.array([x.similar_ii - clean.similar_ii for x in noise]) * math.sqrt(2 * shares[0])
    popular = np.array([x.popular_i - clean.popular_i for x in noise]) * math.sqrt(shares[1])
    np.testing.assert_array_equal(similar, np.swapaxes(similar, 1, 2))
    assert not np.diagonal(similar, axis1=1, axis2=2).any()
    upper = similar[:, *np.triu_indices(DATASET.num_items, 1)]
    for drawn in (upper, popular):
        assert np.std(drawn) == pytest.approx(3.0, rel=6 / math.sqrt(2 * drawn.size))
    for drawn in (upper, popular):  # of each number too: none is left without noise
        assert np.std(drawn, axis=0).min() > 3.0 * 0.5
    assert noise[0].popular_noise == pytest.approx(3.0 / math.sqrt(shares[1]))
    assert noise[0].similar_noise == pytest.approx(3.0 / math.sqrt(2 * shares[0]))


def test_popularity_has_more_of_the_norm_where_there_is_more_noise():
    found = np.array([noisy_prior.shares(noise) for noise in (0.0, 0.5, 1.0, 1.5, 2.0, 50.0)])
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    np.testing.assert_allclose(found[:, 1], [0.1, 0.125, 0.25, 0.375, 0.5, 0.5])


def test_co_occurrence_below_its_noise_is_taken_for_noise():
    similar_ii = np.array([[0.0, 2.0, -0.5], [2.0, 0.0, -3.0], [-0.5, -3.0, 0.0]])
    released = noisy_prior.Release(similar_ii, np.full(3, 16.0), similar_noise=1.0, popular_noise=1.0)
    found = noisy_prior.item_maps(released, dataclasses.replace(DATASET, V=None, C=None))[noisy_prior.CO_OCCURRENCE]
    expected = 4 * np.array([[0.0, 1.3, 0.0], [1.3, 0.0, -2.3], [0.0, -2.3, 0.0]])  # the fourth root of 16, twice
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_budget_is_divided_and_spent():
    guarantee = guarantee_of(settings(**SHARED), 13)
    assert guarantee.choice_epsilon == pytest.approx(0.8)  # a tenth: there are few clients
    assert guarantee_of(settings(**SHARED), 1000).choice_epsilon == pytest.approx(0.2)
    assert guarantee.epsilon(20) == pytest.approx(8.0, rel=1e-3)
    assert guarantee.epsilon(20) <= 8.0
    mu = math.hypot(math.sqrt(20) / guarantee.noise_multiplier, 1 / guarantee.prior_noise)
    assert gaussian_delta(guarantee.epsilon(20) - 0.8, mu) == pytest.approx(1e-3, rel=1e-6)
    assert (1 / guarantee.prior_noise / mu) ** 2 == pytest.approx(0.7)
    assert 0.8 < guarantee.epsilon(0) < guarantee.epsilon(1) < 8
    sampled = guarantee_of(settings(**SHARED, server__sampling="poisson", server__clients_per_round=4), 13)
    assert 7.9 < sampled.epsilon(20) <= 8.0
    whole = epsilon_of(sampled.noise_multiplier, 4 / 13, 20, 5e-4)
    assert whole == pytest.approx(0.3 * 7.2, rel=1e-3)
    with pytest.raises(ConfigError, match=r"prior_share: expected privacy\.target_epsilon"):
        guarantee_of(settings(**SHARED | {"privacy__target_epsilon": 0.0, "aggregation__noise_multiplier": 1.0}), 13)


def test_the_choice_has_the_probabilities_of_the_exponential_mechanism():
    values, draws = [3.0, 3.5, 1.0], 10000
    found = np.bincount([noisy_prior.choose(values, 1.5, seed) for seed in range(draws)], minlength=3) / draws
    expected = np.exp(1.5 * np.array(values))
    expected /= expected.sum()
    assert np.abs(found - expected).max() < 4 * math.sqrt(0.25 / draws)
    for added in itertools.product((0.0, 0.4, 1.0), repeat=3):  # what one client adds
        moved = np.exp(1.5 * (np.array(values) + added))
        assert np.abs(np.log(moved / moved.sum() / expected)).max() <= 1.5 + 1e-12


def test_values_that_the_choice_goes_by_are_bounded_sums_over_clients(monkeypatch):
    """A client more adds a number within [0, 1] to each."""
    seen = []
    monkeypatch.setattr(noisy_prior, "choose", lambda values, epsilon, seed: seen.append(values) or 0)
    released = noisy_prior.release(DATASET, FIELDS, 0.1, seed=0)
    monkeypatch.setattr(noisy_prior, "release", lambda *arguments: released)
    silent = DATASET.valid_item.copy()
    user = int(np.flatnonzero(silent >= 0)[0])
    silent[user] = -1
    for data in (DATASET, dataclasses.replace(DATASET, valid_item=silent)):
        NoisedPrior(settings(**SHARED), 0.1, 0.8, 0.0).formed(data)
    added = np.subtract(*seen)
    assert len(added) == len(noisy_prior.mixtures(("co-occurrence", "popularity", "visual", "text"))) == 10
    assert (added >= -1e-9).all()
    assert (added <= 1 + 1e-9).all()
    assert added.any()


def test_everything_of_a_noised_prior_is_made_of_the_release(monkeypatch):
    """Two data sets with the same release have the same maps, whatever their histories."""
    released = noisy_prior.release(DATASET, FIELDS, 0.1, seed=0)
    monkeypatch.setattr(noisy_prior, "release", lambda *arguments: released)
    monkeypatch.setattr(noisy_prior, "choose", lambda *arguments: 2)
    other = dataclasses.replace(DATASET, train_item=DATASET.train_item[::-1].copy())
    first, second = (configured_prior(settings(**SHARED), DATASET).formed(data) for data in (DATASET, other))
    assert first.mixture == second.mixture == {"co-occurrence": 1.0, "visual": 0.3}
    weights = {"weight co-occurrence": 1.0, "weight popularity": 0.0, "weight visual": 0.3, "weight text": 0.0}
    assert {name: float(x) for name, x in first.of(DATASET).choice.items()} == pytest.approx(weights)
    for name in first.maps:
        np.testing.assert_array_equal(first.maps[name], second.maps[name])


@pytest.mark.parametrize("noise", [1e-6, 0.3, 1e3])
def test_priors_are_finite_however_much_noise_there_is(noise):
    maps = noisy_prior.item_maps(noisy_prior.release(DATASET, FIELDS, noise, seed=1), DATASET)
    scores = noisy_prior.view_scores(maps, DATASET, FIELDS)
    assert list(scores) == ["co-occurrence", "popularity", "visual", "text"]
    for score_ui in scores.values():
        np.testing.assert_allclose(score_ui.mean(axis=1), 0, atol=1e-9)
        np.testing.assert_allclose(score_ui.std(axis=1), 1, atol=1e-9)


def test_items_of_a_history_add_up_to_the_scores():
    maps = noisy_prior.item_maps(noisy_prior.release(DATASET, FIELDS, 0.3, seed=1), DATASET)
    blend = noisy_prior.Blend(maps, {"co-occurrence": 1.0, "text": 0.3, "popularity": 0.5}, FIELDS)
    inside_r = DATASET.train_user == 2
    added_li = blend.item_scores(DATASET, inside_r)
    assert len(added_li) == inside_r.sum()
    np.testing.assert_allclose(added_li.sum(axis=0), blend.scores(DATASET)[2], atol=1e-6)
    assert blend.of(DATASET).score_ui.shape == (DATASET.num_users, DATASET.num_items)


def test_without_features_and_times_the_counts_are_what_is_left():
    bare = dataclasses.replace(TINY, V=None, C=None)
    chosen = configured_prior(settings(**SHARED), bare).formed(bare)
    assert set(chosen.mixture) < {"co-occurrence", "popularity"}
    assert np.isfinite(chosen.scores(bare)).all()


def test_noise_and_choice_follow_the_seed():
    made = configured_prior(settings(**SHARED), DATASET)
    first, again, other = (np.asarray(made.of(DATASET, seed).score_ui) for seed in (None, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_an_exact_prior_under_a_guarantee_is_warned_about():
    with pytest.warns(RunWarning, match="host fedprior forms exact sums over all histories before them"):
        make_experiment(settings(**SHARED | {"privacy__prior_share": 0.0}), DATASET)
    for host, share, exact in (("fedprior", 0.7, 0), ("fedprior", 0.0, 1), ("fedblend", 0.0, 1), ("fcf", 0.0, 0)):
        found = not_covered(settings(**SHARED | {"host__name": host, "privacy__prior_share": share}), DATASET)
        assert found == exact * [EXACT_SUMS]
    assert Guarantee(1.0, 1.0, 1e-5).prior_noise is None
    assert {"prior_noise", "choice_epsilon"} < guarantee_of(settings(**SHARED), 13).describe(20).keys()


@pytest.mark.parametrize("host", ["fcf", "fedblend"])
def test_a_share_for_a_sum_that_nobody_makes_is_refused(host):
    with pytest.raises(ConfigError, match=f"prior_share: host fedprior alone .* expected 0 with host.name {host}"):
        make_experiment(settings(**SHARED | {"host__name": host}), DATASET)
