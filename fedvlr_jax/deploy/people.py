"""The users of a silo: what each has seen, and their histories padded and in buckets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fedvlr_jax.data.buckets import make_buckets
from fedvlr_jax.errors import DataError
from fedvlr_jax.types import Bucket, Dataset


class Person(NamedTuple):
    """One user: train items [l] ascending, and the held-out items for validation and test, -1 for none."""

    history: np.ndarray
    valid_item: int
    test_item: int


def people_of(dataset: Dataset, users: range, first: int = 0) -> dict[int, Person]:
    """Some users of a data set, by their number in the federation: `first` plus their number in the data set.

    Raises:
      DataError: if a user has several held-out rows in a split.
    """
    if dataset.held_user is not None:
        raise DataError(
            f"{dataset.name}: expected at most one validation and one test row of each user in a federation, found "
            "users with several; prepare the data with --config.split.by=leave-one-out"
        )
    bounds = np.searchsorted(dataset.train_user, np.arange(dataset.num_users + 1))
    return {
        first + u: Person(
            dataset.train_item[bounds[u] : bounds[u + 1]], int(dataset.valid_item[u]), int(dataset.test_item[u])
        )
        for u in users
    }


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
