"""The users of a silo: what each has seen, and their histories padded and in buckets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fedvlr_jax.data.buckets import heldout_targets, make_buckets
from fedvlr_jax.data.heldout import held_users, place_rows
from fedvlr_jax.evaluation.metrics import TEST, VALID
from fedvlr_jax.types import Bucket, Dataset, Targets


class Person(NamedTuple):
    """One user: train items [l] ascending, and the held-out items of validation and test, any number of each."""

    history: np.ndarray
    valid_items: np.ndarray
    test_items: np.ndarray


def people_of(dataset: Dataset, users: range, first: int = 0) -> dict[int, Person]:
    """Some users of a data set, by their number in the federation: `first` plus their number in the data set."""
    every = np.arange(dataset.num_users + 1)
    trained, held = (np.searchsorted(user, every) for user in (dataset.train_user, held_users(dataset)))

    def person(u: int) -> Person:
        places = slice(held[u], held[u + 1])
        items = (items[places][items[places] >= 0] for items in (dataset.valid_item, dataset.test_item))
        return Person(dataset.train_item[trained[u] : trained[u + 1]], *items)

    return {first + u: person(u) for u in users}


def targets_of(people: Mapping[int, Person], users: Iterable[int], num_users: int, *, test: bool) -> Targets:
    """The held-out items of some of the people, without `test` those of validation alone; all others have none.

    Places are kept for all of the people, so that shapes do not depend on who is asked.
    """
    asked = set(users)
    rows = [(t, user, item) for t in (VALID, TEST) for user in sorted(people) for item in people[user][1 + t]]
    t, user, item = np.array(rows, np.int64).reshape(-1, 3).T
    at, held_user = place_rows(t, user, num_users)
    item_th = np.full((2, num_users if held_user is None else len(held_user)), -1, np.int32)
    shown = np.isin(user, list(asked)) & (test | (t == VALID))
    item_th[t[shown], at[shown]] = item[shown]
    nothing = np.zeros(0, np.int32)
    local = Dataset(
        name="silo",
        num_users=num_users,
        num_items=0,
        train_user=nothing,
        train_item=nothing,
        valid_item=item_th[VALID],
        test_item=item_th[TEST],
        held_user=held_user,
    )
    return heldout_targets(local)


def bucketed(people: Mapping[int, Person], users: Sequence[int], num_items: int) -> tuple[Bucket, ...]:
    """Some of the people in buckets; rows are their places in `users`."""
    lengths = [len(people[user].history) for user in users]
    train = np.concatenate([people[user].history for user in users])
    nobody = np.full(len(users), -1, np.int32)
    local = Dataset(
        name="silo",
        num_users=len(users),
        num_items=num_items,
        train_user=np.repeat(np.arange(len(users)), lengths).astype(np.int32),
        train_item=train.astype(np.int32),
        valid_item=nobody,
        test_item=nobody,
    )
    number = np.array(users, np.int32)
    return tuple(Bucket(number[b.user], b.history, b.user) for b in make_buckets(local, min_length=8, growth=4.0))


def padded(history: np.ndarray, num_items: int) -> np.ndarray:
    """A history as wide as the next power of four from 8 on, so that few widths have to be compiled."""
    width = 8
    while width < len(history):
        width *= 4
    return np.pad(history.astype(np.int32), (0, width - len(history)), constant_values=num_items)
