"""Scores that another library made, read from a matrix or a list in the ids of a data set, and checked.

A matrix is ``.npy`` [users, items] in the order of the data set's numbers, or ``.npz`` with an array ``scores`` and,
if its rows or columns stand for other users or items, or in another order, arrays ``users`` and ``items`` of their
ids. A list is csv, tsv, jsonl or parquet with the columns user, item and one of score (larger is better) and rank
(smaller is better); where user and item stand alone, the items of a user stand best first.
"""

from __future__ import annotations

import csv
import json
import pathlib
import zipfile
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.data.heldout import rows_a_user
from fedvlr_jax.data.ids import as_ids, ids_or_numbers, nearest, numbers_of_text
from fedvlr_jax.data.messages import shown
from fedvlr_jax.errors import DataError
from fedvlr_jax.extras import require_extra
from fedvlr_jax.types import Dataset

COLUMNS = {"user": ("user", "userID", "user_id"), "item": ("item", "itemID", "item_id")}
MATRICES, LISTS = (".npy", ".npz"), (".csv", ".tsv", ".jsonl", ".parquet")


ORDERED = "ordered list"
"""The form of a list whose order of lines says what is better."""


class ForeignScores(NamedTuple):
    """What a file says of users and items, as rows that are sorted by user; an item that is not there has no score.

    Attributes:
      user, item: int64 [rows], numbers; each pair once.
      value: float64 [rows], larger is better; float32 and integers keep their order in it.
      form: "matrix", "list", or `ORDERED`.
      ignored: rows of train items, which are left out.
    """

    user: np.ndarray
    item: np.ndarray
    value: np.ndarray
    form: str
    ignored: int


class _Rows(NamedTuple):
    """The rows of a file: numbers of users and items, values, and what row n is called."""

    user: np.ndarray
    item: np.ndarray
    value: np.ndarray
    name: Callable[[int], str]


def read_scores(file: pathlib.Path, dataset: Dataset) -> ForeignScores:
    """The scores in a file.

    Raises:
      DataError: naming file, row and field, for a file that cannot be read, another shape, a score that is not a
        number or +infinity, an id that the data set does not have (with the nearest ones), a pair that is there
        twice, and users with held-out rows who are missing. -infinity is below every score.
    """
    if not file.is_file():
        raise DataError(f"{file}: expected a file of scores, found none")
    if file.suffix not in (*MATRICES, *LISTS):
        known = ", ".join((*MATRICES, *LISTS))
        raise DataError(f"{file}: expected one of {known}, found {file.suffix or 'no suffix'}")
    if file.suffix in MATRICES:
        return _checked(file, "matrix", _matrix_rows(file, _arrays_of(file), dataset), dataset)
    form, rows = _list_rows(file, dataset)
    return _checked(file, form, rows, dataset)


def matrix_scores(scores_ui: np.ndarray, dataset: Dataset) -> ForeignScores:
    """The scores of a matrix [users, items] in the order of the data set's numbers, or of a frame by its labels.

    Labels of a frame that only count rows or columns, from 0, say nothing: these are in the order of the numbers.

    Raises:
      DataError: as `read_scores`.
    """
    name = pathlib.Path("scores")  # what errors call it
    labels = {"users": "index", "items": "columns"} if hasattr(scores_ui, "columns") else {}
    named = {part: list(getattr(scores_ui, axis)) for part, axis in labels.items()}
    ids = {part: as_ids(x) for part, x in named.items() if x != list(range(len(x)))}
    return _checked(name, "matrix", _matrix_rows(name, {"scores": np.asarray(scores_ui), **ids}, dataset), dataset)


def _checked(file: pathlib.Path, form: str, rows: _Rows, dataset: Dataset) -> ForeignScores:
    """The rows without those of train items."""
    _require_pairs_once(file, rows, dataset)
    _require_users(file, rows.user, dataset)
    pair = rows.user * dataset.num_items + rows.item
    train = dataset.train_user.astype(np.int64) * dataset.num_items + dataset.train_item
    left = np.flatnonzero(~np.isin(pair, train))
    left = left[np.argsort(pair[left], kind="stable")]
    return ForeignScores(rows.user[left], rows.item[left], rows.value[left], form, len(pair) - len(left))


