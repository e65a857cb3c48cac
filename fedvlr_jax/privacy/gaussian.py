"""The Gaussian mechanism without sampling: exact, in closed form (Balle and Wang, ICML 2018, theorem 8).

T rounds of noise sigma on a sum of sensitivity 1 are one Gaussian mechanism with mu = sqrt(T) / sigma:

    delta(epsilon) = Phi(mu / 2 - epsilon / mu) - exp(epsilon) Phi(-mu / 2 - epsilon / mu)
"""

from __future__ import annotations

import numpy as np
import scipy


def gaussian_delta(epsilon: float, mu: float) -> float:
    """delta at `epsilon` of a Gaussian mechanism whose mean moves by `mu` standard deviations."""
    if mu == 0:
        return 0.0
    log_ndtr = scipy.special.log_ndtr
    first, second = log_ndtr(mu / 2 - epsilon / mu), epsilon + log_ndtr(-mu / 2 - epsilon / mu)
    return float(-np.exp(first) * np.expm1(min(second - first, 0.0)))


def gaussian_epsilon(delta: float, mu: float) -> float:
    """The least epsilon >= 0 at which a Gaussian mechanism with `mu` has `delta`.

    Args:
      delta: within (0, 1).
      mu: sensitivity over standard deviation, finite.
    """
    if gaussian_delta(0.0, mu) <= delta:
        return 0.0
    # Beyond this the tail of the loss, a Gaussian of mean mu^2 / 2 and deviation mu, is below delta.
    high = mu**2 / 2 + mu * np.sqrt(-2 * np.log(delta))

    def excess(epsilon: float) -> float:
        return gaussian_delta(epsilon, mu) - delta

    return float(scipy.optimize.brentq(excess, 0.0, high, xtol=1e-12, rtol=1e-12))
