"""Feature arrays joined by original item id; the rows are read when the items of the prepared set are known."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from fedvlr_jax.data.formats.careful import open_text
from fedvlr_jax.data.formats.raw import FeatureSource
from fedvlr_jax.data.messages import problem


def rows_of_array(
    file: pathlib.Path,
    row_of: Mapping[str, int] | None = None,
    *,
    ids: pathlib.Path | None = None,
    every: Sequence[str] = (),
) -> FeatureSource:
    """The rows of an ``.npy`` file [rows, d].

    Args:
      file: float16, float32 or float64.
      row_of: row by original item id; None where the id is the number of the row.
      ids: the file whose lines gave `row_of`: one for each row, or all rows would be those of their neighbours.
      every: all item ids of the raw files: where the id is the row, they must not count from 1.
    """

    def look_up(items: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        array = _open_array(file)
        if ids is not None and row_of is not None and len(row_of) != len(array):
            raise problem(ids, f"{len(array)} ids, one for each row of {file.name}", f"{len(row_of)}")
        if row_of is None:
            _require_from_zero(file, len(array), every)
        rows = [_as_row(item) if row_of is None else row_of.get(item, -1) for item in items]
        return _take(array, np.array(rows, np.int64))

    return look_up


def ids_of_rows(file: pathlib.Path, encoding: str = "utf-8") -> dict[str, int]:
    """Row by original item id, from a text file with the id of each row of an array, one a line.

    Blank lines at the end belong to no row.

    Raises:
      DataError: an id twice, or a file, compressed or not, that is no such text.
    """
    try:
        with open_text(file, encoding, newline=None) as stream:
            texts = stream.read().rstrip().split("\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise problem(file, f"{encoding} text with an id on each line", str(error)) from error
    row_of: dict[str, int] = {}
    for row, text in enumerate(texts):
        if text.strip() in row_of:
            raise problem(file, "every id once", repr(text.strip()), line=row + 1)
        row_of[text.strip()] = row
    return row_of


def rows_of_records(file: pathlib.Path, id_bytes: int = 10, dim: int = 4096) -> FeatureSource:
    """The records of a binary file: an id of `id_bytes` ASCII characters, then `dim` little-endian float32."""
    record = np.dtype([("id", f"S{id_bytes}"), ("feature", "<f4", (dim,))])

    def look_up(items: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        size = file.stat().st_size
        if size % record.itemsize or not size:
            expected = f"records of {record.itemsize} bytes ({id_bytes} of an id, {dim} float32)"
            raise problem(file, expected, f"{size} bytes, no multiple of it")
        records = np.memmap(file, record, "r")
        row_of = {name.decode("ascii", "replace").strip(): row for row, name in enumerate(records["id"])}
        return _take(records["feature"], np.array([row_of.get(item, -1) for item in items], np.int64))

    return look_up


def _take(array: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of an array, zeros where a row is not there or is no feature; and where it is."""
    there = (row >= 0) & (row < len(array))
    found = np.zeros((len(row), array.shape[1]), array.dtype)
    found[there] = array[row[there]]
    usable = np.isfinite(found).all(axis=1) & found.any(axis=1)
    found[~usable] = 0
    return found, there & usable


def _open_array(file: pathlib.Path) -> np.ndarray:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise problem(file, "a NumPy array file (.npy) of floats", str(error).splitlines()[0]) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or array.ndim != 2 or 0 in array.shape:
        found = f"{getattr(array, 'dtype', type(array).__name__)} of shape {getattr(array, 'shape', '?')}"
        raise problem(file, "an array of floats [rows, dimensions]", found)
    return array


def _require_from_zero(file: pathlib.Path, length: int, every: Sequence[str]) -> None:
    """Refuses ids that count from 1 to the number of rows: every item would have the row of the next one."""
    rows = {_as_row(item) for item in every}
    if rows and max(rows) == length and 0 not in rows:
        raise problem(
            file,
            f"rows 0 to {length - 1} as ids of items, or the id of each row in --config.read.feature_ids",
            f"ids up to {length} and none 0, as if counted from 1",
        )


def _as_row(item: str) -> int:
    """The row that an id names as a number, -1 if it is none."""
    return int(item) if item.isascii() and item.isdecimal() and len(item) < 12 else -1
