"""Train, validation and test rows. No choice depends on the order of lines.

A user's rows are ordered by time; at equal times the row with the larger original item id counts as the later one
(ids compare as numbers where all are digits, else as text).
"""

from __future__ import annotations

import fractions
from typing import NamedTuple

import numpy as np

from fedvlr_jax.data.prepare.rows import Rows

TRAIN, VALID, TEST = range(3)
LEAST_ROWS = 3  # one train, one validation and one test row


class Split(NamedTuple):
    """Rows with labels.

    Attributes:
      rows: all rows, in the order of the rows that were split.
      tied_users: users of whom two rows of one time are in two splits, so that the rule above decided.
    """

    rows: Rows
    tied_users: int


def leave_one_out(rows: Rows) -> Split:
    """The last row of a user is test, the second last validation; users with fewer than three rows only train."""
    held = (np.bincount(rows.user) >= LEAST_ROWS).astype(np.int64)
    return _by_count(rows, held, held)


def by_ratio(rows: Rows, valid: float, test: float) -> Split:
    """The last rows of each user: the whole part of ``share * rows``, at least one of three rows or more."""
    count = np.bincount(rows.user)
    return _by_count(rows, *(_share(count, share) for share in (valid, test)))


def by_global_time(rows: Rows, valid: float, test: float) -> Split:
    """One cut for all users: rows of one time are on one side, and no part is larger than its share."""
    if not len(rows.user):
        return Split(rows._replace(label=np.zeros(0, np.int8)), 0)
    time = np.sort(_times(rows))
    total = len(time)
    num_test = int(exact(test) * total)
    num_held = int((exact(valid) + exact(test)) * total)
    late, later = (_times(rows) > time[total - number - 1] for number in (num_held, num_test))
    label = np.select([later, late], [TEST, VALID], TRAIN).astype(np.int8)
    return Split(rows._replace(label=label), 0)


def with_train_rows(rows: Rows) -> Rows:
    """Without the users who have no train row: nothing could be learnt about them."""
    if not len(rows.user):
        return rows
    trains = np.bincount(rows.user[rows.label == TRAIN], minlength=int(rows.user.max()) + 1) > 0
    return rows.take(trains[rows.user])


def chronological(rows: Rows) -> np.ndarray:
    """Row numbers by user, time and item; by user and item where there are no times."""
    keys = [key for key in (rows.item, rows.time, rows.user) if key is not None]
    return np.arange(len(rows.user)) if _ascend(keys) else np.lexsort(keys)


def _ascend(keys: list[np.ndarray]) -> bool:
    """Whether rows are sorted by the last key, then the one before it, and so on: far cheaper than sorting."""
    in_order = np.ones(max(len(keys[0]) - 1, 0), bool)
    for key in keys:
        in_order = (key[1:] > key[:-1]) | ((key[1:] == key[:-1]) & in_order)
    return bool(in_order.all())


def _times(rows: Rows) -> np.ndarray:
    if rows.time is None:
        raise ValueError("expected rows with times, found none")
    return rows.time


def exact(share: float) -> fractions.Fraction:
    """The fraction that a share is written as: 0.1 is one tenth."""
    return fractions.Fraction(str(share))


def _share(count: np.ndarray, share: float) -> np.ndarray:
    """How many rows of each user a share is."""
    if not share:
        return np.zeros_like(count)
    part = exact(share)
    return np.where(count < LEAST_ROWS, 0, np.maximum(count * part.numerator // part.denominator, 1))


def _by_count(rows: Rows, valid_u: np.ndarray, test_u: np.ndarray) -> Split:
    """The last ``test_u`` rows of each user are test, the ``valid_u`` before them validation."""
    order = chronological(rows)
    user = rows.user[order]
    from_end = np.cumsum(np.bincount(user))[user] - 1 - np.arange(len(user))
    test = from_end < test_u[user]
    held = from_end < (test_u + valid_u)[user]
    sorted_label = np.select([test, held], [TEST, VALID], TRAIN).astype(np.int8)
    label = np.empty(len(user), np.int8)
    label[order] = sorted_label
    time = _times(rows)[order]
    torn = (user[1:] == user[:-1]) & (time[1:] == time[:-1]) & (sorted_label[1:] != sorted_label[:-1])
    return Split(rows._replace(label=label), len(np.unique(user[1:][torn])))
