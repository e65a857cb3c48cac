"""Private states of some clients: reading and writing them, and which parts of them take which steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from fedvlr_jax.models.model import ITEM_TABLE
from fedvlr_jax.types import Array, PrivateState

OFFSET = "offset"
"""Name of the moves of a client's own copy of its rows, while a host fine-tunes them before scoring."""


def trainable(private: Mapping[str, Any]) -> dict[str, Any]:
    """The private parameters that the client optimizer steps (everything but tables over items)."""
    return {name: value for name, value in private.items() if name not in (ITEM_TABLE, OFFSET)}


def change_table(state: PrivateState, change: Callable[[Any], Any]) -> PrivateState:
    """The state of one client with its private item table changed, where it has one."""
    if ITEM_TABLE not in state.params:
        return state
    return state.replace(params=state.params | {ITEM_TABLE: change(state.params[ITEM_TABLE])})


def gather_clients(private: PrivateState, row_c: Array, ids_cn: Array | None) -> PrivateState:
    """The states of the clients at rows `row_c`; of a private item table only the rows `ids_cn` where given.

    A row out of range, an empty slot or padding, reads whatever is in the last row; nobody may use it.
    """

    def take(x: Array) -> Array:
        return x.at[row_c].get(mode="clip")  # filling would be another pass over the largest arrays

    params = jax.tree.map(take, trainable(private.params))
    if ITEM_TABLE in private.params:
        table = private.params[ITEM_TABLE]
        params[ITEM_TABLE] = table.at[_table_index(row_c, ids_cn)].get(mode="clip")
    rest = jax.tree.map(take, (private.opt_state, private.memory))
    return PrivateState(params=params, opt_state=rest[0], memory=rest[1])


def scatter_clients(private: PrivateState, row_c: Array, ids_cn: Array | None, state_c: PrivateState) -> PrivateState:
    """Writes the states of the clients at rows `row_c` back; a row out of range writes nothing."""

    def put(x: Array, new: Array) -> Array:
        return x.at[row_c].set(new, mode="drop")

    params = jax.tree.map(put, trainable(private.params), trainable(state_c.params))
    if ITEM_TABLE in private.params:
        table, rows = private.params[ITEM_TABLE], state_c.params[ITEM_TABLE]
        params[ITEM_TABLE] = table.at[_table_index(row_c, ids_cn)].set(rows, mode="drop")
    rest = jax.tree.map(put, (private.opt_state, private.memory), (state_c.opt_state, state_c.memory))
    return PrivateState(params=params, opt_state=rest[0], memory=rest[1])


def _table_index(row_c: Array, ids_cn: Array | None) -> tuple[Array, ...]:
    return (row_c,) if ids_cn is None else (row_c[:, None], ids_cn)
