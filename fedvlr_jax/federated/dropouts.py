"""Clients that are lost in a round of a secure sum: who is, and what becomes of the round.

A client that is lost has sent nothing: the sum is that of the survivors, and its private state is that before the
round. With fewer survivors than the shares of masks ask for there is no sum, and the round changes nothing: clients
that trained go back to what they had.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.federated import sampling
from fedvlr_jax.types import Array, Bucket, PrivateState, PublicState


class Dropouts(NamedTuple):
    """How many clients are lost, and how many may be.

    Attributes:
      rate: probability with which a client of a cohort is lost in a round, each on its own.
      threshold: the least share of a cohort whose survivors have a sum.
    """

    rate: float
    threshold: float

    def enough(self, num_survivors: Array, cohort: Array) -> Array:
        """bool [], whether so many of a cohort have a sum."""
        return num_survivors >= self.threshold * cohort

    def survivors(
        self,
        key: Array,
        round_: Array,
        selected_u: Array | None,
        buckets: Sequence[Bucket],
        num_users: int,
        cohort: Array,
    ) -> tuple[Array, Array]:
        """bool [u], who trains, and int32 [], how many were lost; nobody trains where too few are left.

        Args:
          key: of the run.
          round_: its number.
          selected_u: bool [u], the cohort; None: everybody in the buckets.
          buckets: histories.
          num_users: |U|.
          cohort: clients in the cohort.
        """
        if selected_u is None:
            selected_u = jnp.zeros(num_users, bool)
            for bucket in buckets:
                selected_u = selected_u.at[bucket.user].set(True, mode="drop")
        key = sampling.stream(key, sampling.DROPOUT, round_)
        left_u = selected_u & ~sampling.poisson_mask(key, num_users, self.rate)
        num_left = jnp.sum(left_u, dtype=jnp.int32)
        return left_u & self.enough(num_left, cohort), cohort - num_left


def unless_failed(
    done: Array, new: tuple[PublicState, PrivateState], old: tuple[PublicState, PrivateState]
) -> tuple[PublicState, PrivateState]:
    """The new states, or the old ones in the next round where nothing was `done`, [] bool."""
    old = old[0].replace(round=new[0].round), old[1]
    return jax.tree.map(lambda a, b: jnp.where(done, a, b), new, old)
