"""The form of every complaint about data: where, what was expected, what was found."""

from __future__ import annotations

import pathlib
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.errors import DataError

FILES = ("inter.csv", "image_features.npy", "text_features.npy")
"""The canonical folder; feature files may be absent."""


class DataWarning(UserWarning):
    """Something in a data set that was mended while reading, and is reported."""


def problem(
    file: pathlib.Path,
    expected: str,
    found: str,
    *,
    line: int | None = None,
    row: int | None = None,
    field: str | None = None,
) -> DataError:
    """An error that names the file, the position in it (counted from 1), the rule and what broke it.

    Args:
      file: the file.
      expected: the rule.
      found: what is there instead.
      line: line of a text file, the header being line 1.
      row: row of an array; row r holds the item r - 1.
      field: column of the line.
    """
    where = [str(file)]
    where += [] if line is None else [f"line {line}"]
    where += [] if row is None else [f"row {row} (itemID {row - 1})"]
    where += [] if field is None else [f"field {field}"]
    return _error(where, expected, found)


def _error(where: list[str], expected: str, found: str) -> DataError:
    return DataError(f"{', '.join(where)}: expected {expected}, found {found}")


class Source(NamedTuple):
    """Where interactions come from, in the words of messages about them.

    Attributes:
      name: the file, or the name of the data set.
      row: what a row is called.
      user, item, timestamp, split: what the columns are called.
      user_ids, item_ids: the caller's ids by number, None where ids are numbers.
    """

    name: str
    row: str = "line"
    user: str = "userID"
    item: str = "itemID"
    timestamp: str = "timestamp"
    split: str = "split_label"
    user_ids: np.ndarray | None = None
    item_ids: np.ndarray | None = None

    def user_id(self, number: int) -> str:
        """A user as the caller knows it."""
        return str(number) if self.user_ids is None else shown(self.user_ids[number])

    def item_id(self, number: int) -> str:
        """An item as the caller knows it."""
        return str(number) if self.item_ids is None else shown(self.item_ids[number])

    def problem(self, expected: str, found: str, *, line: int | None = None, field: str | None = None) -> DataError:
        """An error that names the source, the row and the column, the rule and what broke it."""
        where = [self.name]
        where += [] if line is None else [f"{self.row} {line}"]
        where += [] if field is None else [f"field {field}"]
        return _error(where, expected, found)


def missing(folder: pathlib.Path, found: str) -> DataError:
    """An error for a folder or file that is not there, with the three ways to get going."""
    return DataError(
        f"{folder}: expected a folder with {FILES[0]}, {FILES[1]} and {FILES[2]} (feature files may be absent), "
        f"found {found}\n"
        "Three ways to get going:\n"
        "  1. train on the embedded synthetic set, which needs no files: --config.data.name=synthetic\n"
        f"  2. put the folder with these files at {folder}\n"
        "  3. if it is elsewhere, point --config.data.dir, or the environment variable FEDVLR_DATA, at the folder "
        f"that contains {folder.name}"
    )


def shown(value: Any) -> str:
    """A value as its owner would write it in Python."""
    return repr(value.item() if isinstance(value, np.generic) else value)
