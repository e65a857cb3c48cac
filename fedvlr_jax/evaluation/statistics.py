"""Uncertainty of a mean over users: a bootstrap interval and a paired permutation test (NumPy, float64).

Ranking metrics take few distinct values (HR@K two, NDCG@K about K). Drawing n users with replacement is then
the same as drawing the multinomial counts of the distinct values, which is exact and costs resamples x
distinct instead of resamples x users; the random signs of the permutation test are grouped likewise.
"""

from __future__ import annotations

import numpy as np

_BLOCK = 1 << 20  # most numbers drawn at once


def bootstrap_interval(
    values_u: np.ndarray, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile-bootstrap interval of the mean over users (Efron 1979).

    Args:
      values_u: [u], the metric of each user.
      confidence: coverage, between 0 and 1.
      resamples: bootstrap samples.
      seed: of the draws; the same seed gives the same interval.

    Returns:
      ``(low, high)``.

    Raises:
      ValueError: if there are no values or one of them is not finite.
    """
    values_u = _checked(values_u)
    value_v, count_v = np.unique(values_u, return_counts=True)
    rng = np.random.default_rng(seed)
    total_r = [
        rng.multinomial(values_u.size, count_v / values_u.size, size=n) @ value_v
        for n in _blocks(resamples, value_v.size)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(total_r) / values_u.size, [tail, 1 - tail])
    return float(low), float(high)


def paired_permutation_test(
    a_u: np.ndarray, b_u: np.ndarray, *, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Two-sided test that two methods have one mean, by swapping their values within users (Fisher 1935).

    Args:
      a_u, b_u: [u], the metric of the same users in the same order under the two methods.
      resamples: random sign patterns; the smallest p-value is ``1 / (resamples + 1)``.
      seed: of the draws.

    Returns:
      ``(difference, p_value)``: the effect ``mean(a) - mean(b)``, and the p-value with the observed pattern
      counted among the resamples, so that it is never 0 and the test is valid at every size.

    Raises:
      ValueError: if the lengths differ, there are no values, or one of them is not finite.
    """
    a_u, b_u = _checked(a_u), _checked(b_u)
    if a_u.shape != b_u.shape:
        raise ValueError(f"expected the same users for both methods, found {a_u.size} and {b_u.size} values")
    difference_u = a_u - b_u
    size_v, count_v = np.unique(np.abs(difference_u), return_counts=True)
    rng = np.random.default_rng(seed)
    total_r = [
        (2 * rng.binomial(count_v, 0.5, size=(n, count_v.size)) - count_v[None]) @ size_v
        for n in _blocks(resamples, count_v.size)
    ]
    # Patterns with the same total may differ by rounding; they count as being as extreme as the observed one.
    bound = abs(difference_u.sum()) - 1e-9 * size_v @ count_v
    exceed = np.count_nonzero(np.abs(np.concatenate(total_r)) >= bound)
    return float(difference_u.mean()), (exceed + 1) / (resamples + 1)


def _checked(values_u: np.ndarray) -> np.ndarray:
    """The values as float64 [u], refused if empty or not finite."""
    values_u = np.asarray(values_u, np.float64)
    if values_u.ndim != 1 or not values_u.size or not np.isfinite(values_u).all():
        raise ValueError(f"expected finite values [u] of at least one user, found {values_u.dtype} {values_u.shape}")
    return values_u


def _blocks(resamples: int, distinct: int) -> list[int]:
    """Sizes of blocks of resamples that keep the drawn numbers within ``_BLOCK``."""
    size = max(1, _BLOCK // distinct)
    return [min(size, resamples - start) for start in range(0, resamples, size)]
