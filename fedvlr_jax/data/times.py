"""Points in time: read exactly, however they are written, and looked at for mixed units."""

from __future__ import annotations

import datetime
import decimal
import math
import pathlib
import warnings
from collections.abc import Sequence

import numpy as np

from fedvlr_jax.data.messages import DataWarning

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
YEARS = (6.3e8, 4.1e9)  # seconds since 1970 of the years 1990 and 2100
UNITS = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
"""What a timestamp may count, and how many of them a second has."""


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


def warn_of_mixed_units(file: pathlib.Path, time: np.ndarray) -> None:
    """A `DataWarning` where some times look like dates in one unit and some in another.

    Args:
      file: where they come from.
      time: float64 [rows], the numbers as they are written, rounded.
    """
    low, high = YEARS
    count = {unit: int(((time >= low * per) & (time < high * per)).sum()) for unit, per in UNITS.items()}
    found = [f"{unit} in {number} rows" for unit, number in count.items() if number]
    if len(found) > 1:
        warnings.warn(
            f"{file}, field timestamp: expected one unit of time, found what looks like {' and '.join(found)}; they "
            "are ordered as numbers",
            DataWarning,
            stacklevel=2,
        )
