"""Ids of any hashable kind, and the numbers that stand for them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from fedvlr_jax.data.messages import Source

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
        if _is_missing(value):
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


def _is_missing(value: Any) -> bool:
    try:
        return value is None or bool(value != value)
    except (TypeError, ValueError):  # pandas.NA has no truth value
        return True
