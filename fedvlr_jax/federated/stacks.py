"""All uploads of a round beside each other, for aggregators that have to see them at once: n_s times a broadcast."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.models.model import Broadcast, Upload
from fedvlr_jax.types import Array


class Stack(NamedTuple):
    """All uploads of a round beside each other, dense.

    Attributes:
      uploads: leaves [s, ...] shaped like the broadcast, one slot a client; zero where a client sent nothing.
      touched_si: bool [s, i], the rows that a client sent.
      alpha_s: float32 [s], 0 in empty slots.
      num_used: int32 [], slots in use; they come first.
    """

    uploads: Broadcast
    touched_si: Array
    alpha_s: Array
    num_used: Array


def empty_stack(broadcast: Broadcast, num_slots: int) -> Stack:
    """A stack of nobody yet, with slots for so many clients."""
    tables = jax.tree.leaves(broadcast.rows)
    num_items = tables[0].shape[0] if tables else 1  # a head alone
    dense = jax.tree.map(lambda x: jnp.zeros((num_slots, *x.shape), x.dtype), broadcast)
    alpha_s = jnp.zeros(num_slots)
    return Stack(dense, jnp.zeros((num_slots, num_items), bool), alpha_s, jnp.zeros((), jnp.int32))


def add_to_stack(stack: Stack, uploads: Upload, alpha_c: Array) -> Stack:
    """The clients of a chunk, uploads [c, ...], in the next slots; those with alpha 0 take none."""
    num_slots, num_items = stack.touched_si.shape
    taken_c = alpha_c > 0
    slot_c = jnp.where(taken_c, stack.num_used + jnp.cumsum(taken_c) - 1, num_slots)  # beyond the last: dropped
    ids_cn = uploads.ids_n
    if ids_cn is None:
        ids_cn = jnp.broadcast_to(jnp.arange(num_items), (alpha_c.size, num_items))
    at = (slot_c[:, None], ids_cn)
    rows = jax.tree.map(lambda x, new: x.at[at].set(new, mode="drop"), stack.uploads.rows, uploads.rows)
    head = jax.tree.map(lambda x, new: x.at[slot_c].set(new, mode="drop"), stack.uploads.head, uploads.head)
    return Stack(
        Broadcast(rows, head),
        stack.touched_si.at[at].set(True, mode="drop"),
        stack.alpha_s.at[slot_c].set(alpha_c, mode="drop"),
        stack.num_used + jnp.sum(taken_c, dtype=jnp.int32),
    )


def merge_stacks(stack: Stack, axis: str) -> Stack:
    """The slots of all devices one after the other."""
    uploads, touched_si, alpha_s = jax.tree.map(lambda x: jax.lax.all_gather(x, axis, tiled=True), stack[:-1])
    return Stack(uploads, touched_si, alpha_s, jax.lax.psum(stack.num_used, axis))


def middle(low: Array, high: Array) -> Array:
    """The mean of two numbers, elementwise, which overflows for none that are finite; infinite ones stay so."""
    both_large = (jnp.minimum(jnp.abs(low), jnp.abs(high)) > 1e37) & (jnp.sign(low) == jnp.sign(high))
    finite = jnp.isfinite(low) & jnp.isfinite(high)
    return jnp.where(both_large & finite, low + 0.5 * (high - low), 0.5 * (low + high))
