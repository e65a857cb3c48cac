"""Reading ``inter.csv``: every row parsed and checked on its own, before any rule that spans rows."""

from __future__ import annotations

import csv
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.data.messages import Source, problem

COLUMNS = ("userID", "itemID", "rating", "timestamp", "split_label")
SPLITS = {"0": "train", "1": "validation", "2": "test"}
MAX_ID = 2**31 - 2  # ids and their count fit int32


class Interactions(NamedTuple):
    """The rows of a table of interactions, in its order.

    Attributes:
      source: where they come from.
      line: int64 [rows], what messages call each row: its line in the file, the header being line 1.
      user, item: int64 [rows], ids of at least 0.
      timestamp: int64 or float64 [rows], or None where there are none.
      split: int64 [rows] of 0 train, 1 validation, 2 test, or None where there are none.
    """

    source: Source
    line: np.ndarray
    user: np.ndarray
    item: np.ndarray
    timestamp: np.ndarray | None
    split: np.ndarray | None


def read_interactions(file: pathlib.Path) -> Interactions:
    """Read ``userID,itemID[,rating],timestamp,split_label`` in any order of columns.

    Either `timestamp` or `split_label` may be absent. Ratings are checked to be numbers and not used: feedback is
    implicit. Unknown columns are refused, because a misspelled `split_label` would silently give another split.

    Raises:
      DataError: a file that cannot be read, is empty, lacks a column or has an unknown one, or has a field that
        does not parse.
    """
    text, lines = _read_columns(file)
    if not lines:
        raise problem(file, "at least one interaction below the header", "none")
    if "rating" in text:
        _numbers(file, lines, "rating", text["rating"])
    return Interactions(
        source=Source(str(file)),
        line=np.array(lines),
        user=_ids(file, lines, "userID", text["userID"]),
        item=_ids(file, lines, "itemID", text["itemID"]),
        timestamp=_numbers(file, lines, "timestamp", text["timestamp"]) if "timestamp" in text else None,
        split=_splits(file, lines, text["split_label"]) if "split_label" in text else None,
    )


def _read_columns(file: pathlib.Path) -> tuple[dict[str, list[str]], list[int]]:
    """Values by column and the line number of every row; blank lines are skipped."""
    flat, lines, reader = [], [], None
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
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
    except OSError as error:
        raise problem(file, "a readable file", error.strerror or str(error)) from error
    return {name: flat[k::width] for k, name in enumerate(header)}, lines


def _check_header(file: pathlib.Path, header: list[str] | None) -> None:
    if header is None:
        raise problem(file, f"a header {','.join(COLUMNS)} and interactions below it", "an empty file")
    found = ",".join(header)
    for name in header:
        if name not in COLUMNS:
            raise problem(
                file, f"the columns {','.join(COLUMNS)}", f"an unknown column {name!r} in {found!r}", line=1
            )
        if header.count(name) > 1:
            raise problem(file, "every column once", f"{name!r} {header.count(name)} times in {found!r}", line=1)
    for name in ("userID", "itemID"):
        if name not in header:
            raise problem(file, f"the columns {','.join(COLUMNS)}", f"no {name} in {found!r}", line=1)
    if "split_label" not in header and "timestamp" not in header:
        expected = "a column split_label, or a column timestamp to split by (last = test, second last = validation)"
        raise problem(file, expected, f"neither in {found!r}", line=1)


def _ids(file: pathlib.Path, lines: list[int], field: str, values: Sequence[str]) -> np.ndarray:
    def is_id(value: str) -> bool:
        return value.isascii() and value.isdecimal() and len(value) <= 10 and int(value) <= MAX_ID

    _check_each(file, lines, field, values, is_id, f"a whole number from 0 to {MAX_ID}")
    return np.array(list(map(int, values)))


def _splits(file: pathlib.Path, lines: list[int], values: Sequence[str]) -> np.ndarray:
    expected = ", ".join(f"{label} ({name})" for label, name in SPLITS.items())
    _check_each(file, lines, "split_label", values, SPLITS.__contains__, f"one of {expected}")
    return np.array(list(map(int, values)))


def _numbers(file: pathlib.Path, lines: list[int], field: str, values: Sequence[str]) -> np.ndarray:
    """int64 where all values are whole numbers (float64 would merge neighbouring nanoseconds), else float64."""

    def is_finite(value: str) -> bool:
        try:
            return math.isfinite(float(value))
        except ValueError:
            return False

    _check_each(file, lines, field, values, is_finite, "a finite number")
    try:
        return np.array(list(map(int, values)), np.int64)
    except (ValueError, OverflowError):
        return np.array(list(map(float, values)))


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
