"""The bounds against an independent simulation of Algorithm 1 on quadratics with known constants (NumPy)."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import pytest

from fedvlr_jax.theory import bounds, reporting, statements
from fedvlr_jax.theory.bounds import Constants

RNG = np.random.default_rng(0)


class Quadratic(NamedTuple):
    """J_u(x, p) = 0.5 z^T H_u z - c_u^T z, z = (x, p); `noise` is the standard deviation of a gradient's entry."""

    H_uzz: np.ndarray
    c_uz: np.ndarray
    public: int
    noise: float

    def gradient(self, u: int, x, p, rng=None) -> tuple[np.ndarray, np.ndarray]:
        """Gradients in x and in p; stochastic with `rng`."""
        z = self.H_uzz[u] @ np.concatenate([x, p]) - self.c_uz[u]
        if rng is not None:
            z = z + self.noise * rng.normal(size=z.size)
        return z[: self.public], z[self.public :]

    def loss(self, x, p_u) -> float:
        """J."""
        z_uz = np.concatenate([np.broadcast_to(x, (len(p_u), x.size)), p_u], axis=1)
        return np.mean(0.5 * np.einsum("uz,uzy,uy->u", z_uz, self.H_uzz, z_uz) - np.sum(self.c_uz * z_uz, axis=1))


def quadratic(clients=6, public=3, private=2, noise=0.3) -> Quadratic:
    """Convex, L = 1."""
    size = public + private
    H = []
    for _ in range(clients):
        basis, _ = np.linalg.qr(RNG.normal(size=(size, size)))
        H.append(basis @ np.diag(np.linspace(0.1, 1, size)) @ basis.T)
    return Quadratic(np.stack(H), RNG.normal(size=(clients, size)), public, noise)


def play(problem: Quadratic, x, p_u, eta, steps, cohort, rng):
    """One round of Algorithm 1: new x and p, the aggregate over A, and the drifts of the cohort after every step."""
    chosen = rng.choice(len(p_u), cohort, replace=False)
    p_u, total, drift = p_u.copy(), 0, np.zeros((cohort, steps))
    for k, u in enumerate(chosen):
        start = p_u[u].copy()
        for a in range(steps):
            of_x, of_p = problem.gradient(u, x, p_u[u], rng)
            p_u[u] -= eta * of_p
            total = total + of_x / (cohort * steps)
            drift[k, a] = np.sum((p_u[u] - start) ** 2)
    return x - eta * steps * total, p_u, total, drift


def stationarity(problem: Quadratic, x, p_u, cohort) -> float:
    """M_t."""
    pairs = [problem.gradient(u, x, p_u[u]) for u in range(len(p_u))]
    public = np.sum(np.mean([g for g, _ in pairs], axis=0) ** 2)
    return public + cohort / len(p_u) * np.mean([np.sum(q**2) for _, q in pairs])


@pytest.mark.parametrize(("n", "m"), [(5, 1), (5, 2), (5, 4), (5, 5), (6, 3)])
def test_the_sampling_factor_is_exact_over_all_cohorts(n, m):
    g_up = RNG.normal(size=(n, 3))
    means = [g_up[list(s)].mean(axis=0) for s in itertools.combinations(range(n), m)]
    variance = np.mean([np.sum((x - g_up.mean(axis=0)) ** 2) for x in means])
    zeta2 = np.mean(np.sum((g_up - g_up.mean(axis=0)) ** 2, axis=1))
    np.testing.assert_allclose(variance, bounds.sampling_factor(n, m) * zeta2, rtol=1e-12, atol=1e-15)


def test_a_single_client_has_no_sampling_variance():
    assert bounds.sampling_factor(1, 1) == 0


def test_lemma_1_is_an_equality_for_a_constant_gradient():
    # p moves by eta q in every step.
    eta, q = 0.1, np.array([0.3, -2.0])
    c = Constants(L=1, L_mixed=1, G2=float(q @ q), sigma2=0, zeta2=0)
    for step in (1, 2, 7):
        np.testing.assert_allclose(np.sum((step * eta * q) ** 2), bounds.drift(eta, step, c), rtol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 5, 40])
def test_lemma_2_is_within_four_thirds_of_a_bilinear_loss(steps):
    # J = L x p + q p at x = 0: the private gradient is q, the public one L p^a, off by L eta q (A-1)/2.
    L, eta, q = 3.0, 0.01, 0.7
    measured = (L * eta * q * (steps - 1) / 2) ** 2
    bound = bounds.bias(eta, steps, Constants(L=L, L_mixed=L, G2=q**2, sigma2=0, zeta2=0))
    assert measured <= bound * (1 + 1e-12)
    assert bound <= measured * 4 / 3 * (1 + 1 / max(steps - 1, 1)) + 1e-15


