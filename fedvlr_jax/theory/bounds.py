"""The bounds of docs/theory.md as pure functions of numbers.

Symbols: eta rate of public and private steps, A local steps, T rounds, n clients, m = n_s clients of a round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Constants(NamedTuple):
    """The constants of the assumptions; the last three are squares.

    Attributes:
      L: Lipschitz constant of the gradient of every J_u, jointly in public and private parameters.
      L_mixed: of the public gradient in the private parameters alone; at most L, and all that lemma 2 needs.
      G2: second moment of a client's private stochastic gradient, at most.
      sigma2: mean over clients of the variance of one step's public stochastic gradient, at most.
      zeta2: mean over clients of ||grad_public J_u - grad_public J||^2, at most.
    """

    L: float
    L_mixed: float
    G2: float
    sigma2: float
    zeta2: float


def drift(eta: float, step: int, c: Constants) -> float:
    """Lemma 1: E||p_u^a - p_u^0||^2 <= a^2 eta^2 G^2 after a = `step` local steps."""
    return step**2 * eta**2 * c.G2


def bias(eta: float, steps: int, c: Constants) -> float:
    """Lemma 2 with L: L^2 eta^2 G^2 (A - 1)(2 A - 1) / 6; zero for one local step."""
    return c.L**2 * eta**2 * c.G2 * (steps - 1) * (2 * steps - 1) / 6


def mixed_bias(eta: float, steps: int, c: Constants) -> float:
    """Lemma 2 with the mixed constant, its sharp form."""
    return bias(eta, steps, c._replace(L=c.L_mixed))


def sampling_factor(num_clients: int, cohort: int) -> float:
    """(n - m) / (m (n - 1)): variance of the mean of m of n numbers drawn without replacement, per unit variance."""
    return (num_clients - cohort) / (cohort * (num_clients - 1)) if num_clients > 1 else 0.0


def second_moment(
    eta: float,
    steps: int,
    num_clients: int,
    cohort: int,
    c: Constants,
    gradient2: float | np.ndarray = 0.0,
    factor: Callable[[int, int], float] = sampling_factor,
) -> float | np.ndarray:
    """Lemma 3: second moment of the aggregated gradient over A; its variance at `gradient2` = 0.

    (sqrt(||grad_public J||^2 + factor zeta^2 + sigma^2 / (m A)) + sqrt(mixed bias))^2
    """
    exact = gradient2 + factor(num_clients, cohort) * c.zeta2 + c.sigma2 / (cohort * steps)
    return (np.sqrt(exact) + np.sqrt(mixed_bias(eta, steps, c))) ** 2


def stability_limit(steps: int, L: float) -> float:
    """1 / (L A), the largest rate of Theorem 1."""
    return 1 / (L * steps)


def stationarity(
    gap: float | np.ndarray,
    rates: Sequence[float],
    steps: int,
    num_clients: int,
    cohort: int,
    c: Constants,
    factor: Callable[[int, int], float] = sampling_factor,
) -> float | np.ndarray:
    """Theorem 1: bound on sum_t eta_t E[M_t] / sum_t eta_t, M_t = ||grad_public J||^2 + (m/n) (1/n) sum_u ||q_u||^2.

    Args:
      gap: J(Theta_0) minus a lower bound of J; an array gives an array of bounds.
      rates: eta_t of every round, each at most `stability_limit`; equal rates give the plain mean over rounds.
      steps, num_clients, cohort, c: A, n, m and the constants.
      factor: of the variance of sampling clients.
    """
    floors, share = [], cohort / num_clients
    for eta in rates:
        variance = second_moment(eta, steps, num_clients, cohort, c, factor=factor)
        floors.append((1 + share) * bias(eta, steps, c) + c.L * eta * steps * (variance + share * c.G2))
    return (2 * gap / steps + np.dot(rates, floors)) / np.sum(rates)


class Bounds(NamedTuple):
    """The right-hand sides that measurements are compared with; a test plants a fault by replacing one of them."""

    drift: Callable = drift
    bias: Callable = bias
    mixed_bias: Callable = mixed_bias
    sampling_factor: Callable = sampling_factor
    second_moment: Callable = second_moment
    stationarity: Callable = stationarity
