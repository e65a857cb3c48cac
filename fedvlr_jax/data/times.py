"""Points in time: read exactly, however they are written, and looked at for mixed units."""

from __future__ import annotations

import datetime
import decimal
import math
import warnings
from collections.abc import Sequence

import numpy as np

from fedvlr_jax.data.messages import DataWarning

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
UNITS = {"s": (1e8, 1e11), "ms": (1e11, 1e14), "us": (1e14, 1e17), "ns": (1e17, 1e20)}
"""Which numbers are times since 1970 in a unit: from 1973 to 5138 in seconds, and so on, without overlap."""
WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
COUNT = "count"  # smaller numbers: days, positions, or whatever else grows with time


def microseconds(date: datetime.datetime) -> int:
    """Microseconds since 1970; a date without a time zone counts as UTC, which has no hour twice."""
    return (date.replace(tzinfo=date.tzinfo or datetime.UTC) - EPOCH) // datetime.timedelta(microseconds=1)


def is_time(value: str) -> bool:
    """Whether a text is a finite number; numbers beyond the largest float64 count as infinite."""
    try:
        return math.isfinite(float(value)) and decimal.Decimal(value).is_finite()
    except (ValueError, decimal.InvalidOperation):
        return False


def order_times(values: Sequence[str]) -> np.ndarray:
    """int64 [rows], equal where two times are equal and larger where one is later, to the last digit written.

    Whole numbers of 64 bits stand for themselves. Where others occur ("1e9", "978300760.25", 20 digits), every time
    is its place among the distinct ones: float64 would merge neighbours.

    Args:
      values: texts for which `is_time` holds.
    """
    try:
        return np.array(list(map(int, values)), np.int64)
    except (ValueError, OverflowError):
        exact = {value: decimal.Decimal(value) for value in set(values)}
        place = {time: n for n, time in enumerate(sorted(set(exact.values())))}
        return np.array([place[exact[value]] for value in values], np.int64)


def units_of(time: np.ndarray) -> np.ndarray:
    """For every number [rows] the place of its unit in (COUNT, *UNITS)."""
    return np.searchsorted([low for low, _ in UNITS.values()], time, side="right")


def warn_of_mixed_units(where: str, time: np.ndarray) -> None:
    """A `DataWarning` where some times look like dates in one unit and some in another.

    Args:
      where: what they are, in words.
      time: float64 [rows], the numbers as they are written, rounded.
    """
    count = np.bincount(units_of(time), minlength=len(UNITS) + 1)[1:]
    found = [f"{WORDS[unit]} in {number} rows" for unit, number in zip(UNITS, count, strict=True) if number]
    if len(found) > 1:
        warnings.warn(
            f"{where}: expected one unit of time, found what looks like {' and '.join(found)}; they are ordered as "
            "numbers",
            DataWarning,
            stacklevel=2,
        )