def test_lemma_3_without_bias_is_an_equality():
    # One step: no bias; noise sigma^2 a client; the expectation over cohorts and noise in closed form.
    c = Constants(L=1, L_mixed=1, G2=1, sigma2=2.0, zeta2=3.0)
    expected = 5.0 + bounds.sampling_factor(10, 4) * 3.0 + 2.0 / 4
    np.testing.assert_allclose(bounds.second_moment(0.1, 1, 10, 4, c, gradient2=5.0), expected, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "cohort"), [(1, 2), (4, 2), (4, 6), (3, 3)])
def test_every_bound_holds_for_a_simulated_quadratic(steps, cohort):
    problem, eta, rounds, seeds = quadratic(), 0.9 / steps, 12, 60
    n, private = len(problem.c_uz), problem.c_uz.shape[1] - problem.public
    sigma2 = problem.public * problem.noise**2
    zeta2 = G2 = 0.0
    drifts, moments, stationary, losses = [], [], [], []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        x, p_u = np.zeros(problem.public), np.zeros((n, private))
        for _ in range(rounds):
            pairs = [problem.gradient(u, x, p_u[u]) for u in range(n)]
            g_up = np.stack([g for g, _ in pairs])
            zeta2 = max(zeta2, np.mean(np.sum((g_up - g_up.mean(axis=0)) ** 2, axis=1)))
            G2 = max(G2, np.mean([np.sum(q**2) for _, q in pairs]) + private * problem.noise**2)
            stationary.append(stationarity(problem, x, p_u, cohort))
            before = g_up.mean(axis=0)
            x, p_u, aggregate, drift = play(problem, x, p_u, eta, steps, cohort, rng)
            drifts.append(drift.mean(axis=0))
            moments.append((np.sum(aggregate**2), np.sum(before**2)))
        losses.append(problem.loss(x, p_u))
    # Gradients shrink along the local steps of a convex quadratic, so G^2 at the starts bounds all of them.
    c = Constants(L=1.0, L_mixed=1.0, G2=G2, sigma2=sigma2, zeta2=zeta2)
    for a, drift in enumerate(np.mean(drifts, axis=0), start=1):
        assert drift <= bounds.drift(eta, a, c)
    measured, gradient2 = np.mean(moments, axis=0)
    assert measured <= bounds.second_moment(eta, steps, n, cohort, c, gradient2)
    start = problem.loss(np.zeros(problem.public), np.zeros((n, private)))
    gap = start - np.mean(losses)
    bound = bounds.stationarity(gap, [eta] * rounds, steps, n, cohort, c)
    assert np.mean(stationary) <= bound
    assert bound <= 100 * np.mean(stationary)


def test_the_theorem_weighs_rounds_by_their_rates():
    c = Constants(L=2.0, L_mixed=2.0, G2=1.0, sigma2=1.0, zeta2=1.0)
    constant = bounds.stationarity(3.0, [0.1] * 5, 2, 10, 4, c)
    by_hand = 2 * 3.0 / (0.1 * 2 * 5) + 1.4 * bounds.bias(0.1, 2, c)
    by_hand += 2 * 0.1 * 2 * (bounds.second_moment(0.1, 2, 10, 4, c) + 0.4)
    np.testing.assert_allclose(constant, by_hand, rtol=1e-12)
    mixed = bounds.stationarity(0.0, [0.1, 0.05], 2, 10, 4, c)
    alone = [bounds.stationarity(0.0, [eta], 2, 10, 4, c) for eta in (0.1, 0.05)]
    np.testing.assert_allclose(mixed, (0.1 * alone[0] + 0.05 * alone[1]) / 0.15, rtol=1e-12)


def test_the_bound_vanishes_with_the_rate_and_full_participation_has_no_zeta():
    c = Constants(L=2.0, L_mixed=2.0, G2=1.0, sigma2=0.0, zeta2=1e6)
    assert bounds.stationarity(0.0, [1e-9], 2, 10, 4, c) < 0.01
    with_zeta, without = (bounds.stationarity(0.0, [0.1], 2, 10, 10, c._replace(zeta2=z)) for z in (1e6, 0.0))
    assert with_zeta == without


def test_the_stability_limit():
    assert bounds.stability_limit(4, 2.5) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("measured", "bound"), [(np.nan, 1.0), (1.0, np.nan), (np.inf, np.inf), (1.0, np.inf), (2.0, 1.0)]
)
def test_a_side_that_is_no_number_is_a_violation(measured, bound):
    """A run that diverged measures nothing that could be below a bound."""
    grid = statements.CheckGrid([0.1], [2], [4], 3, 1)
    sides = (np.array([0.5, measured]), np.array([1.0, bound]))
    row = statements._worst(statements.DRIFT, (2, 0.1, 2), grid, *sides)
    assert not row.holds
    assert reporting._verdict(statements.DRIFT, [row])[-1] == "VIOLATED at 1"
    assert statements._worst(statements.DRIFT, (2, 0.1, 2), grid, np.array([0.5]), np.array([1.0])).holds
