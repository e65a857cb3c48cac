"""Which rows stay: a threshold of ratings, one row a pair, and the k-core."""

from __future__ import annotations

import numpy as np

from fedvlr_jax.data.prepare.rows import Rows


def rated(rows: Rows, ratings: list[str], least: float) -> Rows:
    """The rows with a rating of at least `least`; `ratings` are the distinct ones as they are written."""
    good = np.array([float(text) >= least for text in ratings], bool)
    return rows.take(good[rows.rating])


def one_row_a_pair(rows: Rows, keep: str) -> Rows:
    """The first or the last row in time of every (user, item) pair, in the order of the rows.

    At equal times label and rating decide, so that the order of lines does not; without times it does.

    Args:
      rows: any.
      keep: "first" or "last".
    """
    pair = rows.user.astype(np.int64) * (int(rows.item.max(initial=0)) + 1) + rows.item
    order = np.argsort(pair, kind="stable")
    repeats = np.flatnonzero(_is_repeat(pair[order]))
    if not repeats.size:
        return rows
    group = order[np.union1d(repeats - 1, repeats)]  # all rows of pairs that occur more than once
    columns = [column for column in (rows.rating, rows.label, rows.time) if column is not None]
    keys = (*columns, pair) if rows.time is not None else (np.arange(len(pair)), pair)
    group = group[np.lexsort([key[group] for key in keys])]
    again = _is_repeat(pair[group])
    dropped = group[again] if keep == "first" else group[np.append(again[1:], False)]
    stays = np.ones(len(pair), bool)
    stays[dropped] = False
    return rows.take(stays)


def _is_repeat(sorted_values: np.ndarray) -> np.ndarray:
    """True where a value equals the one before it."""
    repeat = np.zeros(len(sorted_values), bool)
    repeat[1:] = sorted_values[1:] == sorted_values[:-1]
    return repeat


def k_core(rows: Rows, least_user: int, least_item: int) -> Rows:
    """The largest set of rows in which every user and every item occurs often enough.

    Args:
      rows: any.
      least_user, least_item: rows that a user and an item needs.
    """
    while True:
        stays = (_counts(rows.user) >= least_user) & (_counts(rows.item) >= least_item)
        if stays.all():
            return rows
        rows = rows.take(stays)


def _counts(code: np.ndarray) -> np.ndarray:
    """For every row, how many rows have its value."""
    return np.bincount(code)[code] if len(code) else code
