"""Intervals and tests against scipy and full enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats

from fedvlr_jax.evaluation import statistics


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    return np.where(rng.random(300) < 0.4, 1 / np.log2(rng.integers(2, 52, 300)), 0.0)


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_agrees_with_scipy_and_with_normal_theory(values, confidence):
    interval = statistics.bootstrap_interval(values, confidence=confidence)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, confidence_level=confidence, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    error = scipy.stats.sem(values)
    np.testing.assert_allclose(interval, expected, atol=0.06 * error)
    z = scipy.stats.norm.ppf((1 + confidence) / 2)
    np.testing.assert_allclose(interval, [values.mean() - z * error, values.mean() + z * error], atol=0.15 * error)


def test_the_interval_depends_on_the_seed_only(values, monkeypatch):
    interval = statistics.bootstrap_interval(values)
    assert statistics.bootstrap_interval(values[::-1]) == interval
    assert statistics.bootstrap_interval(values, seed=1) != interval
    monkeypatch.setattr(statistics, "_BLOCK", 1000)  # blocks bound memory; the draws stay the same
    assert statistics.bootstrap_interval(values) == interval


def test_the_interval_of_one_value_is_that_value():
    assert statistics.bootstrap_interval(np.full(10, 0.25)) == (0.25, 0.25)


def test_the_p_value_agrees_with_all_sign_patterns():
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 4, 10) / 3, rng.integers(0, 3, 10) / 3
    patterns = np.array(list(itertools.product([-1, 1], repeat=10)))
    exact = np.mean(np.abs(patterns @ (a - b)) >= abs((a - b).sum()) - 1e-9)
    difference, p_value = statistics.paired_permutation_test(a, b, resamples=200_000)
    assert difference == pytest.approx(a.mean() - b.mean(), rel=1e-12)
    assert 0.05 < exact < 0.9
    assert p_value == pytest.approx(exact, abs=0.006)


def test_the_p_value_of_equal_and_of_far_apart_methods(values):
    assert statistics.paired_permutation_test(values, values) == (0.0, 1.0)
    assert statistics.paired_permutation_test(values + 1, values, resamples=999)[1] == 1 / 1000
    assert statistics.paired_permutation_test(values, values + 1, resamples=999)[1] == 1 / 1000


@pytest.mark.parametrize("bad", [[], [0.5, np.nan], [[0.5]]])
def test_values_that_are_missing_or_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="expected finite values"):
        statistics.bootstrap_interval(np.array(bad))
    with pytest.raises(ValueError, match="same users for both methods, found 2 and 3"):
        statistics.paired_permutation_test(np.zeros(2), np.zeros(3))