def _arrays_of(file: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a file of NumPy; one alone is the scores."""
    try:
        with file.open("rb") as stream:
            loaded = np.load(stream)
            return {"scores": loaded} if isinstance(loaded, np.ndarray) else {n: loaded[n] for n in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{file}: expected arrays of NumPy, found {error}") from error


def _matrix_rows(file: pathlib.Path, arrays: Mapping[str, np.ndarray], dataset: Dataset) -> _Rows:
    """All cells of a matrix."""
    if "scores" not in arrays:
        raise DataError(f"{file}: expected an array scores, found {', '.join(arrays) or 'no array'}")
    known_users = ids_or_numbers(dataset.user_ids, dataset.num_users)
    known_items = ids_or_numbers(dataset.item_ids, dataset.num_items)
    users, items = arrays.get("users", known_users), arrays.get("items", known_items)
    scores, shape = arrays["scores"], (len(users), len(items))
    if scores.shape != shape or scores.dtype.kind not in "fiu":
        hint = "; it may be transposed" if scores.shape == shape[::-1] else ""
        found = f"{scores.dtype} {list(scores.shape)}{hint}"
        raise DataError(f"{file}: expected numbers [users, items] = {list(shape)}, found {found}")
    values = scores.astype(np.float64)
    if (bad := np.argwhere(np.isnan(values) | (values == np.inf))).size:
        n, k = bad[0]
        where = f"row {n + 1} (user {shown(users[n])}), column {k + 1} (item {shown(items[k])})"
        raise DataError(f"{file}, {where}: expected a number, found {values[n, k]} ({len(bad)} such)")
    return _Rows(
        np.repeat(_known(file, "users", users, known_users, lambda n: f"row {n + 1}"), shape[1]),
        np.tile(_known(file, "items", items, known_items, lambda n: f"column {n + 1}"), shape[0]),
        values.reshape(-1),
        lambda n: f"row {n // shape[1] + 1}, column {n % shape[1] + 1}",
    )


def _list_rows(file: pathlib.Path, dataset: Dataset) -> tuple[str, _Rows]:
    """The form and the rows of a list; a rank counts downwards."""
    try:
        columns, lines = _LIST_READERS[file.suffix](file)
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file}: expected rows of {file.suffix[1:]}, found {error}") from error

    def name(n: int) -> str:
        return f"row {n + 1}" if lines is None else f"line {lines[n]}"

    def numbers(field: str, ids: np.ndarray | None, count: int) -> np.ndarray:
        known = [name for name in COLUMNS[field] if name in columns]
        if not known:
            raise DataError(f"{file}: expected a column {field}, found {', '.join(columns) or 'no column'}")
        return _known(file, known[0], as_ids(columns[known[0]]), ids_or_numbers(ids, count), name)

    user = numbers("user", dataset.user_ids, dataset.num_users)
    item = numbers("item", dataset.item_ids, dataset.num_items)
    if "score" in columns:
        return "list", _Rows(user, item, _values(file, "score", columns["score"], name), name)
    if "rank" in columns:
        return "list", _Rows(user, item, -_values(file, "rank", columns["rank"], name), name)
    _require_alone(file, columns)
    return ORDERED, _Rows(user, item, -np.arange(len(user), dtype=np.float64), name)  # best first


def _require_alone(file: pathlib.Path, columns: Collection[str]) -> None:
    """Refuses a list whose scores may be in a column of another name: its order of lines may mean nothing."""
    read = {next(name for name in names if name in columns) for names in COLUMNS.values()}
    if others := [name for name in columns if name not in read]:
        raise DataError(f"{file}: expected a column score or rank, or user and item alone, found {', '.join(others)}")


def _values(file: pathlib.Path, field: str, values: list[Any], name: Callable[[int], str]) -> np.ndarray:
    """float64 [rows]; -infinity alone need not be finite."""
    numbers = np.empty(len(values))
    for n, value in enumerate(values):
        try:
            numbers[n] = float(value)
        except (TypeError, ValueError):
            numbers[n] = np.nan
        if np.isnan(numbers[n]) or numbers[n] == np.inf:
            raise DataError(f"{file}, {name(n)}, field {field}: expected a number, found {value!r}")
    return numbers


def _csv_columns(file: pathlib.Path, delimiter: str) -> _Columns:
    header: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    with file.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.reader(stream, delimiter=delimiter, strict=True)
        for row in reader:
            if not header:
                header = row
            elif row and len(row) != len(header):
                expected = f"{len(header)} fields as in line 1"
                raise DataError(f"{file}, line {reader.line_num}: expected {expected}, found {len(row)}")
            elif row:
                rows.append(row)
                lines.append(reader.line_num)
    return {name: [row[c] for row in rows] for c, name in enumerate(header)}, lines


def _jsonl_columns(file: pathlib.Path) -> _Columns:
    rows: list[Mapping[str, Any]] = []
    lines: list[int] = []
    with file.open(encoding="utf-8-sig") as stream:
        for line, text in enumerate(stream, start=1):
            if not text.strip():
                continue
            row = _object(file, line, text.strip())
            if rows and row.keys() != rows[0].keys():
                expected = f"an object with the fields of line {lines[0]}"
                raise DataError(f"{file}, line {line}: expected {expected}, found {text.strip()[:60]}")
            rows.append(row)
            lines.append(line)
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}, lines


def _object(file: pathlib.Path, line: int, text: str) -> Mapping[str, Any]:
    """The JSON object of a line."""
    try:
        row = json.loads(text)
    except ValueError as error:
        raise DataError(f"{file}, line {line}: expected a JSON object, found {text[:60]} ({error})") from error
    if not isinstance(row, Mapping):
        raise DataError(f"{file}, line {line}: expected a JSON object, found {text[:60]}")
    return row


def _parquet_columns(file: pathlib.Path) -> _Columns:
    with require_extra("prepare", f"{file}"):
        import pyarrow.parquet
    return pyarrow.parquet.read_table(file).to_pydict(), None


_Columns = tuple[dict[str, list[Any]], list[int] | None]
"""The columns of a file by name, and the line of each row; None where rows are counted."""

_LIST_READERS: dict[str, Callable[[pathlib.Path], _Columns]] = {
    ".csv": lambda file: _csv_columns(file, ","),
    ".tsv": lambda file: _csv_columns(file, "\t"),
    ".jsonl": _jsonl_columns,
    ".parquet": _parquet_columns,
}


def _known(
    file: pathlib.Path, field: str, column: np.ndarray, ids: np.ndarray, name: Callable[[int], str]
) -> np.ndarray:
    """int64 [rows], the numbers of a column of ids."""
    numbers = numbers_of_text(ids, column)
    absent = np.flatnonzero(numbers < 0)
    if absent.size:
        n = int(absent[0])
        found = f"{shown(column[n])} ({absent.size} such){nearest(column[n], ids)}"
        raise DataError(f"{file}, {name(n)}, field {field}: expected an id of the data set, found {found}")
    return numbers


def _require_pairs_once(file: pathlib.Path, rows: _Rows, dataset: Dataset) -> None:
    pair = rows.user * dataset.num_items + rows.item
    order = np.argsort(pair, kind="stable")
    again = np.flatnonzero(np.diff(pair[order]) == 0)
    if again.size:
        first, second = (int(n) for n in order[again[0] : again[0] + 2])
        user = shown(ids_or_numbers(dataset.user_ids, dataset.num_users)[rows.user[second]])
        item = shown(ids_or_numbers(dataset.item_ids, dataset.num_items)[rows.item[second]])
        raise DataError(
            f"{file}, {rows.name(second)}, field item: expected every item of a user once, found user {user} with "
            f"item {item} of {rows.name(first)} again ({again.size} such)"
        )


def _require_users(file: pathlib.Path, user: np.ndarray, dataset: Dataset) -> None:
    has_scores = np.bincount(user, minlength=dataset.num_users) > 0
    missing = np.flatnonzero((rows_a_user(dataset) > 0) & ~has_scores)
    if missing.size:
        names = ", ".join(shown(name) for name in ids_or_numbers(dataset.user_ids, dataset.num_users)[missing[:5]])
        more = ", ..." if missing.size > 5 else ""
        raise DataError(
            f"{file}, field user: expected scores of every user with held-out rows, found none of {missing.size} "
            f"users ({names}{more})"
        )
