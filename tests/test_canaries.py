"""Canaries: the bound is one, a sound round is passed, and each planted fault is seen."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.audit.canaries import canary_finding, lower_bound, variance_bounds
from fedvlr_jax.federated import rounds, transforms
from fedvlr_jax.federated.transforms import UploadTransform
from fedvlr_jax.privacy.gaussian import gaussian_epsilon

SIGMA, DELTA, TRIALS, CONFIDENCE = 1.0, 1e-2, 1_000, 0.999
ARGUMENTS = (SIGMA, DELTA, TRIALS, CONFIDENCE, 0)


def test_the_lower_bound_is_below_the_truth_and_near_it_with_many_trials():
    rng = np.random.default_rng(0)
    for mu in (0.5, 1.0, 2.0):
        truth = gaussian_epsilon(DELTA, mu)
        found = [lower_bound(mu + rng.normal(size=n), rng.normal(size=n), DELTA, 0.95) for n in (1_000, 300_000)]
        assert found[0] <= truth
        assert 0.6 * truth < found[1] <= truth


def test_a_bound_is_exceeded_as_seldom_as_it_says():
    rng = np.random.default_rng(1)
    truth = gaussian_epsilon(DELTA, 1.0)
    found = [lower_bound(1 + rng.normal(size=400), rng.normal(size=400), DELTA, 0.9) for _ in range(100)]
    assert np.mean(np.array(found) > truth) <= 0.1


@pytest.mark.slow
def test_sound_rounds_pass():
    found = canary_finding(*ARGUMENTS)
    assert found.holds
    assert 0 < found.lower < found.claimed == pytest.approx(gaussian_epsilon(DELTA, 1 / SIGMA))
    assert variance_bounds(TRIALS, CONFIDENCE) == (found.variance_low, found.variance_high)


@pytest.mark.slow
def test_noise_of_half_the_size_is_seen(monkeypatch):
    make = transforms.make_noise
    half = lambda *, noise_multiplier, **options: make(noise_multiplier=noise_multiplier / 2, **options)  # noqa: E731
    monkeypatch.setitem(transforms.TRANSFORMS, "noise", half)
    found = canary_finding(*ARGUMENTS)
    assert not found.holds
    assert max(found.variance) < found.variance_low


@pytest.mark.slow
def test_a_clip_that_was_left_out_is_seen(monkeypatch):
    def nothing(**options):
        return UploadTransform(
            client=lambda key, upload, memory: (upload, memory), bounded=True, by_norm=jnp.ones_like
        )

    monkeypatch.setitem(transforms.TRANSFORMS, "clip", nothing)
    found = canary_finding(*ARGUMENTS)
    assert not found.holds
    assert found.lower > found.claimed


@pytest.mark.slow
def test_a_denominator_that_counts_the_clients_is_seen(monkeypatch):
    """Who takes part then changes the scale of the noise on the mean."""
    mean = rounds.Pipeline.mean
    monkeypatch.setattr(rounds.Pipeline, "mean", lambda self, total, n, *rest: mean(self, total, total.weight, *rest))
    found = canary_finding(*ARGUMENTS)
    assert not found.holds
    assert found.variance[1] > found.variance_high
