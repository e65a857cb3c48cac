"""Bootstrap intervals over users and seeds: their coverage on simulated users, and what they reduce to."""

from __future__ import annotations

import numpy as np
import pytest

from fedvlr_jax.evaluation import intervals
from fedvlr_jax.evaluation.intervals import Interval, mean_intervals
from fedvlr_jax.evaluation.statistics import bootstrap_interval

SETS, RESAMPLES = 400, 600


def mean_interval(values_su: np.ndarray, **options) -> Interval:
    """The interval of one metric."""
    return mean_intervals(values_su[None], **options)[0]


def coverage(draw, truth: float, confidence: float) -> float:
    """The share of simulated data sets whose interval holds the true mean."""
    rng = np.random.default_rng(0)
    found = [mean_interval(draw(rng), confidence=confidence, resamples=RESAMPLES, seed=n) for n in range(SETS)]
    return float(np.mean([one.low <= truth <= one.high for one in found]))


def hits(rng: np.random.Generator, num_seeds: int, spread: float, num_users: int = 200) -> np.ndarray:
    """0/1 [s, u]: each user has an own probability around 0.4, each seed moves all of them by N(0, spread)."""
    probability_u = rng.beta(0.8, 1.2, num_users)
    shift_s = spread * rng.normal(size=num_seeds)
    return (rng.random((num_seeds, num_users)) < probability_u[None] + shift_s[:, None]).astype(np.float64)


def tolerance(confidence: float) -> float:
    """Three standard errors of a share of SETS."""
    return 3 * np.sqrt(confidence * (1 - confidence) / SETS)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_one_seed_covers_the_mean_of_simulated_users(confidence):
    found = coverage(lambda rng: hits(rng, 1, 0.0), 0.4, confidence)
    assert abs(found - confidence) < tolerance(confidence)


@pytest.mark.parametrize(("users", "seeds", "confidence"), [(0.4, 0.02, 0.95), (0.3, 0.05, 0.95), (0.3, 0.05, 0.8)])
def test_users_and_seeds_cover_the_mean_of_both_populations(users, seeds, confidence):
    def draw(rng):
        parts = users * rng.normal(size=(1, 60)) + seeds * rng.normal(size=(5, 1))
        return 0.4 + parts + 0.1 * rng.normal(size=(5, 60))

    assert abs(coverage(draw, 0.4, confidence) - confidence) < tolerance(confidence)


@pytest.mark.slow
def test_intervals_over_users_alone_would_miss_the_spread_of_seeds():
    """Five seeds that move every user alike: resampling users only covers far too little, both nearly enough."""

    def draw(rng):
        return 0.4 + 0.08 * rng.normal(size=(5, 1)) + 0.2 * rng.normal(size=(1, 60)) + np.zeros((5, 60))

    assert coverage(draw, 0.4, 0.95) > 0.9
    assert coverage(lambda rng: draw(rng).mean(axis=0, keepdims=True), 0.4, 0.95) < 0.8


def test_the_interval_agrees_with_a_naive_bootstrap_of_users_and_seeds():
    rng = np.random.default_rng(1)
    values_su = hits(rng, 4, 0.03, 50)
    naive = [values_su[rng.integers(4, size=3)][:, rng.integers(50, size=50)].mean() for _ in range(10_000)]
    found = intervals._resample(values_su[None], 10_000, seed=0)[0]
    np.testing.assert_allclose(found.mean(), np.mean(naive), atol=0.002)
    np.testing.assert_allclose(
        np.quantile(found, [0.05, 0.3, 0.95]), np.quantile(naive, [0.05, 0.3, 0.95]), atol=0.01
    )


def test_degrees_of_freedom_follow_what_dominates_the_error():
    rng = np.random.default_rng(2)
    user_u, seed_s1 = rng.normal(size=(1, 100)), rng.normal(size=(5, 1))
    assert intervals._degrees_of_freedom(1e3 * seed_s1 + user_u) == pytest.approx(4, rel=1e-3)
    assert intervals._degrees_of_freedom(1e-3 * seed_s1 + user_u) == pytest.approx(99, rel=1e-3)


def test_one_seed_gives_the_interval_over_users():
    values_su = hits(np.random.default_rng(3), 1, 0.0)
    assert mean_interval(values_su, seed=4) == Interval(*bootstrap_interval(values_su[0], seed=4))


def test_the_interval_depends_on_the_seed_only():
    values_su = hits(np.random.default_rng(3), 3, 0.1)
    found = mean_interval(values_su, resamples=500)
    assert mean_interval(values_su, resamples=500) == found
    assert mean_interval(values_su, resamples=500, seed=1) != found


def test_memory_is_bounded_by_blocks(monkeypatch):
    values_su = hits(np.random.default_rng(3), 3, 0.1, 100)
    whole = mean_interval(values_su)
    monkeypatch.setattr(intervals, "_BLOCK", 100 * 1000)
    np.testing.assert_allclose(mean_interval(values_su)[:2], whole[:2], atol=0.01)


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_values_without_spread_have_an_interval_of_one_point(num_seeds):
    np.testing.assert_allclose(mean_interval(np.full((num_seeds, 30), 0.25))[:2], [0.25, 0.25], rtol=1e-12)


@pytest.mark.parametrize("num_seeds", [1, 5])
@pytest.mark.parametrize("num_users", [0, 19])
def test_too_few_users_have_no_interval_but_a_reason(num_seeds, num_users):
    found = mean_interval(np.zeros((num_seeds, num_users)))
    assert found == Interval(None, None, f"an interval needs at least 20 users, found {num_users}")
    assert mean_interval(np.zeros((num_seeds, 19)), least_users=19).low == 0


@pytest.mark.parametrize("bad", [np.zeros(30), np.zeros((0, 30)), np.full((2, 30), np.nan)])
def test_values_of_another_form_are_refused(bad):
    with pytest.raises(ValueError, match=r"expected finite values \[s, u\] of at least one seed"):
        mean_interval(bad)


def test_intervals_of_many_metrics_equal_those_of_each():
    values_msu = np.random.default_rng(0).random((3, 4, 50))
    together = mean_intervals(values_msu, resamples=500, seed=3)
    for values_su, interval in zip(values_msu, together, strict=True):
        alone = mean_interval(values_su, resamples=500, seed=3)
        assert (interval.low, interval.high) == pytest.approx((alone.low, alone.high), rel=1e-12)
    assert [x.reason != "" for x in mean_intervals(values_msu[..., :5])] == [True] * 3
    assert mean_intervals(values_msu[:, :1])[1] == mean_interval(values_msu[1, :1])
