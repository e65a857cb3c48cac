"""Scores made elsewhere, as a score function: what is not listed ranks behind everything that is, tied."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fedvlr_jax.types import Array, Bucket

UNLISTED = 0.0
"""The score of an item that a user's list lacks; listed ones have 1, 2, ..."""


class Listed(NamedTuple):
    """The listed items of every user, padded.

    Attributes:
      item_ul: int32 [u, l], |I| for padding.
      place_ul: float32 [u, l], whole numbers from 1 in the order of the scores; equal scores have one number.
    """

    item_ul: Array
    place_ul: Array


def listed(user: np.ndarray, item: np.ndarray, value: np.ndarray, *, num_users: int, num_items: int) -> Listed:
    """Scores as `Listed`.

    Whatever type the scores have, nothing is rounded: a user's distinct values are counted instead, and a float32
    holds such counts exactly, where a conversion of float64 would gain ties.

    Args:
      user, item: int [rows], sorted by user; each pair once.
      value: [rows], larger is better.
      num_users, num_items: |U|, |I|, at most 2^24 items.
    """
    count_u = np.bincount(user, minlength=num_users)
    column = np.arange(len(user)) - (np.cumsum(count_u) - count_u)[user]
    order = np.lexsort((value, user))
    is_new_user = np.diff(user[order], prepend=-1) != 0
    is_new = is_new_user.copy()
    is_new[1:] |= value[order][1:] != value[order][:-1]
    seen = np.cumsum(is_new)
    place = np.empty(len(user))
    place[order] = seen - np.maximum.accumulate(np.where(is_new_user, seen - 1, 0))
    item_ul: Any = np.full((num_users, max(int(count_u.max(initial=0)), 1)), num_items, np.int32)
    place_ul: Any = np.zeros(item_ul.shape, np.float32)
    item_ul[user, column], place_ul[user, column] = item, place
    return Listed(item_ul, place_ul)


@functools.cache
def score_listed(num_items: int) -> Callable[[Listed, Bucket], Array]:
    """``(lists, chunk) -> s_ci``: places of what is listed, `UNLISTED` for the rest and for empty slots."""

    def score(lists: Listed, chunk: Bucket) -> Array:
        item_cl = lists.item_ul.at[chunk.user].get(mode="fill", fill_value=num_items)
        place_cl = lists.place_ul.at[chunk.user].get(mode="fill", fill_value=UNLISTED)
        row_c1 = jnp.arange(chunk.user.shape[0])[:, None]
        nothing_ci = jnp.full((chunk.user.shape[0], num_items), UNLISTED, jnp.float32)
        return nothing_ci.at[row_c1, item_cl].set(place_cl, mode="drop")

    return score
