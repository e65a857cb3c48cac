"""Private states of some clients: reading and writing them, and which parts of them take which steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedvlr_jax.models.model import ITEM_TABLE
from fedvlr_jax.types import Array, PrivateState

OFFSET = "offset"
"""Name of the moves of a client's own copy of its rows, while a host fine-tunes them before scoring."""

DRAWN_AT_ONCE = 256
"""Clients whose first private parameters are drawn together."""


def trainable(private: Mapping[str, Any]) -> dict[str, Any]:
    """The private parameters that the client optimizer steps (everything but tables over items)."""
    return {name: value for name, value in private.items() if name not in (ITEM_TABLE, OFFSET)}


def first_params(init_private: Callable[[Array], Any], key_c: Array, *, at_once: bool = False) -> dict[str, Any]:
    """The private parameters of clients before their first round, [c, ...].

    Args:
      init_private: ``(key) -> params`` of one client.
      key_c: one key a client.
      at_once: draw those of all clients together, as where they are split over devices. Else some at a time: what a
        draw makes on its way is several times as large as its result. The numbers are the same.
    """

    def draw(key_c: Array) -> dict[str, Any]:
        return jax.vmap(lambda key: trainable(init_private(key)))(key_c)

    count = len(key_c)
    if at_once or count <= DRAWN_AT_ONCE:
        return jax.vmap(init_private)(key_c)

    def some(k: Array, params: dict[str, Any]) -> dict[str, Any]:
        begin = jnp.minimum(k * DRAWN_AT_ONCE, count - DRAWN_AT_ONCE)  # the last ones may be drawn again
        drawn = draw(jax.lax.dynamic_slice_in_dim(key_c, begin, DRAWN_AT_ONCE))
        return jax.tree.map(lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new, begin, 0), params, drawn)

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(draw, key_c))
    params = jax.lax.fori_loop(0, -(-count // DRAWN_AT_ONCE), some, zeros)
    if ITEM_TABLE in jax.eval_shape(init_private, key_c[0]):
        params[ITEM_TABLE] = jax.vmap(lambda key: init_private(key)[ITEM_TABLE])(key_c)
    return params


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
