"""Times read exactly, however they are written, and their unit."""

from __future__ import annotations

import decimal
import pathlib
from collections.abc import Callable

import numpy as np

from fedvlr_jax.data.formats.raw import Coded, Times
from fedvlr_jax.data.messages import problem
from fedvlr_jax.data.times import COUNT, UNITS, units_of

MAX_DECIMALS = 18


def read_times(column: Coded, refuse: Callable[[int, str], None]) -> Times:
    """Exact times of text such as "881250949", "8.81250949E8" or "881250949.5".

    Args:
      column: the texts.
      refuse: called with the number of the distinct text and what was expected; raises.
    """
    values = []
    for number, text in enumerate(column.names):
        value = _decimal(text)
        if value is None:
            refuse(number, "a finite number")
        else:
            values.append(value)
    decimals = max(0, *(-_exponent(value) for value in values), 0)
    whole = []
    for number, value in enumerate(values):
        scaled = (
            int(value.scaleb(decimals)) if decimals <= MAX_DECIMALS and value.adjusted() <= MAX_DECIMALS else None
        )
        if scaled is None or not -(2**63) <= scaled < 2**63:
            refuse(number, f"a time that fits 64 bits with {decimals} digits after the point")
        whole.append(scaled)
    return Times(np.array(whole, np.int64)[column.code], decimals)


def _decimal(text: str) -> decimal.Decimal | None:
    try:
        value = decimal.Decimal(text)
    except decimal.InvalidOperation:
        return None
    return value if value.is_finite() and "_" not in text else None


def _exponent(value: decimal.Decimal) -> int:
    """The power of ten of the last digit that is not zero; 0 for zero."""
    _, digits, exponent = value.as_tuple()
    zeros = next((k for k, digit in enumerate(reversed(digits)) if digit), None)
    return 0 if zeros is None else int(exponent) + zeros


def find_unit(times: Times, locate: Callable[[int], tuple[pathlib.Path, int]]) -> str:
    """The unit in which all positive times of a set lie; times of zero and below belong to none.

    Args:
      times: of all rows.
      locate: as of `RawData`, for the message.

    Raises:
      DataError: times that are of one unit in one row and of another in another, with both.
    """
    value = times.value
    unit_r = units_of(value / 10.0**times.decimals)
    rows = np.flatnonzero(value > 0)
    if not rows.size:
        return COUNT
    other = rows[unit_r[rows] != unit_r[rows[0]]]
    names = (COUNT, *UNITS)
    if other.size:
        file, line = locate(int(other[0]))
        first = locate(int(rows[0]))[1]
        raise problem(
            file,
            f"times in one unit ({names[unit_r[rows[0]]]} by line {first}, {value[rows[0]]}), or the unit in "
            "--config.time.unit",
            f"{value[other[0]]}, a time in {names[unit_r[other[0]]]} ({other.size} such rows)",
            line=line,
        )
    return names[unit_r[rows[0]]]
