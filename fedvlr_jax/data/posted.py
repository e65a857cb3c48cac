"""Histories of users whom no data set has: ids of items as they are posted, and what becomes of those unknown."""

from __future__ import annotations

import csv
import dataclasses
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.data.ids import as_column, ids_or_numbers
from fedvlr_jax.data.messages import DataWarning, Source, problem
from fedvlr_jax.data.times import is_time, order_times
from fedvlr_jax.errors import DataError
from fedvlr_jax.types import Dataset


class Posted(NamedTuple):
    """Posted histories as a data set of their users, none of whose rows is held out.

    Attributes:
      dataset: users in the order in which they came; items and features of the training.
      ignored: for each user the posted ids that no item has, in order.
    """

    dataset: Dataset
    ignored: tuple[tuple[str, ...], ...]


def item_numbers(dataset: Dataset) -> dict[str, int]:
    """The number of every item by its id as text."""
    return {str(id_): k for k, id_ in enumerate(ids_or_numbers(dataset.item_ids, dataset.num_items).tolist())}


def posted(
    dataset: Dataset, histories: Mapping[Any, Sequence[Any]], known: Mapping[str, int] | None = None
) -> Posted:
    """Histories as a data set.

    Args:
      dataset: what was trained on; nothing of its interactions is read but whether they have times.
      histories: ids of items, the oldest first, by the id of each user; an id that comes again counts where it comes
        last. Ids are compared as text.
      known: of `item_numbers`, for callers that ask often.

    Raises:
      DataError: a user without any known item, or who is there twice, nobody, or histories that are no lists by user.
    """
    known = item_numbers(dataset) if known is None else known
    items, ages, ignored = [], [], []
    lists = _lists(dataset, histories)
    for user, history in lists.items():
        last = {str(id_): place for place, id_ in enumerate(history)}
        there = [id_ for id_ in sorted(last, key=last.__getitem__) if id_ in known]
        if not there:
            raise DataError(
                f"history of user {user}: expected an item of {dataset.name}, found none among {len(history)} ids"
            )
        order = np.argsort([known[id_] for id_ in there])
        items.append(np.array([known[id_] for id_ in there], np.int32)[order])
        ages.append((len(there) - 1 - order).astype(np.int32))
        ignored.append(tuple(id_ for id_ in last if id_ not in known))
    if not items:
        raise DataError("histories: expected at least one user, found none")
    none_u = np.full(len(items), -1, np.int32)
    made = dataclasses.replace(
        dataset,
        num_users=len(items),
        train_user=np.repeat(np.arange(len(items), dtype=np.int32), [len(x) for x in items]),
        train_item=np.concatenate(items),
        train_age=None if dataset.train_age is None else np.concatenate(ages),
        valid_item=none_u,
        test_item=none_u,
        held_user=None,
        planted=None,
        newcomers=None,
        user_ids=np.array(list(lists)),
    )
    return Posted(made, tuple(ignored))


def _lists(dataset: Dataset, histories: Any) -> dict[str, list[Any]]:
    """Histories as lists by the text of a user's id.

    A text is no list of its letters, and a table no history for each of its columns.
    """
    if not hasattr(histories, "items") or getattr(histories, "ndim", 1) != 1:
        raise DataError(f"histories: expected one by the id of each user, found a {type(histories).__name__}")
    found: dict[str, list[Any]] = {}
    for user, history in histories.items():
        if str(user) in found:
            raise DataError(f"histories: expected every user once, found {user} again")
        found[str(user)] = as_column(Source(dataset.name), f"history of user {user}", history).tolist()
    return found


def read_histories(file: pathlib.Path) -> dict[str, list[str]]:
    """Histories by user of a csv file with the columns user, item and perhaps timestamp.

    Rows of a user are in the order of the timestamps, rows of one time in that of the file; without the column in
    that of the file.

    Raises:
      DataError: naming the file, the line, the rule, and what was found.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            header, *rows = [*csv.reader(stream, strict=True)] or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise problem(file, "a csv file in UTF-8 with the columns user, item", str(error)) from error
    if missing := [name for name in ("user", "item") if name not in header]:
        raise problem(file, "the columns user, item and perhaps timestamp", f"no {missing[0]}", line=1)
    if twice := [name for name in ("user", "item", "timestamp") if header.count(name) > 1]:
        raise problem(file, f"one column {twice[0]}", str(header.count(twice[0])), line=1)
    user, item = header.index("user"), header.index("item")
    time = header.index("timestamp") if "timestamp" in header else None
    for line, row in enumerate(rows, start=2):
        if row and len(row) != len(header):
            raise problem(file, f"{len(header)} fields", str(len(row)), line=line)
        for field, column in (("user", user), ("item", item)) if row else ():
            if not row[column].strip():
                raise problem(file, "an id", "none", line=line, field=field)
        if row and time is not None and not is_time(row[time]):
            raise problem(file, "a number", repr(row[time]), line=line, field="timestamp")
    rows = [row for row in rows if row]
    order = range(len(rows)) if time is None else np.argsort(order_times([row[time] for row in rows]), kind="stable")
    found: dict[str, list[str]] = {}
    for k in order:
        found.setdefault(rows[k][user].strip(), []).append(rows[k][item].strip())
    return found


def say_ignored(made: Posted) -> None:
    """A `DataWarning` that counts posted ids which no item has, if there are any."""
    ids = [id_ for of_user in made.ignored for id_ in of_user]
    if ids:
        users = sum(map(bool, made.ignored))
        warnings.warn(
            f"{made.dataset.name}: ignored {len(ids)} items in histories of {users} of {len(made.ignored)} users, "
            f"which are not in the catalogue (the first is {ids[0]!r})",
            DataWarning,
            stacklevel=3,
        )
