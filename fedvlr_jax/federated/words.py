"""Sums in words of 32 bits, as a secure sum forms them: fixed point, exact, and the same in any order.

A clipped upload has no number beyond the bound, so the bound is the range: nothing saturates. Numbers are rounded
towards zero, so that none grows, and with them no norm: an upload that was clipped stays so.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.errors import ConfigError
from fedvlr_jax.federated.aggregation import Aggregator
from fedvlr_jax.models.model import Broadcast, Upload
from fedvlr_jax.types import Array, PyTree


class FixedPoint(NamedTuple):
    """Numbers within +-bound as whole multiples of a step.

    Attributes:
      bound: the largest absolute value, that of `clip`.
      bits: of one number with its sign; 32 less than that are left for the number of clients.
    """

    bound: float
    bits: int

    @property
    def steps(self) -> int:
        """Steps from 0 to the bound."""
        return 1 << (self.bits - 1)

    def encode(self, x: Array) -> Array:
        """Numbers as uint32 words, two's complement; what lies beyond the bound becomes the bound."""
        whole = jnp.clip(jnp.trunc(x * (self.steps / self.bound)), -self.steps, self.steps)
        return jax.lax.bitcast_convert_type(whole.astype(jnp.int32), jnp.uint32)

    def decode(self, words: Array) -> Array:
        """The numbers, float32, of words or of their sums modulo 2^32."""
        return jax.lax.bitcast_convert_type(words, jnp.int32) * (self.bound / self.steps)


def make_fixed_point(bound: float, bits: int, num_clients: int) -> FixedPoint:
    """The numbers of a round of at most `num_clients` clients.

    Raises:
      ConfigError: if their sum could leave 32 bits.
    """
    most = 32 - num_clients.bit_length()
    if not 2 <= bits <= most:
        raise ConfigError(
            f"secure.bits: the sum of {num_clients} clients has to fit into 32 bits, so expected 2 to {most}, "
            f"found {bits}"
        )
    return FixedPoint(bound, bits)


def upload_words(point: FixedPoint, upload: Upload) -> Upload:
    """An upload in words, which is what a client masks."""
    rows, head = jax.tree.map(point.encode, (upload.rows, upload.head))
    return upload._replace(rows=rows, head=head)


def make_word_sum(point: FixedPoint) -> Aggregator:
    """The mean by a sum of words modulo 2^32: bit by bit what the protocol of `secure_sum` gives.

    Every client that takes part counts once, whatever its weight: the weights of a round have to be ones.
    """

    def init(broadcast: Broadcast, num_slots: int) -> Broadcast:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.uint32), broadcast)

    def add(total: Broadcast, uploads: Upload, alpha_c: Array) -> Broadcast:
        words = upload_words(point, uploads)

        def present(x: Array) -> Array:
            return jnp.where((alpha_c != 0).reshape((-1,) + (1,) * (x.ndim - 1)), x, jnp.uint32(0))

        def add_rows(table: Array, new: Array) -> Array:
            if words.ids_n is None:
                return table + jnp.sum(present(new), axis=0, dtype=jnp.uint32)
            return table.at[words.ids_n].add(present(new), mode="drop")

        rows = jax.tree.map(add_rows, total.rows, words.rows)
        head = jax.tree.map(lambda t, x: t + jnp.sum(present(x), axis=0, dtype=jnp.uint32), total.head, words.head)
        return Broadcast(rows, head)

    def finish(total: Broadcast, weight: Array) -> Broadcast:
        inverse = jnp.where(weight > 0, 1 / weight, 0.0)
        return jax.tree.map(lambda words: inverse * point.decode(words), total)

    return Aggregator(init, add, _merge, finish)


def _merge(total: PyTree, axis: str) -> PyTree:
    return jax.lax.psum(total, axis)
