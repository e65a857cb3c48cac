"""Two methods on the same users: difference, effect size and p-value, and Holm's correction of many p-values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedvlr_jax.evaluation.intervals import checked_seeds
from fedvlr_jax.evaluation.statistics import paired_permutation_test

_EQUAL = 1e-12  # means over seeds that are closer differ by rounding only


class Comparison(NamedTuple):
    """A method a against a method b; a user's value is its mean over seeds.

    Attributes:
      difference: mean(a) - mean(b).
      p_value: two-sided, of the paired permutation test over users; not corrected for other comparisons.
      effect_size: Cohen's d_z, the mean difference over the standard deviation of the users' differences; 0 if all
        users are equal under both, None if all differ by the same amount or there is one user.
      better, worse: shares of users with a higher and with a lower value under a; the rest is equal.
    """

    difference: float
    p_value: float
    effect_size: float | None
    better: float
    worse: float


def compare(a_su: np.ndarray, b_su: np.ndarray, *, resamples: int = 10_000, seed: int = 0) -> Comparison:
    """Compares two methods on the same users; users are the exchangeable units, so seeds are averaged first.

    Args:
      a_su, b_su: [s, u], the metric of the same users in the same order; the numbers of seeds may differ.
      resamples: random sign patterns of the test (`statistics.paired_permutation_test`).
      seed: of the draws.

    Raises:
      ValueError: if the users differ in number, there are none, or a value is not finite.
    """
    a_u, b_u = checked_seeds(a_su).mean(axis=0), checked_seeds(b_su).mean(axis=0)
    if a_u.shape != b_u.shape:
        raise ValueError(f"expected the same users for both methods, found {a_u.size} and {b_u.size} users")
    difference_u = np.where(np.abs(a_u - b_u) > _EQUAL, a_u - b_u, 0.0)
    difference, p_value = paired_permutation_test(
        difference_u, np.zeros_like(difference_u), resamples=resamples, seed=seed
    )
    return Comparison(
        difference=difference,
        p_value=p_value,
        effect_size=_cohen_dz(difference_u),
        better=float(np.mean(difference_u > 0)),
        worse=float(np.mean(difference_u < 0)),
    )


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Holm-Bonferroni adjusted p-values, float64 [m], in the order given (Holm, Scandinavian J. of Statistics 1979).

    With p_(1) <= ... <= p_(m), the k-th smallest becomes max over j <= k of min(1, (m - j + 1) p_(j)). Rejecting
    those at most alpha holds the chance of any false rejection at alpha, however the tests depend on each other.

    Raises:
      ValueError: if a value is not in [0, 1].
    """
    p_m = np.asarray(p_values, np.float64)
    if p_m.ndim != 1 or not ((p_m >= 0) & (p_m <= 1)).all():
        raise ValueError(f"expected p-values [m] between 0 and 1, found {p_m}")
    order_m = np.argsort(p_m, kind="stable")
    factor_m = np.arange(p_m.size, 0, -1)
    adjusted_m = np.empty_like(p_m)
    adjusted_m[order_m] = np.minimum(np.maximum.accumulate(factor_m * p_m[order_m]), 1)
    return adjusted_m


def _cohen_dz(difference_u: np.ndarray) -> float | None:
    """The standardised mean difference, or None where it has no finite value."""
    if not difference_u.any():
        return 0.0
    spread = difference_u.std(ddof=1) if difference_u.size > 1 else 0.0
    return float(difference_u.mean() / spread) if spread > _EQUAL else None
