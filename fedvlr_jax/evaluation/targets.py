"""Held-out items as the ranking reads them: one place a user, or several where some user has several rows."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedvlr_jax.types import Array, HeldOut, Targets


def item_of(targets: Targets) -> Array:
    """int32 [t, h], the held-out items."""
    return targets.item if isinstance(targets, HeldOut) else targets


def num_users_of(targets: Targets) -> int:
    """|U|."""
    return targets.start.shape[0] - 2 if isinstance(targets, HeldOut) else targets.shape[1]


def rows_of(targets: Targets, user_c: Array) -> Array:
    """Where the rows of users stand on the axis ``h``, beyond its end where there is none.

    Args:
      targets: of all users.
      user_c: int32 [c]; |U| for an empty slot.

    Returns:
      int32 [c], or [p, c] where users have several.
    """
    if not isinstance(targets, HeldOut):
        return user_c
    row_pc = targets.start[user_c][None] + targets.place[:, None]
    return jnp.where(row_pc < targets.start[user_c + 1][None], row_pc, targets.item.shape[1])


def num_places(target: Array) -> Array:
    """int32 [], how many places of a chunk's targets [t, p, c] are in use: a bound of the work, not of shapes."""
    if target.ndim == 2:
        return jnp.int32(1)
    in_use_p = jnp.any(target >= 0, axis=(0, 2))
    return jnp.max(jnp.where(in_use_p, jnp.arange(1, target.shape[1] + 1, dtype=jnp.int32), 0))


def at_places(function: Callable[[Array], tuple[Array, ...]], x: Array, most: Array) -> tuple[Array, ...]:
    """``function(x_tc)`` of an array [t, c], or of one place after another of [t, p, c]; 0 from place `most` on."""
    if x.ndim == 2:
        return function(x)

    def place(p: Array, found: tuple[Array, ...]) -> tuple[Array, ...]:
        values = function(jax.lax.dynamic_index_in_dim(x, p, axis=1, keepdims=False))
        return tuple(all_.at[:, p].set(part) for all_, part in zip(found, values, strict=True))

    shapes = jax.eval_shape(function, x[:, 0])
    return jax.lax.fori_loop(0, most, place, tuple(jnp.zeros(x.shape, one.dtype) for one in shapes))
