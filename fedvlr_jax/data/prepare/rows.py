"""Rows with numbered ids: the one remap from text to numbers, and the last one without gaps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedvlr_jax.data.formats.raw import Coded, RawData


class Rows(NamedTuple):
    """Interactions; columns that the raw files lack are None.

    Attributes:
      user, item: int32 [rows], numbers in the order of the original ids, so that a larger number is a larger id.
      rating: int32 [rows], index into the distinct ratings as `order_ids` sorts them.
      time: int64 [rows].
      label: int8 [rows], 0 train, 1 validation, 2 test.
    """

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray | None
    time: np.ndarray | None
    label: np.ndarray | None

    def take(self, index: np.ndarray) -> Rows:
        """The given rows (numbers, or True where a row stays), in the given order."""
        there = {name: column[index] for name, column in self._asdict().items() if column is not None}
        return self._replace(**there)


class Names(NamedTuple):
    """Original ids by number, and the distinct ratings as they are written."""

    users: list[str]
    items: list[str]
    ratings: list[str]


def number(raw: RawData) -> tuple[Rows, Names]:
    """Numbers in place of text; the order of lines has no part in them."""
    user, users = _sorted(raw.user)
    item, items = _sorted(raw.item)
    rating, ratings = (None, []) if raw.rating is None else _sorted(raw.rating)
    time = None if raw.times is None else raw.times.value
    return Rows(user, item, rating, time, raw.label), Names(users, items, ratings)


def without_gaps(rows: Rows, names: Names) -> tuple[Rows, Names]:
    """The ids that still occur, numbered from 0 in the same order."""
    user, users = _squeezed(rows.user, names.users)
    item, items = _squeezed(rows.item, names.items)
    return rows._replace(user=user, item=item), names._replace(users=users, items=items)


def order_ids(names: list[str]) -> list[int]:
    """Positions of ids in ascending order: as numbers where all are digits, else as text.

    "7" and "007" are two ids; of two with one value, the text decides.
    """
    if all(name.isascii() and name.isdigit() for name in names):
        return sorted(range(len(names)), key=lambda k: (int(names[k]), names[k]))
    return sorted(range(len(names)), key=names.__getitem__)


def _sorted(column: Coded) -> tuple[np.ndarray, list[str]]:
    order = order_ids(column.names)
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return rank[column.code], [column.names[k] for k in order]


def _squeezed(code: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str]]:
    there = np.bincount(code, minlength=len(names)) > 0
    rank = np.cumsum(there, dtype=np.int32) - 1
    return rank[code], [names[k] for k in np.flatnonzero(there)]
