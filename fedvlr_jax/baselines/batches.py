"""The batches of one epoch: all train rows in random order, each with an item that its user lacks, or all users.

Negatives are exact: a rank is drawn among the items outside the user's train history and mapped through the sorted
history, without rejection.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from fedvlr_jax.errors import ConfigError
from fedvlr_jax.types import Array, Dataset

NEGATIVES = ("catalogue", "train")


class Triples(NamedTuple):
    """One batch of train rows, each with one sampled item that its user does not have in train.

    Attributes:
      user: int32 [b]; ``num_users`` marks padding.
      positive: int32 [b], an item of the user's train history.
      negative: int32 [b], an item outside of it.
      weight: float32 [b], 1 for train rows and 0 for padding.
    """

    user: Array
    positive: Array
    negative: Array
    weight: Array


class Users(NamedTuple):
    """One batch of users, for a model whose loss is that of whole histories.

    Attributes:
      user: int32 [b]; ``num_users`` marks padding.
      weight: float32 [b], 1 for users, 0 for padding and for those without a train row.
    """

    user: Array
    weight: Array


@struct.dataclass(kw_only=True)
class TrainRows:
    """The train rows, sorted by (user, item), and what negatives are drawn from. Axis e is train rows.

    Attributes:
      user_e, item_e: int32 [e].
      below_e: int32 [e], how many candidates that the user does not have come before the item of the row.
      start_u, length_u: int32 [u], where a user's rows start, and how many there are.
      pool_n: int32 [n], the items that negatives are drawn from, ascending.
    """

    user_e: Array
    item_e: Array
    below_e: Array
    start_u: Array
    length_u: Array
    pool_n: Array
    num_items: int = struct.field(pytree_node=False)


def make_rows(dataset: Dataset, negatives: str = "catalogue") -> TrainRows:
    """The train rows of a set on the device.

    Args:
      dataset: its train rows are read.
      negatives: "catalogue" draws them from all items, "train" from those that occur in train. The latter never
        teaches a model that an unseen item is bad: it stays near its initial score.

    Raises:
      ConfigError: for any other value of `negatives`.
    """
    if negatives not in NEGATIVES:
        raise ConfigError(f"negatives: expected one of {', '.join(NEGATIVES)}, found {negatives!r}")
    pool_n = np.arange(dataset.num_items) if negatives == "catalogue" else np.unique(dataset.train_item)
    length_u = np.bincount(dataset.train_user, minlength=dataset.num_users)
    start_u = np.cumsum(length_u) - length_u
    rank_e = np.arange(len(dataset.train_user)) - start_u[dataset.train_user]
    below_e = np.searchsorted(pool_n, dataset.train_item) - rank_e
    fields = {"user_e": dataset.train_user, "item_e": dataset.train_item, "below_e": below_e, "pool_n": pool_n}
    fields |= {"start_u": start_u, "length_u": length_u}
    arrays = {name: jnp.asarray(x, jnp.int32) for name, x in fields.items()}
    return TrainRows(**arrays, num_items=dataset.num_items)


def draw_rows(key: Array, rows: TrainRows, batch: int) -> Triples:
    """All train rows once, in random order, cut into batches; every field is [s, b] with steps s.

    The last batch is padded with ``num_users``, ``num_items`` and weight 0. The rows of a user who has every item of
    the pool, and so no negative, have weight 0, too.
    """
    key_order, key_negative = jax.random.split(key)
    num_rows = len(rows.user_e)
    steps = -(-num_rows // batch)
    order_e = jax.random.permutation(key_order, num_rows)
    user_e, item_e = rows.user_e[order_e], rows.item_e[order_e]
    negative_e = draw_negatives(key_negative, rows, user_e)
    weight_e = (negative_e < rows.num_items).astype(float)

    num_users, num_items = len(rows.start_u), rows.num_items
    columns = ((user_e, num_users), (item_e, num_items), (negative_e, num_items), (weight_e, 0))
    return Triples(*(_cut(x_e, steps, batch, fill) for x_e, fill in columns))


def draw_users(key: Array, rows: TrainRows, batch: int) -> Users:
    """All users once, in random order, in about as many steps as `draw_rows` has; every field is [s, b].

    A step has about `batch` train rows, one user at least. The last one is padded with ``num_users`` and weight 0.
    """
    num_users = len(rows.start_u)
    size = -(-num_users // -(-len(rows.user_e) // batch))
    steps = -(-num_users // size)
    user_u = jax.random.permutation(key, num_users)
    weight_u = (rows.length_u[user_u] > 0).astype(float)
    return Users(_cut(user_u, steps, size, num_users), _cut(weight_u, steps, size, 0))


def _cut(x_n: Array, steps: int, size: int, fill: int) -> Array:
    """Batches [s, b] of a vector, the last of them filled up."""
    return jnp.pad(x_n, (0, steps * size - len(x_n)), constant_values=fill).reshape(steps, size)


def draw_negatives(key: Array, rows: TrainRows, user_b: Array) -> Array:
    """One item for each user, uniform over the pool without the user's train history; int32 [b].

    A user has `below` candidates before the k-th item of the history (from 0), which does not fall with k; so the
    candidate of rank r comes after as many items of the history as have ``below <= r``. Users who have the whole
    pool get ``num_items``.
    """
    length_b = rows.length_u[user_b]
    free_b = len(rows.pool_n) - length_b
    rank_b = jax.random.randint(key, user_b.shape, 0, jnp.maximum(free_b, 1), jnp.int32)
    low_b = rows.start_u[user_b]
    high_b = low_b + length_b

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low_b, high_b = bounds
        middle_b = (low_b + high_b) // 2
        is_behind_b = (low_b < high_b) & (rows.below_e.at[middle_b].get(mode="clip") <= rank_b)
        return jnp.where(is_behind_b, middle_b + 1, low_b), jnp.where(is_behind_b, high_b, middle_b)

    halvings = len(rows.user_e).bit_length()
    end_b, _ = jax.lax.fori_loop(0, halvings, halve, (low_b, high_b))
    position_b = rank_b + end_b - rows.start_u[user_b]
    return rows.pool_n.at[position_b].get(mode="fill", fill_value=rows.num_items)
