"""Times read exactly, however they are written, and their unit."""

from __future__ import annotations

import datetime
import decimal
import pathlib
import re
from collections.abc import Callable

import numpy as np

from fedvlr_jax.data.formats.raw import Coded, Times
from fedvlr_jax.data.messages import problem
from fedvlr_jax.data.times import COUNT, UNITS, microseconds, units_of

MAX_DECIMALS = 18
TOO_FINE = re.compile(r"[.,]\d{6}0*[1-9]")  # Python reads six digits after the second's point and drops the others


def read_times(column: Coded, refuse: Callable[[int, str], None]) -> Times:
    """Exact times of text such as "881250949", "8.81250949E8", "881250949.5" or "1997-12-04T15:55:49+00:00".

    Args:
      column: the texts; all are numbers, or all are ISO 8601 dates of which all or none name a time zone.
      refuse: called with the number of the distinct text and what was expected; raises.
    """
    if column.names and _decimal(column.names[0]) is None and _date(column.names[0]) is not None:
        return _read_dates(column, refuse)
    values = []
    for number, text in enumerate(column.names):
        value = _decimal(text)
        if value is None:
            refuse(number, "a finite number, or an ISO 8601 date in all rows")
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


def _read_dates(column: Coded, refuse: Callable[[int, str], None]) -> Times:
    """Seconds since 1970 with six decimals."""
    has_zone, values = None, []
    for number, text in enumerate(column.names):
        date = _date(text)
        if date is None or (has_zone is not None and has_zone != (date.tzinfo is not None)):
            zone = {None: "", True: " with a time zone", False: " without a time zone"}[has_zone]
            refuse(number, f"an ISO 8601 date{zone} like {column.names[0]!r}, to the microsecond at most")
        else:
            has_zone = date.tzinfo is not None
            values.append(microseconds(date))
    return Times(np.array(values, np.int64)[column.code], 6, "s")


def _date(text: str) -> datetime.datetime | None:
    try:
        return None if TOO_FINE.search(text) else datetime.datetime.fromisoformat(text)
    except ValueError:
        return None


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
    """The unit of dates, or that in which all positive times of a set lie; those of zero and below belong to none.

    Args:
      times: of all rows.
      locate: as of `RawData`, for the message.

    Raises:
      DataError: times that are of one unit in one row and of another in another, with both.
    """
    if times.unit is not None:
        return times.unit
    value = times.value
    unit_r = units_of(value / 10.0**times.decimals)
    rows = np.flatnonzero(value > 0)
    if not rows.size:
        return COUNT
    other = rows[unit_r[rows] != unit_r[rows[0]]]
    names = (COUNT, *UNITS)
    if other.size:

        def written(row: np.intp) -> decimal.Decimal:
            return decimal.Decimal(int(value[row])).scaleb(-times.decimals)

        file, line = locate(int(other[0]))
        first = locate(int(rows[0]))[1]
        raise problem(
            file,
            f"times in one unit ({names[unit_r[rows[0]]]} by line {first}, {written(rows[0])}), or the unit in "
            "--config.time.unit",
            f"{written(other[0])}, a time in {names[unit_r[other[0]]]} ({other.size} such rows)",
            line=line,
        )
    return names[unit_r[rows[0]]]
