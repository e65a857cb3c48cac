"""The form of every complaint about data: where, what was expected, what was found."""

from __future__ import annotations

import pathlib

from fedvlr_jax.errors import DataError

FILES = ("inter.csv", "image_features.npy", "text_features.npy")
"""The canonical folder; one of the two feature files may be absent."""


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
    return DataError(f"{', '.join(where)}: expected {expected}, found {found}")


def missing(folder: pathlib.Path, found: str) -> DataError:
    """An error for a folder or file that is not there, with the three ways to get going."""
    return DataError(
        f"{folder}: expected a folder with {FILES[0]}, {FILES[1]} and {FILES[2]} (one of the two feature files may "
        f"be absent), found {found}\n"
        "Three ways to get going:\n"
        "  1. train on the embedded synthetic set, which needs no files: --config.data.name=synthetic\n"
        f"  2. put the folder with these files at {folder}\n"
        "  3. if it is elsewhere, point --config.data.dir, or the environment variable FEDVLR_DATA, at the folder "
        f"that contains {folder.name}"
    )
