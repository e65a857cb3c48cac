"""Rounds of the Gaussian mechanism on Poisson samples: the distribution of the privacy loss, composed numerically.

In each round a client takes part with probability q, and the sum of clipped uploads gets noise of deviation sigma
(in units of the bound). With P = N(0, sigma^2) for a round without the client and Q = (1 - q) N(0, sigma^2) +
q N(1, sigma^2) for one that may have it, the pairs (Q, P) and (P, Q) dominate what happens when one client is removed
and added (Zhu, Dong and Wang, AISTATS 2022), and so do their T-fold products. The epsilon is the larger of the two.

The loss L = log dQ/dP is put on a grid in the manner of Doroshenko et al. ("Connect the dots", PETS 2022): the mass
of each interval moves to its two ends so that it keeps its share of both Q and P. The result is again a pair of
distributions, which dominates the true one: nothing is understated, and the error is of second order in the step of
the grid. Sums over rounds are a power in the Fourier domain; all tails that are cut off count as infinite losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy

GRID_POINTS = 1 << 14
"""Points over the range of the composed loss, at least."""

TAIL = 1e-4
"""Share of delta that may go to the tails that are cut off."""

MAX_POINTS = 1 << 20
"""Points of one round's loss, at most; a wider loss gets a coarser grid."""

POWERS = np.geomspace(1e-6, 1e3, 73).tolist()
"""The powers that Chernoff's bound is tried with."""


class Loss(NamedTuple):
    """A privacy loss on a grid.

    Attributes:
      low: the loss at the first point.
      step: between two points.
      mass: [k], probabilities.
      infinite: probability of an infinite loss.
    """

    low: float
    step: float
    mass: np.ndarray
    infinite: float


def subsampled_epsilon(delta: float, sigma: float, rate: float, rounds: int) -> float:
    """The least epsilon >= 0 of `rounds` rounds at `delta`, for clients that are added or removed.

    Args:
      delta: within (0, 1).
      sigma: noise multiplier, the standard deviation over the bound of one upload.
      rate: q, the probability with which a client takes part in a round, within (0, 1).
      rounds: T >= 1.
    """
    return max(direction_epsilon(delta, sigma, rate, rounds, removed) for removed in (True, False))


def direction_epsilon(delta: float, sigma: float, rate: float, rounds: int, removed: bool) -> float:
    """`subsampled_epsilon` for clients that are removed, or for clients that are added, alone."""
    tail = TAIL * delta
    coarse = _one_round(sigma, rate, removed, tail / rounds, step=None)
    (low, *down), (high, *up) = (_end(coarse, rounds, tail, sign, POWERS) for sign in (-1, 1))
    step = max((high - low) / GRID_POINTS, len(coarse.mass) * coarse.step / MAX_POINTS)
    one = _one_round(sigma, rate, removed, tail / rounds, step=min(step, coarse.step))
    # The powers that are best for the coarse grid bound the tails on the fine one too.
    low, high = (_end(one, rounds, tail, sign, power)[0] for sign, power in ((-1, down), (1, up)))
    return _epsilon(_power(one, rounds, low, high, tail), delta)


def _one_round(sigma: float, rate: float, removed: bool, tail: float, step: float | None) -> Loss:
    """The loss of one round on a grid of the given step, or of a 1024th of its range without one."""
    ends_x = np.array([0.0, 1.0]) + sigma * np.array([-1, 1]) * np.sqrt(-2 * np.log(tail))
    low, high = _log_ratio(ends_x, sigma, rate)
    step = (high - low) / 1024 if step is None else step
    grid = step * np.arange(np.floor(low / step), np.ceil(high / step) + 1)  # of log dQ/dP
    x = _inverse_log_ratio(grid, sigma, rate)
    without, shifted = _interval_mass(x / sigma), _interval_mass((x - 1) / sigma)
    mixed = (1 - rate) * without + rate * shifted
    first, second = (mixed, without) if removed else (without, mixed)
    if not removed:  # log dP/dQ runs the other way
        grid, first, second = -grid[::-1], first[::-1], second[::-1]
    # An interval keeps its mass, and at losses l and l + step its mass under the other distribution too.
    inner_first, inner_second = first[1:-1], np.exp(_log(second[1:-1]) + grid[:-1])
    upper = np.clip((inner_first - inner_second) / -np.expm1(-step), 0, inner_first)
    mass = np.zeros(len(grid))
    mass[:-1] += inner_first - upper
    mass[1:] += upper
    mass[0] += first[0]
    return Loss(grid[0], step, mass, first[-1])


