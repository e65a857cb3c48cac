"""Reading ``inter.csv``: every row parsed and checked on its own, before any rule that spans rows.

A plain table is read by `plain`, all rows at once. Everything else, and whatever breaks a rule, goes through the csv
module, value by value, which finds the line of the first fault.
"""

from __future__ import annotations

import csv
import io
import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.data.messages import DataWarning, Source, problem
from fedvlr_jax.data.plain import Column, read_plain
from fedvlr_jax.data.times import is_time, order_times, warn_of_mixed_units

COLUMNS = ("userID", "itemID", "rating", "timestamp", "split_label")
SPLITS = {"0": "train", "1": "validation", "2": "test"}
MAX_ID = 2**31 - 2  # ids and their count fit int32
ID_WIDTH = 10  # digits of the largest


class Interactions(NamedTuple):
    """The rows of a table of interactions, in its order.

    Attributes:
      source: where they come from.
      line: int64 [rows], what messages call each row: its line in the file, the header being line 1.
      user, item: int64 [rows], ids of at least 0.
      timestamp: int64 or float64 [rows], equal where two times are equal and larger where one is later, or None where
        there are none.
      split: int64 [rows] of 0 train, 1 validation, 2 test, or None where there are none.
      span: the earliest and the latest time as they are written, rounded; None where there are none.
    """

    source: Source
    line: np.ndarray
    user: np.ndarray
    item: np.ndarray
    timestamp: np.ndarray | None
    split: np.ndarray | None
    span: tuple[float, float] | None = None


