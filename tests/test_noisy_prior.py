"""The prior of one noised sum: what a client moves, how large the noise is, and how the budget is divided."""

from __future__ import annotations

import dataclasses
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from problems import settings, tiny_dataset

from fedvlr_jax.errors import ConfigError, RunWarning
from fedvlr_jax.federated import noisy_prior
from fedvlr_jax.privacy.accounting import Guarantee, epsilon_of, guarantee_of
from fedvlr_jax.privacy.gaussian import gaussian_delta
from fedvlr_jax.training.experiment import make_experiment
from fedvlr_jax.training.priors import configured_prior

DATASET = tiny_dataset()
SHARED = {
    "host__name": "fedprior",
    "aggregation__transforms": "clip,noise",
    "privacy__target_epsilon": 8.0,
    "privacy__delta": 1e-3,
    "privacy__prior_share": 0.7,
    "rounds": 20,
}


@hypothesis.given(st.sets(st.integers(0, 29), max_size=30))
@hypothesis.settings(deadline=None, max_examples=50)
def test_a_client_moves_the_sum_by_one_whatever_it_has(items):
    similar_ii, popular_i = noisy_prior.contribution(np.array(sorted(items), int), 30)
    norm = math.sqrt((similar_ii**2).sum() + (popular_i**2).sum())
    assert norm == pytest.approx(1.0 if items else 0.0)


def test_without_noise_the_release_is_the_sum_of_the_contributions():
    released = noisy_prior.release(DATASET, 0.0, seed=0)
    ids = [DATASET.train_item[DATASET.train_user == u] for u in range(DATASET.num_users)]
    similar, popular = zip(*(noisy_prior.contribution(x, DATASET.num_items) for x in ids), strict=True)
    np.testing.assert_allclose(released.similar_ii, sum(similar) / math.sqrt(0.8), atol=1e-12)
    np.testing.assert_allclose(released.popular_i, sum(popular) / math.sqrt(0.2), atol=1e-12)


def test_noise_on_the_sum_has_its_size_on_every_free_number():
    """In coordinates of which the norm is Frobenius': the diagonal, and sqrt(2) times the rest."""
    clean = noisy_prior.release(DATASET, 0.0, seed=0)
    noise = [noisy_prior.release(DATASET, 3.0, seed=k) for k in range(40)]
    similar = np.array([x.similar_ii - clean.similar_ii for x in noise]) * math.sqrt(0.8)
    np.testing.assert_array_equal(similar, np.swapaxes(similar, 1, 2))
    free = np.where(np.eye(DATASET.num_items, dtype=bool), similar, math.sqrt(2) * similar)
    popular = np.array([x.popular_i - clean.popular_i for x in noise]) * math.sqrt(0.2)
    upper = free[:, *np.triu_indices(DATASET.num_items)]
    for drawn in (upper, popular, np.diagonal(free, axis1=1, axis2=2)):
        assert np.std(drawn) == pytest.approx(3.0, rel=6 / math.sqrt(2 * drawn.size))
    assert noise[0].similar_noise == pytest.approx(3.0 / math.sqrt(0.8))


def test_a_budget_is_divided_and_spent():
    guarantee = guarantee_of(settings(**SHARED), 13)
    assert guarantee.epsilon(20) == pytest.approx(8.0, rel=1e-3)
    assert guarantee.epsilon(20) <= 8.0
    mu = math.hypot(math.sqrt(20) / guarantee.noise_multiplier, 1 / guarantee.prior_noise)
    assert gaussian_delta(guarantee.epsilon(20), mu) == pytest.approx(1e-3, rel=1e-6)
    assert (1 / guarantee.prior_noise / mu) ** 2 == pytest.approx(0.7)
    assert 0 < guarantee.epsilon(0) < guarantee.epsilon(1) < 8
    sampled = guarantee_of(settings(**SHARED, server__sampling="poisson", server__clients_per_round=4), 13)
    assert 7.9 < sampled.epsilon(20) <= 8.0
    whole = epsilon_of(sampled.noise_multiplier, 4 / 13, 20, 5e-4)
    assert whole == pytest.approx(0.3 * 8, rel=1e-3)
    with pytest.raises(ConfigError, match=r"prior_share: expected privacy\.target_epsilon"):
        guarantee_of(settings(**SHARED | {"privacy__target_epsilon": 0.0, "aggregation__noise_multiplier": 1.0}), 13)


def test_everything_of_a_noised_prior_is_made_of_the_release(monkeypatch):
    """Two data sets with the same release have the same weights and shrinking, whatever their histories."""
    released = noisy_prior.release(DATASET, 0.1, seed=0)
    monkeypatch.setattr(noisy_prior, "release", lambda *arguments: released)
    other = dataclasses.replace(DATASET, train_item=DATASET.train_item[::-1].copy())
    first, second = (configured_prior(settings(**SHARED), data).candidates for data in (DATASET, other))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.weight_ii, b.weight_ii)
        np.testing.assert_array_equal(a.count_i, b.count_i)
        assert np.isfinite(a.weight_ii).all()


@pytest.mark.parametrize("noise", [1e-6, 0.3, 1e3])
def test_priors_are_finite_however_much_noise_there_is(noise):
    candidates = noisy_prior.item_weights(noisy_prior.release(DATASET, noise, seed=1))
    assert list(candidates) == ["direct", "ridge", "popularity"]
    made = configured_prior(settings(**SHARED), DATASET)._replace(candidates=tuple(candidates.values())).of(DATASET)
    assert np.isfinite(made.score_ui).all()
    assert np.isfinite(made.blend_ii).all()


def test_an_exact_prior_under_a_guarantee_is_warned_about():
    with pytest.warns(RunWarning, match="host fedprior forms exact sums over all histories before them"):
        make_experiment(settings(**SHARED | {"privacy__prior_share": 0.0}), DATASET)
    assert Guarantee(1.0, 1.0, 1e-5).prior_noise is None
    assert "prior_noise" in guarantee_of(settings(**SHARED), 13).describe(20)
