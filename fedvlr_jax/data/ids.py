"""Ids of any hashable kind, and the numbers that stand for them."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from fedvlr_jax.data.messages import Source, shown
from fedvlr_jax.errors import DataError
from fedvlr_jax.types import Dataset

PLAIN = "iubUS"  # kinds of arrays whose values are never missing


def as_column(source: Source, field: str, values: Any) -> np.ndarray:
    """The values of a list, an array or a column of a frame, [rows]; what no array type holds stays as it is.

    Raises:
      DataError: for anything that is no such column.
    """
    if hasattr(values, "to_numpy"):
        values = values.to_numpy()
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        raise source.problem("a list or an array", repr(values)[:50], field=field)
    column = values if isinstance(values, np.ndarray) else as_ids(list(values))
    if column.ndim != 1:
        raise source.problem("one value a row", f"an array of shape {column.shape}", field=field)
    return column


def as_ids(values: Sequence[Hashable]) -> np.ndarray:
    """Values [n] as an array: of strings or of integers where all are, else of objects."""
    kinds = {type(value) for value in values}
    if kinds and all(issubclass(kind, str) for kind in kinds):
        return np.array(values)
    if kinds and all(issubclass(kind, int | np.integer) and kind is not bool for kind in kinds):
        try:
            return np.array(values, np.int64)
        except OverflowError:
            pass
    return np.fromiter(values, object, len(values))


def distinct_ids(source: Source, field: str, values: np.ndarray) -> np.ndarray:
    """The distinct values [n], ascending.

    Raises:
      DataError: a value that is missing (None, NaN, ...) or not hashable, or values that have no order among them.
    """
    if values.dtype.kind in PLAIN:
        return np.unique(values)
    rows = values.tolist()
    for n, value in enumerate(rows):
        if is_missing(value):
            raise source.problem("an id", repr(value), line=n, field=field)
    try:
        distinct = set(rows)
    except TypeError as error:
        raise source.problem("hashable ids", str(error), field=field) from error
    try:
        return as_ids(sorted(distinct))
    except TypeError as error:
        found = " and ".join(sorted({type(value).__name__ for value in distinct}))
        raise source.problem("ids of one kind, which can be sorted", found, field=field) from error


def numbers_of(ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """int64 [rows], the index of each value in `ids` (distinct, in any order), -1 for one that is not there."""
    if ids.dtype.kind == values.dtype.kind and ids.dtype.kind in PLAIN:
        order = np.argsort(ids, kind="stable")
        at = order[np.searchsorted(ids, values, sorter=order).clip(max=len(ids) - 1)]
        return np.where(ids[at] == values, at, -1)
    number = {value: n for n, value in enumerate(ids.tolist())}
    return np.fromiter((number.get(value, -1) for value in values.tolist()), np.int64, len(values))


def user_numbers(dataset: Dataset, users: Sequence[Any] | np.ndarray) -> np.ndarray:
    """int64 [n], the numbers of users by their ids.

    Args:
      dataset: has them.
      users: ids as the data set has them, or as text, which is how a command line gives them.

    Raises:
      DataError: a user that the data set does not have, with the ids nearest to it.
    """
    column = as_column(Source(dataset.name), "users", users)
    numbers = numbers_of_text(ids_or_numbers(dataset.user_ids, dataset.num_users), column)
    absent = np.flatnonzero(numbers < 0)
    if absent.size:
        found = f"{shown(column[absent[0]])} ({absent.size} such)"
        near = nearest(column[absent[0]], ids_or_numbers(dataset.user_ids, dataset.num_users))
        raise DataError(f"{dataset.name}, users: expected users of the data set, found {found}{near}")
    return numbers


def ids_or_numbers(ids: np.ndarray | None, count: int) -> np.ndarray:
    """The ids of `Dataset.user_ids` or `item_ids`, which are the numbers themselves where there are none."""
    return np.arange(count) if ids is None else ids


def numbers_of_text(ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """`numbers_of`; where one side is text and the other is not, an id and its text are the same."""
    if (ids.dtype.kind == "U") != (values.dtype.kind == "U"):
        ids, values = (x if x.dtype.kind == "U" else np.array(list(map(str, x.tolist()))) for x in (ids, values))
    return numbers_of(ids, values)


def nearest(value: Any, ids: np.ndarray) -> str:
    """The end of a message about an unknown id: "; the nearest are ...", or "" where no id is spelled alike."""
    by_text = {str(name): name for name in ids.tolist()}
    close = difflib.get_close_matches(str(value), by_text, n=3)
    return f"; the nearest are {', '.join(shown(by_text[name]) for name in close)}" if close else ""


def is_missing(value: Any) -> bool:
    """Whether a value stands for none: None, NaN, NaT or NA of a frame."""
    try:
        return value is None or bool(value != value)
    except (TypeError, ValueError):  # pandas.NA has no truth value
        return True
