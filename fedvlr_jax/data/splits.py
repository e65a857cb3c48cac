"""From checked rows to train histories and held-out items: rules that span rows."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np

from fedvlr_jax.data.heldout import place_rows
from fedvlr_jax.data.interactions import SPLITS, Interactions
from fedvlr_jax.data.messages import DataWarning, Source

TRAIN, VALID, TEST = range(3)
LEAST_ROWS = 3  # one train, one validation and one test row
MANY = 0.05  # share of the users from which on a split is said to contradict the times


class Split(NamedTuple):
    """Fields of `types.Dataset` with the same names."""

    train_user: np.ndarray
    train_item: np.ndarray
    valid_item: np.ndarray
    test_item: np.ndarray
    held_user: np.ndarray | None
    dropped_duplicates: int
    train_age: np.ndarray | None


def make_split(rows: Interactions, num_users: int) -> Split:
    """Drops repeated pairs, splits by time where the file has no split, and checks the split.

    Raises:
      DataError: a pair in two splits, a split without rows, or a user without train rows.
    """
    is_labelled = rows.split is not None
    if not is_labelled:
        # At equal times the larger itemID counts as the later interaction, whatever the order of lines.
        rows = _take(rows, np.lexsort((rows.item, rows.timestamp, rows.user)))
        rows, dropped = _drop_duplicates(rows)
        rows = rows._replace(split=_leave_one_out(rows, num_users))
    else:
        rows, dropped = _drop_duplicates(rows)
        if rows.timestamp is not None:
            _warn_of_late_train_rows(rows, num_users)
    _check_split(rows, num_users, is_labelled)
    train = _take(rows, np.flatnonzero(rows.split == TRAIN))
    train = _take(train, np.lexsort((train.item, train.user)))
    return Split(
        train_user=train.user.astype(np.int32),
        train_item=train.item.astype(np.int32),
        **_held_out(rows, num_users),
        dropped_duplicates=dropped,
        train_age=None if train.timestamp is None else _ages(train.user, train.timestamp),
    )


def _take(rows: Interactions, index: np.ndarray) -> Interactions:
    """The given rows, in the given order."""
    return rows._replace(
        **{name: value[index] for name, value in rows._asdict().items() if isinstance(value, np.ndarray)}
    )


def _drop_duplicates(rows: Interactions) -> tuple[Interactions, int]:
    """Keeps one row of every (user, item) pair, the earliest; a pair in two splits is leakage and refused.

    Without times the first line is kept: then nothing depends on which one it is.
    """
    source = rows.source
    pair = rows.user * (rows.item.max() + 1) + rows.item
    _, first, group = np.unique(pair, return_index=True, return_inverse=True)
    if rows.split is not None:
        leak = np.flatnonzero(rows.split != rows.split[first[group]])
        if leak.size:
            later, earlier = leak[0], first[group[leak[0]]]
            labels = [SPLITS[str(rows.split[n])] for n in (earlier, later)]
            raise source.problem(
                f"a ({source.user}, {source.item}) pair in one split only",
                f"({source.user_id(rows.user[later])}, {source.item_id(rows.item[later])}) in {labels[1]} here and "
                f"in {labels[0]} in {source.row} {rows.line[earlier]}",
                line=int(rows.line[later]),
                field=source.split,
            )
    dropped = len(pair) - len(first)
    if dropped:
        message = (
            f"{source.name}: dropped {dropped} repeated ({source.user}, {source.item}) rows, {len(first)} distinct "
            "rows remain"
        )
        warnings.warn(message, DataWarning, stacklevel=2)
        if rows.timestamp is not None:
            by_pair = np.lexsort((rows.timestamp, group))
            first = by_pair[np.searchsorted(group[by_pair], np.arange(len(first)))]
    return _take(rows, np.sort(first)), dropped


def _leave_one_out(rows: Interactions, num_users: int) -> np.ndarray:
    """Labels [rows] for rows sorted by user and time: the last is test, the second last validation.

    Users with fewer than three distinct items cannot give both and keep a history, so all their rows are train
    rows: they take part in training, and no metric is computed for them.
    """
    source, count = rows.source, np.bincount(rows.user, minlength=num_users)
    short = np.flatnonzero(count < LEAST_ROWS)
    if short.size:
        message = (
            f"{source.name}: {short.size} of {num_users} users have fewer than {LEAST_ROWS} distinct items (the "
            f"first is {source.user} {source.user_id(short[0])}); all their rows are train rows, none is held out"
        )
        warnings.warn(message, DataWarning, stacklevel=2)
    _warn_of_ties(rows, count)
    from_end = np.cumsum(count)[rows.user] - 1 - np.arange(len(rows.user))
    label = np.select([from_end == 0, from_end == 1], [TEST, VALID], TRAIN)
    return np.where(count[rows.user] < LEAST_ROWS, TRAIN, label)


def _warn_of_ties(rows: Interactions, count: np.ndarray) -> None:
    """Counts the users whose held-out items equal times leave open; rows are sorted by user, time and item."""
    source, last = rows.source, (np.cumsum(count) - 1)[count >= LEAST_ROWS]
    tied = (rows.timestamp[last] == rows.timestamp[last - 1]) | (rows.timestamp[last - 1] == rows.timestamp[last - 2])
    if tied.any():
        message = (
            f"{source.name}: for {tied.sum()} of {len(count)} users equal timestamps leave open which items are held "
            f"out (the first is {source.user} {source.user_id(rows.user[last[tied][0]])}); the larger {source.item} "
            "counts as the later one"
        )
        warnings.warn(message, DataWarning, stacklevel=2)


def _warn_of_late_train_rows(rows: Interactions, num_users: int) -> None:
    """Counts the users with a train row after a held-out row: a model then learns from what came later."""
    source, (_, place) = rows.source, np.unique(rows.timestamp, return_inverse=True)
    train, held_out = rows.split == TRAIN, rows.split != TRAIN
    latest = np.full(num_users, -1)
    np.maximum.at(latest, rows.user[train], place[train])
    user = rows.user[held_out]
    late, users = np.unique(user[place[held_out] < latest[user]]), len(np.unique(user))
    if late.size > MANY * users:
        message = (
            f"{source.name}: {late.size} of {users} users have a held-out item that is earlier than one of their "
            f"train items (the first is {source.user} {source.user_id(late[0])}); the split does not follow the "
            "timestamps"
        )
        warnings.warn(message, DataWarning, stacklevel=2)


def _check_split(rows: Interactions, num_users: int, is_labelled: bool) -> None:
    source = rows.source
    for label, name in enumerate(SPLITS.values()):
        if not np.any(rows.split == label):
            found = f"none; {_way_out(source, label, is_labelled)}" if label else "none"
            raise source.problem(f"rows with {source.split} {label} ({name})", found, field=source.split)
    empty = np.flatnonzero(np.bincount(rows.user[rows.split == TRAIN], minlength=num_users) == 0)
    if empty.size:
        line = rows.line[rows.user == empty[0]]
        raise source.problem(
            f"at least one train row ({source.split} {TRAIN}) for every user",
            f"none for {source.user} {source.user_id(empty[0])}",
            line=int(line[0]),
            field=source.split,
        )


def _way_out(source: Source, label: int, is_labelled: bool) -> str:
    """What to do about a held-out split without rows."""
    if not is_labelled:
        return f"a {source.user} needs {LEAST_ROWS} distinct items to have a row held out"
    share = {VALID: "split.valid", TEST: "split.test"}[label]
    return (
        f"label some rows {label}, or leave {source.split} out to split by {source.timestamp}, or let prepare do it "
        f"(split.by=ratio with {share} above 0)"
    )


def _ages(user: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
    """int32 [rows], how many rows of the same user are strictly later."""
    order = np.lexsort((timestamp, user))
    user, timestamp = user[order], timestamp[order]
    position = np.arange(len(user))
    ends = np.append((user[1:] != user[:-1]) | (timestamp[1:] != timestamp[:-1]), True)
    last_of_time = position[ends][np.searchsorted(position[ends], position)]
    last_of_user = np.searchsorted(user, user, side="right") - 1
    age = np.empty(len(user), np.int32)
    age[order] = last_of_user - last_of_time
    return age


def _held_out(rows: Interactions, num_users: int) -> dict[str, np.ndarray | None]:
    """The fields `valid_item`, `test_item` and `held_user` of `types.Dataset`."""
    held = _take(rows, np.flatnonzero(rows.split != TRAIN))
    held = _take(held, np.lexsort((held.item, held.user, held.split)))
    t = held.split - VALID
    at, held_user = place_rows(t, held.user, num_users)
    item_th = np.full((2, num_users if held_user is None else len(held_user)), -1, np.int32)
    item_th[t, at] = held.item
    return {"valid_item": item_th[0], "test_item": item_th[1], "held_user": held_user}
