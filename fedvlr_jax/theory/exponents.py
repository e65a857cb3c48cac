"""Exponents: slopes in double-logarithmic coordinates, with intervals over independent runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy
from tabulate import tabulate

from fedvlr_jax.errors import ConfigError

Expected = tuple[float, float] | None

TOLERANCE = 0.05  # an exponent this near is the expected one: lower-order terms bend every finite range a little
LEAST_RUNS = 3  # fewer independent runs give no interval worth printing


class Exponent(NamedTuple):
    """p of y ~ x^p.

    Attributes:
      name: what grows with what.
      expected: the range (low, high) of the exponent that the analysis gives, None where it gives none.
      value: the estimate.
      low, high: its 95 % interval.
    """

    name: str
    expected: Expected
    value: float
    low: float
    high: float

    @property
    def agrees(self) -> bool | None:
        """Whether the interval, widened by `TOLERANCE`, meets the expected range; None where nothing is expected."""
        if self.expected is None:
            return None
        return bool(self.low - TOLERANCE <= self.expected[1] and self.high + TOLERANCE >= self.expected[0])


def slopes(x_k: np.ndarray, y_ek: np.ndarray) -> np.ndarray:
    """Least-squares slopes [e] of log y on log x, one for each row of `y_ek`; x and y must be positive.

    Raises:
      ConfigError: fewer than two distinct x.
    """
    if len(np.unique(x_k)) < 2:
        raise ConfigError(f"a grid of one point ({x_k[0]:g}) cannot be fitted: expected at least two distinct values")
    log_k = np.log(np.asarray(x_k, float))
    centred_k = log_k - log_k.mean()
    return np.log(np.asarray(y_ek, float)) @ centred_k / (centred_k @ centred_k)


def over_runs(name: str, expected: Expected, x_k: np.ndarray, y_ek: np.ndarray) -> Exponent:
    """The mean of the runs' slopes with its t interval; rows of `y_ek` are independent runs.

    Raises:
      ConfigError: a grid of one point, or fewer than `LEAST_RUNS` runs.
    """
    require_runs(len(y_ek))
    slope_e = slopes(x_k, y_ek)
    half = scipy.stats.t.ppf(0.975, len(slope_e) - 1) * slope_e.std(ddof=1) / np.sqrt(len(slope_e))
    return Exponent(name, expected, slope_e.mean(), slope_e.mean() - half, slope_e.mean() + half)


def over_points(name: str, expected: Expected, x_k: np.ndarray, y_k: np.ndarray) -> Exponent:
    """The slope through single points with the t interval of the regression (three points at least).

    Raises:
      ConfigError: fewer than three distinct x.
    """
    if len(np.unique(x_k)) < 3:
        raise ConfigError(f"{name}: expected at least three values for an interval, found {len(np.unique(x_k))}")
    fit = scipy.stats.linregress(np.log(np.asarray(x_k, float)), np.log(np.asarray(y_k, float)))
    # Without any variation the error of the slope is 0 / 0, and the slope is exactly zero.
    half = scipy.stats.t.ppf(0.975, len(x_k) - 2) * np.nan_to_num(fit.stderr)
    return Exponent(name, expected, fit.slope, fit.slope - half, fit.slope + half)


def require_runs(count: int) -> None:
    """ConfigError unless `count` independent runs are enough for an interval."""
    if count < LEAST_RUNS:
        raise ConfigError(f"check.seeds: expected at least {LEAST_RUNS} for an interval, found {count}")


EXPONENT_COLUMNS = ("name", "expected_low", "expected_high", "value", "ci_low", "ci_high", "agrees")


def exponent_row(exponent: Exponent) -> tuple:
    """The row of `EXPONENT_COLUMNS`."""
    expected = exponent.expected or (None, None)
    return exponent.name, *expected, exponent.value, exponent.low, exponent.high, exponent.agrees


def exponent_table(exponents: Sequence[Exponent]) -> str:
    """A line for each exponent with its verdict, as Markdown."""
    verdict = {True: "agrees", False: "differs", None: ""}
    rows = [
        (
            e.name,
            "" if e.expected is None else " to ".join(f"{x:g}" for x in dict.fromkeys(e.expected)),
            f"{e.value:.3f}",
            f"{e.low:.3f} to {e.high:.3f}",
            verdict[e.agrees],
        )
        for e in exponents
    ]
    columns = ("exponent", "expected", "found", "95 % interval", "verdict")
    return tabulate(rows, columns, tablefmt="pipe", disable_numparse=True)
