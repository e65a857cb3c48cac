"""The accountant: against closed forms, quadrature, brackets by rounding, and the numbers of another accountant."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from laws.rounds import DATASET
from problems import settings
from scipy import integrate, optimize, stats

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.errors import ConfigError, RunWarning
from fedvlr_jax.privacy.accounting import (
    PRECISION,
    epsilon_of,
    guarantee_of,
    solve_noise_multiplier,
    warn_of_a_weak_guarantee,
)
from fedvlr_jax.privacy.gaussian import gaussian_delta, gaussian_epsilon
from fedvlr_jax.privacy.subsampled import direction_epsilon, subsampled_epsilon

# (sigma, q, T, delta, epsilon) by dp-accounting 0.6.0: from_gaussian_mechanism(sigma, sampling_prob=q,
# value_discretization_interval=h, use_connect_dots=True).self_compose(T).get_epsilon_for_delta(delta), h from 1e-5.
OTHERS = [
    (0.5, 0.01, 10, 1e-05, 4.3606),
    (0.5, 0.01, 300, 1e-05, 8.69828),
    (0.5, 0.1, 10, 1e-06, 14.4826),
    (0.5, 0.1, 300, 1e-06, 63.0911),
    (0.5, 0.5, 10, 1e-05, 31.3745),
    (0.5, 0.5, 300, 1e-05, 318.496),
    (1.0, 0.01, 10, 1e-06, 0.592349),
    (1.0, 0.01, 300, 1e-06, 1.30888),
    (1.0, 0.1, 10, 1e-05, 2.85452),
    (1.0, 0.1, 300, 1e-05, 12.3979),
    (1.0, 0.5, 10, 1e-06, 11.7988),
    (1.0, 0.5, 300, 1e-06, 91.3925),
    (2.0, 0.01, 10, 1e-05, 0.0655217),
    (2.0, 0.01, 300, 1e-05, 0.331352),
    (2.0, 0.1, 10, 1e-06, 0.961421),
    (2.0, 0.1, 300, 1e-06, 4.71277),
    (2.0, 0.5, 10, 1e-05, 3.959),
    (2.0, 0.5, 300, 1e-05, 28.7842),
    (4.0, 0.01, 10, 1e-06, 0.0307899),
    (4.0, 0.01, 300, 1e-06, 0.169902),
    (4.0, 0.1, 10, 1e-05, 0.304996),
    (4.0, 0.1, 300, 1e-05, 1.76991),
    (4.0, 0.5, 10, 1e-06, 1.90764),
    (4.0, 0.5, 300, 1e-06, 12.405),
    (8.0, 0.01, 10, 1e-05, 0.0101703),
    (8.0, 0.01, 300, 1e-05, 0.0650074),
    (8.0, 0.1, 10, 1e-06, 0.158573),
    (8.0, 0.1, 300, 1e-06, 0.924708),
    (8.0, 0.5, 10, 1e-05, 0.744224),
    (8.0, 0.5, 300, 1e-05, 4.84399),
]


def test_subsampled_epsilons_are_those_of_another_accountant():
    for sigma, rate, rounds, delta, expected in OTHERS:
        found = subsampled_epsilon(delta, sigma, rate, rounds)
        assert found == pytest.approx(expected, rel=3e-3), (sigma, rate, rounds, delta)


def _excess(epsilon, mass, loss, delta):
    """delta at `epsilon` of a privacy loss with these masses, less `delta`."""
    return float(mass @ -np.expm1(np.minimum(epsilon - loss, 0))) - delta


@pytest.mark.parametrize("removed", [True, False])
@pytest.mark.parametrize(("sigma", "rate", "rounds"), [(1.0, 0.1, 40), (0.6, 0.02, 25), (3.0, 0.5, 200)])
def test_the_epsilon_lies_between_losses_rounded_down_and_up(sigma, rate, rounds, removed):
    """An integration of its own: the loss of one round from its distribution function, convolved T times."""
    step, delta = 1e-3, 1e-4
    x = np.linspace(-7 * sigma, 1 + 7 * sigma, 100_001)
    middle = (x[1:] + x[:-1]) / 2
    loss = np.log(1 - rate + rate * np.exp((2 * middle - 1) / (2 * sigma**2))) * (1 if removed else -1)
    plain, moved = (np.diff(stats.norm.cdf(x, mean, sigma)) for mean in (0, 1))
    mass = (1 - rate) * plain + rate * moved if removed else plain
    epsilons = []
    for rounded in (np.floor, np.ceil):
        place = rounded(loss / step).astype(int)
        first = place.min()
        one = np.bincount(place - first, mass)
        size = 1 << math.ceil(math.log2(len(one) * rounds))
        total = np.fft.irfft(np.fft.rfft(one, size) ** rounds, size)
        value = step * (rounds * first + np.arange(size))
        epsilons.append(optimize.brentq(_excess, 0, 100, (total, value, delta), xtol=1e-6))
    low, high = epsilons
    found = direction_epsilon(delta, sigma, rate, rounds, removed)
    assert low - 1e-5 <= found <= high + 1e-5


@pytest.mark.parametrize(("sigma", "rate"), [(0.5, 0.05), (1.0, 0.3), (4.0, 0.9)])
def test_one_round_is_the_integral_over_its_densities(sigma, rate):
    def delta_at(epsilon, removed):
        def excess(x):
            plain, moved = stats.norm.pdf(x, 0, sigma), stats.norm.pdf(x, 1, sigma)
            mixed = (1 - rate) * plain + rate * moved
            first, second = (mixed, plain) if removed else (plain, mixed)
            return max(first - math.exp(epsilon) * second, 0.0)

        points = np.linspace(-12 * sigma, 1 + 12 * sigma, 60)
        return sum(integrate.quad(excess, a, b, limit=200)[0] for a, b in itertools.pairwise(points))

    epsilon = subsampled_epsilon(1e-3, sigma, rate, 1)
    assert max(delta_at(epsilon, removed) for removed in (True, False)) == pytest.approx(1e-3, rel=1e-2)


def test_full_participation_is_the_closed_form_and_the_limit_of_sampling():
    for sigma, rounds in ((0.8, 1), (2.0, 10), (6.0, 100)):
        exact = epsilon_of(sigma, 1.0, rounds, 1e-5)
        assert gaussian_delta(exact, math.sqrt(rounds) / sigma) == pytest.approx(1e-5, rel=1e-6)
        assert subsampled_epsilon(1e-5, sigma, 1 - 1e-9, rounds) == pytest.approx(exact, rel=1e-3)
    assert gaussian_epsilon(0.5, 1e-3) == 0
    # delta(0) is the total variation distance of two Gaussians, mu apart
    assert gaussian_delta(0.0, 1.3) == pytest.approx(2 * stats.norm.cdf(0.65) - 1)


@pytest.mark.parametrize(("rounds", "rate"), [(1, 1.0), (100, 1.0), (1, 0.01), (100, 0.1), (3000, 0.02)])
@pytest.mark.parametrize("epsilon", [0.1, 8.0, 64.0])
def test_the_noise_that_was_solved_for_spends_the_budget_and_no_more(epsilon, rate, rounds):
    begin = time.process_time()
    sigma = solve_noise_multiplier(epsilon, 1e-5, rate, rounds)
    assert time.process_time() - begin < 2
    spent = epsilon_of(sigma, rate, rounds, 1e-5)
    assert spent <= epsilon
    assert epsilon_of(sigma * (1 - 4 * PRECISION), rate, rounds, 1e-5) > epsilon


def test_more_rounds_clients_and_less_noise_cost_more():
    worth = [epsilon_of(*at, 1e-5) for at in ((2.0, 0.1, 10), (2.0, 0.1, 11), (2.0, 0.12, 11), (1.8, 0.12, 11))]
    assert worth == sorted(worth)
    assert len(set(worth)) == 4
    assert epsilon_of(1.0, 0.5, 0, 1e-5) == 0
    assert epsilon_of(0.03, 0.5, 1, 1e-5) > 500  # finite, however little noise there is
    assert np.isfinite(epsilon_of(0.03, 0.5, 100, 1e-5))


# ---- from settings

NOISED = {
    "aggregation__transforms": "clip,noise",
    "variant": "base",
    "privacy__delta": 1e-3,
    "privacy__target_epsilon": 8.0,
    "rounds": 30,
}


def test_a_budget_decides_the_noise_of_the_algorithm():
    asked = settings(**NOISED, server__clients_per_round=5, server__sampling="poisson")
    guarantee = guarantee_of(asked, DATASET.num_users)
    assert guarantee.rate == 5 / 13
    assert guarantee.epsilon(30) == pytest.approx(8.0, rel=1e-3)
    described = guarantee.describe(30)
    assert described["sampling"] == "poisson, rate 0.384615"
    assert {"epsilon", "delta", "noise_multiplier", "neighbours", "accountant", "not_covered"} < set(described)
    assert "whoever knows the seed of the run, which its noise is made of" in described["not_covered"]
    assert guarantee_of(settings(aggregation__transforms="clip,noise"), 13) is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"privacy__delta": 0.0}, "privacy.delta: expected a positive number with privacy.target_epsilon 8"),
        ({"privacy__delta": 1.5}, "privacy.delta: expected .*at least 0 and below 1"),
        ({"aggregation__transforms": "clip"}, "a guarantee needs uploads that are clipped and noise on their sum"),
        ({"aggregation__transforms": "noise,clip"}, "expected clip before it"),
        ({"aggregation__noise_multiplier": 1.0}, "expected either a budget, .* found 8 and 1"),
        ({"privacy__target_epsilon": 0.0}, "expected either a budget, .* found 0 and 0"),
        ({"server__clients_per_round": 5}, "server.sampling: .*expected poisson with server.clients_per_round 5"),
        (
            {"server__clients_per_round": 5, "server__sampling": "poisson", "privacy__delta": 1e-13},
            "privacy.delta: .*double precision, so expected 3e-13 or more for rounds 30, found 1e-13",
        ),
        (
            {"privacy__delta": 0.0, "privacy__target_epsilon": 0.0, "privacy__prior_share": 0.5},
            "privacy.prior_share: expected privacy.delta and privacy.target_epsilon, .* found 0.5 without",
        ),
        ({"aggregation__aggregator": "median"}, "noise is calibrated to a sum"),
        ({"server__sampling": "poisson", "compute__store": "disk"}, "compute.store: expected device with .*poisson"),
    ],
)
def test_what_would_void_the_guarantee_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        make_algorithm(settings(**NOISED | overrides), DATASET)


def test_a_large_delta_is_warned_about():
    guarantee = guarantee_of(settings(**NOISED), 13)
    warn_of_a_weak_guarantee(guarantee, 999)
    with pytest.warns(RunWarning, match="0.1 is above 1 / 13, one over the number of clients"):
        warn_of_a_weak_guarantee(guarantee._replace(delta=0.1), 13)
