"""Users held out as a whole: the protocol of new users (`data.split` users), and its control (joined).

Some users are left out of training. Each comes with a history, his train and validation rows, and is ranked on his
test rows; half of them choose the round, the other half are reported. The users who stay train on all of their rows.
What is trained is a data set in which the others do not occur: no count, prior, sum or cohort can contain them.

    rows      every user trains, rows of his are held out; nothing is changed
    users     `leave_users_out`
    joined    the same rows are ranked, and the histories of the left-out users are trained with the others
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fedvlr_jax.data.heldout import held_users, place_rows
from fedvlr_jax.errors import DataError
from fedvlr_jax.types import Dataset, given


class Rows(NamedTuple):
    """All interactions of a data set; arrays [rows].

    Attributes:
      user, item: int32.
      split: int8, 0 train, 1 validation, 2 test.
      age: int32, how many rows of the same user are later, or None. Validation rows count as later than train rows,
        test rows as later than both, and those of one split as simultaneous.
    """

    user: np.ndarray
    item: np.ndarray
    split: np.ndarray
    age: np.ndarray | None

    def where(self, index: np.ndarray) -> Rows:
        """Those with a True, bool [rows], or those at some places, in that order."""
        age = None if self.age is None else self.age[index]
        return Rows(self.user[index], self.item[index], self.split[index], age)


def all_rows(dataset: Dataset) -> Rows:
    """The interactions of all splits."""
    held_h, num_train = held_users(dataset), len(dataset.train_item)
    users, items = [dataset.train_user], [dataset.train_item]
    for item_h in (dataset.valid_item, dataset.test_item):
        users.append(held_h[item_h >= 0])
        items.append(item_h[item_h >= 0])
    split = np.repeat(np.arange(3, dtype=np.int8), [len(x) for x in users])
    user, item = np.concatenate(users), np.concatenate(items)
    if dataset.train_age is None:
        return Rows(user, item, split, None)
    valid_u, test_u = (np.bincount(x, minlength=dataset.num_users).astype(np.int32) for x in users[1:])
    age = np.where(split == 2, 0, test_u[user] + np.where(split == 1, 0, valid_u[user])).astype(np.int32)
    age[:num_train] += dataset.train_age
    return Rows(user, item, split, age)


def leave_users_out(dataset: Dataset, share: float = 0.2, seed: int = 0) -> Dataset:
    """The data set without some of its users, who become its `newcomers`.

    Args:
      dataset: with a test row for some users; only those can be left out.
      share: of all users.
      seed: of who they are.

    Returns:
      The users who stay, with all of their rows as train rows and none held out. Of the newcomers, half have their
      test rows as validation rows, the other half as test rows. Original numbers are the ids where there were none.

    Raises:
      DataError: where fewer than two users could be left out, or nobody would stay.
    """
    rows = all_rows(dataset)
    tested = np.unique(rows.user[rows.split == 2])
    size = round(share * dataset.num_users)
    if size < 2 or size > len(tested) or size >= dataset.num_users:
        raise DataError(
            f"{dataset.name}, data.newcomers.share: expected a share of the users that is 2 to "
            f"{min(len(tested), dataset.num_users - 1)} of them ({len(tested)} have a test row), found {share:g}, "
            f"which is {size} of {dataset.num_users}"
        )
    out = np.random.default_rng(seed).permutation(tested)[:size]
    is_valid_u, is_out_u = np.zeros(dataset.num_users, bool), np.zeros(dataset.num_users, bool)
    is_valid_u[out[: size // 2]], is_out_u[out] = True, True
    left = rows.where(is_out_u[rows.user])
    history = left.where(left.split < 2)
    if history.age is not None:
        test_u = np.bincount(left.user[left.split == 2], minlength=dataset.num_users).astype(np.int32)
        history = history._replace(age=history.age - test_u[history.user])
    target = left.where(left.split == 2)
    target = target._replace(split=np.where(is_valid_u[target.user], 1, 2).astype(np.int8))
    nothing = rows.where(np.zeros(len(rows.user), bool))
    return dataclasses.replace(
        _of_users(dataset, np.flatnonzero(~is_out_u), rows.where(~is_out_u[rows.user]), nothing),
        newcomers=_of_users(dataset, np.flatnonzero(is_out_u), history, target),
    )


def join_newcomers(dataset: Dataset) -> Dataset:
    """The control of `leave_users_out`: its newcomers train too, behind the others, with the same held-out rows."""
    new, first = given(dataset.newcomers), dataset.num_users

    def joined(mine: np.ndarray, theirs: np.ndarray | None) -> np.ndarray:
        return np.concatenate([mine, given(theirs)])

    held_user, planted, age, ids = new.held_user, dataset.planted, dataset.train_age, given(dataset.user_ids)
    if held_user is not None:
        held_user = np.concatenate([np.arange(first, dtype=np.int32), held_user + np.int32(first)])
    return dataclasses.replace(
        dataset,
        num_users=first + new.num_users,
        train_user=joined(dataset.train_user, new.train_user + np.int32(first)),
        train_item=joined(dataset.train_item, new.train_item),
        valid_item=joined(dataset.valid_item, new.valid_item),
        test_item=joined(dataset.test_item, new.test_item),
        held_user=held_user,
        planted=None if planted is None else joined(planted, new.planted),
        train_age=None if age is None else joined(age, new.train_age),
        user_ids=joined(ids, new.user_ids),
        newcomers=None,
    )


LEAVES_OUT = "users"
"""The protocol whose data sets have newcomers."""

USER_SPLITS: dict[str, Callable[..., Dataset]] = {
    "rows": lambda dataset, **_: dataset,
    LEAVES_OUT: leave_users_out,
    "joined": lambda dataset, **options: join_newcomers(leave_users_out(dataset, **options)),
}
"""Protocols by the name in the config: ``(dataset, share, seed) -> dataset``."""


def _of_users(dataset: Dataset, users: np.ndarray, train: Rows, held: Rows) -> Dataset:
    """A data set of some users (ascending), who are numbered anew, with these train and held-out rows."""
    number_u = np.zeros(dataset.num_users, np.int32)
    number_u[users] = np.arange(len(users))
    order = np.lexsort((train.item, train.user))
    held = held.where(np.lexsort((held.item, held.user, held.split)))
    t = held.split.astype(int) - 1
    at, held_user = place_rows(t, number_u[held.user].astype(int), len(users))
    item_th = np.full((2, len(users) if held_user is None else len(held_user)), -1, np.int32)
    item_th[t, at] = held.item
    return dataclasses.replace(
        dataset,
        num_users=len(users),
        train_user=number_u[train.user[order]],
        train_item=train.item[order].astype(np.int32),
        valid_item=item_th[0],
        test_item=item_th[1],
        held_user=held_user,
        planted=None if dataset.planted is None else dataset.planted[users],
        train_age=None if train.age is None else train.age[order],
        user_ids=users if dataset.user_ids is None else dataset.user_ids[users],
    )