def _log_ratio(x: np.ndarray, sigma: float, rate: float) -> np.ndarray:
    """log dQ/dP at x."""
    return np.logaddexp(np.log1p(-rate), np.log(rate) + (2 * x - 1) / (2 * sigma**2))


def _inverse_log_ratio(loss: np.ndarray, sigma: float, rate: float) -> np.ndarray:
    """The x at which log dQ/dP has these values; minus infinity where it is larger everywhere."""
    above = loss > np.log1p(-rate)
    safe = np.where(above, loss, 1.0)
    # log((e^loss - (1 - q)) / q) without overflow
    log_odds = safe + np.log1p(-(1 - rate) * np.exp(-safe)) - np.log(rate)
    return np.where(above, sigma**2 * log_odds + 0.5, -np.inf)


def _log(x: np.ndarray) -> np.ndarray:
    return np.log(x, out=np.full_like(x, -np.inf), where=x > 0)


def _interval_mass(z: np.ndarray) -> np.ndarray:
    """Mass of a standard Gaussian below the first point, between all points, and above the last; [k + 1]."""
    ends = np.concatenate([[-np.inf], z, [np.inf]])
    low, high = ends[:-1], ends[1:]
    # On the side where both are small, so that nothing cancels.
    ndtr = scipy.special.ndtr
    return np.where(low > 0, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low))


def _end(loss: Loss, rounds: int, tail: float, sign: int, powers: Sequence[float]) -> tuple[float, float]:
    """What the sum over rounds is beyond with probability `tail` at most, upwards or downwards, and the best power.

    Chernoff's bound with each of the powers, and the largest sum that there is.
    """
    value = loss.low + loss.step * np.arange(len(loss.mass))
    some = loss.mass > 0
    log_mass, value = np.log(loss.mass[some]), sign * value[some]
    power = np.asarray(powers)
    cumulants = scipy.special.logsumexp(log_mass + power[:, None] * value, axis=1)
    bounds = (rounds * cumulants - np.log(tail)) / power
    best = int(np.argmin(bounds))
    return sign * min(float(bounds[best]), rounds * float(value.max())), float(power[best])


def _power(one: Loss, rounds: int, low: float, high: float, tail: float) -> Loss:
    """The loss of all rounds within [low, high]; what lies outside counts as infinite."""
    begin, end = int(np.floor(low / one.step)), int(np.ceil(high / one.step))
    size = scipy.fft.next_fast_len(max(end - begin + 1, len(one.mass)), real=True)
    around = scipy.fft.irfft(scipy.fft.rfft(one.mass, size) ** rounds, size)
    index = (np.arange(begin, begin + size) - rounds * round(one.low / one.step)) % size
    infinite = -np.expm1(rounds * np.log1p(-one.infinite)) + 2 * tail
    return Loss(begin * one.step, one.step, np.maximum(around[index], 0.0), infinite)


def _epsilon(loss: Loss, delta: float) -> float:
    """The least epsilon >= 0 with E[(1 - exp(epsilon - loss))_+] <= delta."""

    def sums(first: int) -> tuple[float, float]:
        """The mass from the point `first` on, and the same with weights exp(loss[first] - loss)."""
        mass = loss.mass[first:]
        decay = np.exp(-loss.step * np.arange(len(mass)))
        return loss.infinite + float(np.sum(mass)), float(mass @ decay)

    low, high = -1, len(loss.mass) - 1  # delta is too large at low, and small enough at high
    while high - low > 1:
        middle = (low + high) // 2
        total, shifted = sums(middle)
        low, high = (low, middle) if total - shifted <= delta else (middle, high)
    # Between two points of the grid delta is total - shifted exp(epsilon - loss[high]).
    total, shifted = sums(high)
    if total <= delta:
        return 0.0
    return max(0.0, loss.low + high * loss.step + float(np.log((total - delta) / shifted)))
