"""Private states of some clients: reading and writing them, and which parts of them take which steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedvlr_jax.models.model import ITEM_TABLE
from fedvlr_jax.types import Array, PrivateState, PyTree

OFFSET = "offset"
"""Name of the moves of a client's own copy of its rows, while a host fine-tunes them before scoring."""


def trainable(private: Mapping[str, Any]) -> dict[str, Any]:
    """The private parameters that the client optimizer steps (everything but tables over items)."""
    return {name: value for name, value in private.items() if name not in (ITEM_TABLE, OFFSET)}


def gather_clients(private: PrivateState, row_c: Array, ids_cn: Array | None) -> PrivateState:
    """The states of the clients at rows `row_c`; of a private item table only the rows `ids_cn` where given.

    A row out of range, an empty slot, reads whatever is in the last row; nobody may use it.
    """

    def take(x: Array) -> Array:
        return x.at[row_c].get(mode="clip")  # filling would be another pass over the largest arrays

    def take_table(x: Array) -> Array:
        return x.at[_table_index(row_c, ids_cn)].get(mode="fill", fill_value=0)

    params = {name: jax.tree.map(take_table if name == ITEM_TABLE else take, x) for name, x in private.params.items()}
    rest = jax.tree.map(take, (private.opt_state, private.memory))
    return PrivateState(params=params, opt_state=rest[0], memory=rest[1])


def scatter_clients(private: PrivateState, row_c: Array, ids_cn: Array | None, state_c: PrivateState) -> PrivateState:
    """Writes the states of the clients at rows `row_c` back; a row out of range writes nothing."""

    def put(x: Array, new: Array) -> Array:
        return x.at[row_c].set(new, mode="drop")

    def put_table(x: Array, new: Array) -> Array:
        return x.at[_table_index(row_c, ids_cn)].set(new, mode="drop")

    params = {
        name: jax.tree.map(put_table if name == ITEM_TABLE else put, x, state_c.params[name])
        for name, x in private.params.items()
    }
    rest = jax.tree.map(put, (private.opt_state, private.memory), (state_c.opt_state, state_c.memory))
    return PrivateState(params=params, opt_state=rest[0], memory=rest[1])


def _table_index(row_c: Array, ids_cn: Array | None) -> tuple[Array, ...]:
    return (row_c,) if ids_cn is None else (row_c[:, None], ids_cn)


def finite_rows(tree: PyTree) -> Array:
    """bool [c], whether every floating-point number of a client is finite, over leaves with leading axis c."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    finite = [jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim))) for x in leaves]
    return jnp.all(jnp.stack(finite), axis=0)


def keep_clients(keep_c: Array, tree: PyTree) -> PyTree:
    """Zeros in the leaves [c, ...] of the clients that are not kept."""
    return jax.tree.map(lambda x: jnp.where(over_leaf(keep_c, x), x, 0), tree)


def over_leaf(x_c: Array, like: Array) -> Array:
    """[c] -> [c, 1, ...] with as many axes as `like`."""
    return x_c.reshape(x_c.shape + (1,) * (like.ndim - 1))
