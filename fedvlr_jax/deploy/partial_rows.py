"""Broadcasts of which only some rows travel: which a silo asks for, and what it makes of them.

A silo asks for the rows that its users will touch in the round, and for others up to a size that does not depend on
them. The others are the same in every round and in every answer: were they drawn anew, those that are asked for again
and again would be the history. They are known by no other mark, since items are asked for in ascending order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fedvlr_jax.deploy.messages import Layout, Message, Spec, require_layout
from fedvlr_jax.deploy.people import padded
from fedvlr_jax.errors import MessageError
from fedvlr_jax.types import Array

ASKED: Layout = {"ids": Spec(("m",), "int32")}
"""The answer to a question for rows: items, ascending."""


def num_rows(num_clients: int, each: int, num_items: int) -> int:
    """How many rows are asked for, for some clients of one silo: `each` times their number, or all."""
    return min(num_clients * each, num_items)


def require_enough(client: Mapping[str, Any], histories: Iterable[np.ndarray], num_items: int) -> None:
    """Refuses a number of rows that one of these clients, whose histories are padded, may not get by with.

    Raises:
      MessageError: it is below the positives and the negatives of all steps.
    """
    if not (each := client["download_rows"]):
        return
    width = padded(max(histories, key=len), num_items).size
    most = min(width * (1 + client["steps"] * client["negatives"]), num_items)
    if each < most:
        raise MessageError(
            f"client.download_rows: expected 0 (all), or {most} or more, which a user of this silo with a "
            f"history of up to {width} items may touch in a round, found {each}"
        )


def make_order(key: Array, num_items: int) -> np.ndarray:
    """The order in which a silo takes items that nobody touches, of its own and the same for ever."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist()).permutation(num_items)


def rows_to_ask(touched: Iterable[np.ndarray], size: int, order: np.ndarray) -> np.ndarray:
    """The items to ask for, int32 [size], ascending: all that are touched, and the first others of `order`."""
    wanted = np.unique(np.concatenate(list(touched)))
    others = order[~np.isin(order, wanted)][: size - wanted.size]
    return np.sort(np.concatenate([wanted, others])).astype(np.int32)


def asked_rows(answer: Message, size: int, num_items: int) -> np.ndarray:
    """The items of an answer.

    Raises:
      MessageError: another number of them, or numbers that are no items, or out of order.
    """
    require_layout(answer.arrays, {"ids": Spec((size,), "int32")}, answer.kind)
    ids = answer.arrays["ids"]
    if ids[0] < 0 or ids[-1] >= num_items or (np.diff(ids) <= 0).any():
        raise MessageError(f"{answer.kind}: ids: expected distinct items below {num_items}, ascending, found others")
    return ids


def partial_layout(broadcast: Layout) -> Layout:
    """A broadcast of which m rows travel, and the items that they belong to."""
    rows = {name: Spec(("m", *spec.shape[1:]), spec.dtype) for name, spec in broadcast.items() if _is_rows(name)}
    return {**broadcast, **rows, **ASKED}


def with_rows(
    question: Callable[[Sequence[int]], Message], ids: Mapping[int, np.ndarray]
) -> Callable[[Sequence[int]], Message]:
    """The question with the rows alone that the silo of these users asked for."""

    def partial(users: Sequence[int]) -> Message:
        whole, wanted = question(users), ids[users[0]]
        rows = {name: x[wanted] for name, x in whole.arrays.items() if _is_rows(name)}
        return whole._replace(arrays={**whole.arrays, **rows, "ids": wanted})

    return partial


def put_back(arrays: Mapping[str, np.ndarray], broadcast: Layout) -> dict[str, np.ndarray]:
    """The broadcast in its shapes. Rows that did not travel are NaN: an upload that read one would not be finite."""
    found = {}
    for name, spec in broadcast.items():
        found[name] = arrays[name]
        if _is_rows(name):
            found[name] = np.full([int(size) for size in spec.shape], np.nan, spec.dtype)
            found[name][arrays["ids"]] = arrays[name]
    return found


def _is_rows(name: str) -> bool:
    return name.startswith("rows/")
