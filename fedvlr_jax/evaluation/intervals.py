"""Interval of a method's mean over users and seeds: a bootstrap that resamples both (NumPy, float64).

Values [s, u] of S seeds and U users are crossed: every seed sees the same users. A resample draws users and seeds
independently and takes the mean of the drawn rows and columns (the pigeonhole bootstrap: Owen, "The pigeonhole
bootstrap", Annals of Applied Statistics 2007). Two corrections matter because seeds are few:

* S - 1 seeds are drawn from S, which makes the spread between seeds unbiased (Rao & Wu 1988); S draws would give it
  the factor (S - 1) / S.
* the percentiles are moved out from those of the normal to those of Student's t (Hesterberg, "What teachers should
  know about the bootstrap", 2015), with the degrees of freedom that Satterthwaite's rule gives the standard error.
  Where users dominate the error, as they mostly do, that changes nothing; where five seeds do, coverage rises from 86
  to 92 %.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy

from fedvlr_jax.evaluation.statistics import bootstrap_interval

LEAST_USERS = 20
_BLOCK = 1 << 22  # most numbers drawn at once
_WIDTH = 32  # columns of every matrix product: its shape must not depend on how many metrics share the draws


class Interval(NamedTuple):
    """``low`` and ``high``, or None for both and the ``reason``, a sentence."""

    low: float | None
    high: float | None
    reason: str = ""


def mean_intervals(
    values_msu: np.ndarray,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    least_users: int = LEAST_USERS,
) -> list[Interval]:
    """Intervals of the means over all users and all seeds, of several metrics or methods that share the draws.

    Args:
      values_msu: [m, s, u], the values of m metrics or methods for the same seeds and users.
      confidence: coverage, between 0 and 1.
      resamples: bootstrap samples.
      seed: of the draws; the same seed gives the same interval, however many share the draws.
      least_users: with fewer users there is no interval, but a reason.

    Returns:
      One interval for each. With one seed it is `statistics.bootstrap_interval`: it speaks of users only. With
      several, it holds its level when users or the noise of single values dominate the error; when seeds do, five of
      them cover about 92 % and three about 86 % instead of 95 %, since no resample leaves their range.

    Raises:
      ValueError: if the values are not [m, s, u] of at least one seed, or one of them is not finite.
    """
    values_msu = np.stack([checked_seeds(values_su) for values_su in values_msu])
    _, num_seeds, num_users = values_msu.shape
    if num_users < least_users:
        reason = f"an interval needs at least {least_users} users, found {num_users}"
        return [Interval(None, None, reason) for _ in values_msu]
    if num_seeds == 1:
        options = {"confidence": confidence, "resamples": resamples, "seed": seed}
        return [Interval(*bootstrap_interval(values_su[0], **options)) for values_su in values_msu]
    mean_mr = _resample(values_msu, resamples, seed)
    found = []
    for values_su, mean_r in zip(values_msu, mean_mr, strict=True):
        tail = float(scipy.special.ndtr(scipy.special.stdtrit(_degrees_of_freedom(values_su), (1 - confidence) / 2)))
        low, high = np.quantile(mean_r, [tail, 1 - tail])
        found.append(Interval(float(low), float(high)))
    return found


def checked_seeds(values_su: np.ndarray) -> np.ndarray:
    """The values as float64 [s, u], refused without seeds or if not finite; there may be no user."""
    values_su = np.asarray(values_su, np.float64)
    if values_su.ndim != 2 or not len(values_su) or not np.isfinite(values_su).all():
        raise ValueError(f"expected finite values [s, u] of at least one seed, found shape {values_su.shape}")
    return values_su


def _resample(values_msu: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """float64 [m, r], means of the values over U drawn users and S - 1 drawn seeds."""
    num_metrics, num_seeds, num_users = values_msu.shape
    values_ux = np.pad(values_msu.reshape(-1, num_users).T, ((0, 0), (0, -num_metrics * num_seeds % _WIDTH)))
    columns = np.split(values_ux, values_ux.shape[1] // _WIDTH, axis=1)
    rng = np.random.default_rng(seed)
    size = max(1, _BLOCK // num_users)
    means = []
    for start in range(0, resamples, size):
        n = min(size, resamples - start)
        drawn_ru = rng.integers(num_users, size=(n, num_users)) + num_users * np.arange(n)[:, None]
        times_ru = np.bincount(drawn_ru.ravel(), minlength=n * num_users).reshape(n, num_users).astype(float)
        times_rs = rng.multinomial(num_seeds - 1, np.full(num_seeds, 1 / num_seeds), size=n)
        sum_rx = np.concatenate([times_ru @ values_ux for values_ux in columns], axis=1)
        sum_rms = sum_rx[:, : num_metrics * num_seeds].reshape(n, num_metrics, num_seeds)
        means.append(np.einsum("rms,rs->mr", sum_rms, times_rs) / (num_users * (num_seeds - 1)))
    return np.concatenate(means, axis=1)


def _degrees_of_freedom(values_su: np.ndarray) -> float:
    """Satterthwaite's degrees of freedom of the squared standard error V_s + V_u - V_e of the two-way mean."""
    num_seeds, num_users = values_su.shape
    mean_s, mean_u = values_su.mean(axis=1), values_su.mean(axis=0)
    rest_su = values_su - mean_s[:, None] - mean_u[None] + values_su.mean()
    freedom = np.array([num_seeds - 1, num_users - 1, (num_seeds - 1) * (num_users - 1)])
    between_seeds, between_users = mean_s.var(ddof=1) / num_seeds, mean_u.var(ddof=1) / num_users
    rest = np.sum(rest_su**2) / freedom[2] / values_su.size
    total = max(between_seeds + between_users - rest, between_seeds, between_users)
    terms = np.array([between_seeds, between_users, rest])
    # Without any spread every quantile is the mean; the quotient 0/0 is not computed.
    return float(total**2 / np.sum(terms**2 / freedom)) if total else float(num_users - 1)
