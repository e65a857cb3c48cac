"""What the caller knows about items, features and titles: in the order of the ids, or by id."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedvlr_jax.data.features import checked_features
from fedvlr_jax.data.ids import is_missing
from fedvlr_jax.data.messages import Source
from fedvlr_jax.errors import DataError

Features = np.ndarray | Sequence[Sequence[float]] | Mapping[Any, Any]
"""An array with one row for each item, or a vector by item id: a mapping, or a frame with the ids as its index."""


def by_index(source: Source, argument: str, values: Any, items: np.ndarray, item_ids: Any = None) -> Any:
    """A frame or a series of pandas whose index has the ids of items as a mapping; anything else as it is.

    An index that only counts the rows, 0 to n - 1, or that is the index of `item_ids` too, says nothing about items:
    such rows come in the order of the ids.

    Args:
      source, argument: for messages.
      values: what a caller gave for all items.
      items: [rows], the ids that occur.
      item_ids: what the caller gave as the order of the ids.

    Raises:
      DataError: an id that is in the index twice, or an index without any of `items`.
    """
    labels = _labels(values)
    if labels is None or labels == list(range(len(labels))) or labels == _labels(item_ids):
        return values
    if len(set(labels)) < len(labels):
        (twice, _), *_ = Counter(labels).most_common(1)
        raise DataError(f"{source.name}, {argument}: expected every id in the index once, found {twice!r} again")
    if not set(labels) & set(items.tolist()):
        expected = f"ids of items as index, or 0 to {len(labels) - 1} where rows are in their order (reset_index)"
        raise DataError(f"{source.name}, {argument}: expected {expected}, found {labels[0]!r} and none of the items")
    return dict(zip(labels, values.to_numpy(), strict=True))


def _labels(values: Any) -> list[Any] | None:
    """The labels of the rows, None for what has none."""
    if not hasattr(values, "to_numpy") or not hasattr(values, "index") or callable(values.index):
        return None
    return list(values.index.tolist())


def features_of(
    source: Source, argument: str, order: np.ndarray, numbers: np.ndarray, values: Features | None
) -> np.ndarray | None:
    """The features of all items by number, float32 [i, d].

    Args:
      source, argument: for messages.
      order: the ids in the order in which rows come.
      numbers: row ``numbers[n]`` belongs to item n.
      values: as the caller gave them; None where there are none.
    """
    if values is None:
        return None
    complain = functools.partial(_feature_problem, source, argument)
    if isinstance(values, Mapping):
        absent = [x for x in order.tolist() if x not in values]
        if absent:
            raise complain("a vector for every item", f"none for {absent[0]!r} ({len(absent)} such items)")
        values = [values[x] for x in order.tolist()]
    try:
        raw = np.asarray(values)
    except ValueError as error:
        raise complain("vectors of one length", str(error).splitlines()[0]) from error
    if raw.ndim and len(raw) != len(order):
        expected = (
            f"{len(order)} rows, one for each item in ascending order of ids (give item_ids for another order, "
        )
        raise complain(f"{expected}or where there are items that nobody took)", f"{len(raw)}")
    return checked_features(raw[numbers] if raw.ndim else raw, complain)


def _feature_problem(
    source: Source, argument: str, expected: str, found: str, *, row: int | None = None
) -> DataError:
    item = "" if row is None else f", item {source.item_id(row - 1)}"
    return DataError(f"{source.name}, {argument}{item}: expected {expected}, found {found}")


def titles_of(
    source: Source, order: np.ndarray, numbers: np.ndarray, titles: Sequence[str | None] | Mapping[Any, str | None]
) -> np.ndarray:
    """The title of every item by number, "" where there is none (None, NaN, no entry); arguments as `features_of`."""
    if isinstance(titles, Mapping):
        titles = [titles.get(x, "") for x in order.tolist()]
    if getattr(titles, "ndim", 1) != 1 or any(isinstance(title, np.ndarray) for title in titles):
        raise DataError(f"{source.name}, item_titles: expected one text for each item, found rows of a table")
    if len(titles) != len(order):
        raise DataError(f"{source.name}, item_titles: expected {len(order)}, one for each item, found {len(titles)}")
    return np.array(["" if is_missing(title) else str(title) for title in titles])[numbers]