def read_interactions(file: pathlib.Path) -> Interactions:
    """Read ``userID,itemID[,rating],timestamp,split_label`` in any order of columns.

    Either `timestamp` or `split_label` may be absent. Times are compared exactly, however they are written. Ratings
    are checked to be numbers and not used: feedback is implicit. Unknown columns are refused, because a misspelled
    `split_label` would silently give another split.

    Raises:
      DataError: a file that cannot be read, is empty, lacks a column or has an unknown one, or has a field that
        does not parse.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise problem(file, "a readable file", error.strerror or str(error)) from error
    return _from_plain(file, read_plain(content)) or _from_text(file, content)


def _from_plain(file: pathlib.Path, columns: dict[str, Column] | None) -> Interactions | None:
    """The rows of a plain table; None where there is none, or one that breaks a rule."""
    if columns is None or not _is_good(columns):
        return None
    if "rating" in columns:
        _warn_of_ratings(file, columns["rating"].number)
    time, span = columns.get("timestamp"), None
    if time is not None:
        written = time.number / 10**time.places
        warn_of_mixed_units(f"{file}, field timestamp", written)
        span = span_of(written)
    user, split = columns["userID"].number, columns.get("split_label")
    return Interactions(
        source=Source(str(file)),
        line=np.arange(2, len(user) + 2),
        user=user,
        item=columns["itemID"].number,
        timestamp=time and time.number,
        split=split and split.number,
        span=span,
    )


def _is_good(columns: dict[str, Column]) -> bool:
    """Whether a plain table has the right columns, and every column values of the right kind."""
    if _header_fault(list(columns)) is not None:
        return False
    whole = [columns[name] for name in ("userID", "itemID", "split_label") if name in columns]
    ids = (columns["userID"], columns["itemID"])
    return (
        all(column.places == 0 for column in whole)
        and all(column.width <= ID_WIDTH and column.number.max() <= MAX_ID for column in ids)
        and all(column.width == 1 and column.number.max() <= 2 for column in whole[2:])
    )


def _from_text(file: pathlib.Path, content: bytes) -> Interactions:
    """The rows of any table, checked value by value."""
    text, lines = _read_columns(file, content)
    if not lines:
        raise problem(file, "at least one interaction below the header", "none")
    if "rating" in text:
        _check_each(file, lines, "rating", text["rating"], is_time, "a finite number")
        _warn_of_ratings(file, np.array(list(map(float, text["rating"]))))
    user, item = (_ids(file, lines, name, text[name]) for name in ("userID", "itemID"))
    time, span = _times(file, lines, text["timestamp"]) if "timestamp" in text else (None, None)
    return Interactions(
        source=Source(str(file)),
        line=np.array(lines),
        user=user,
        item=item,
        timestamp=time,
        split=_splits(file, lines, text["split_label"]) if "split_label" in text else None,
        span=span,
    )


def _read_columns(file: pathlib.Path, content: bytes) -> tuple[dict[str, list[str]], list[int]]:
    """Values by column and the line number of every row; blank lines are skipped."""
    flat, lines, reader = [], [], None
    try:
        with io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            header = next(filter(None, reader), None)
            _check_header(file, header)
            width = len(header)
            for row in reader:
                if len(row) == width:
                    flat.extend(row)
                    lines.append(reader.line_num)
                elif row:
                    raise problem(file, f"{width} fields as in the header", f"{len(row)}", line=reader.line_num)
    except UnicodeDecodeError as error:
        raise problem(file, "UTF-8 text", f"{error.reason} after line {reader.line_num}") from error
    except csv.Error as error:
        raise problem(file, "comma-separated values", str(error), line=reader.line_num) from error
    return {name: flat[k::width] for k, name in enumerate(header)}, lines


def _check_header(file: pathlib.Path, header: list[str] | None) -> None:
    if header is None:
        raise problem(file, f"a header {','.join(COLUMNS)} and interactions below it", "an empty file")
    fault = _header_fault(header)
    if fault is not None:
        raise problem(file, *fault, line=1)


def _header_fault(header: Sequence[str]) -> tuple[str, str] | None:
    """What a header should have, and what it has instead; None for a good one."""
    found = ",".join(header)
    for name in header:
        if name not in COLUMNS:
            return f"the columns {','.join(COLUMNS)}", f"an unknown column {name!r} in {found!r}"
        if header.count(name) > 1:
            return "every column once", f"{name!r} {header.count(name)} times in {found!r}"
    for name in ("userID", "itemID"):
        if name not in header:
            return f"the columns {','.join(COLUMNS)}", f"no {name} in {found!r}"
    if "split_label" not in header and "timestamp" not in header:
        expected = "a column split_label, or a column timestamp to split by (last = test, second last = validation)"
        return expected, f"neither in {found!r}"
    return None


def _ids(file: pathlib.Path, lines: list[int], field: str, values: Sequence[str]) -> np.ndarray:
    def is_id(value: str) -> bool:
        return value.isascii() and value.isdecimal() and len(value) <= ID_WIDTH and int(value) <= MAX_ID

    _check_each(file, lines, field, values, is_id, f"a whole number from 0 to {MAX_ID}")
    return np.array(list(map(int, values)))


def _splits(file: pathlib.Path, lines: list[int], values: Sequence[str]) -> np.ndarray:
    expected = ", ".join(f"{label} ({name})" for label, name in SPLITS.items())
    _check_each(file, lines, "split_label", values, SPLITS.__contains__, f"one of {expected}")
    return np.array(list(map(int, values)))


def _times(file: pathlib.Path, lines: list[int], values: Sequence[str]) -> tuple[np.ndarray, tuple[float, float]]:
    """What orders the times, and their span."""
    _check_each(file, lines, "timestamp", values, is_time, "a finite number")
    written = np.array(list(map(float, values)))
    warn_of_mixed_units(f"{file}, field timestamp", written)
    return order_times(values), span_of(written)


def span_of(time: np.ndarray) -> tuple[float, float]:
    """The earliest and the latest of some times [rows]."""
    return float(time.min()), float(time.max())


def _warn_of_ratings(file: pathlib.Path, rating: np.ndarray) -> None:
    """Feedback is implicit, so that a bad rating counts as much as a good one; zero and below may mean dislike."""
    low = int((rating <= 0).sum())
    if low:
        message = (
            f"{file}, field rating: {low} of {len(rating)} rows have a rating of zero or below; ratings are not "
        )
        warnings.warn(f"{message}used, so these rows count as positive feedback too", DataWarning, stacklevel=2)


def _check_each(
    file: pathlib.Path,
    lines: list[int],
    field: str,
    values: Sequence[str],
    is_good: Callable[[str], Any],
    expected: str,
) -> None:
    """Raises for the first value that breaks the rule."""
    bad = {value for value in set(values) if not is_good(value)}  # few distinct values, many rows
    if bad:
        at = next(n for n, value in enumerate(values) if value in bad)
        raise problem(file, expected, repr(values[at]), line=lines[at], field=field)
