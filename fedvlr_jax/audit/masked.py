"""What the server sees of single uploads under a secure sum: the words that the protocol's clients send it."""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from fedvlr_jax.audit.uploads import groups_of
from fedvlr_jax.federated.words import make_fixed_point
from fedvlr_jax.secure_sum import client, server
from fedvlr_jax.secure_sum.messages import make_setup
from fedvlr_jax.secure_sum.primitives import RandomBytes

BITS = 22
"""Of one number with its sign, as ``secure.bits`` has by default."""

DEGREE = 10
"""Neighbours of a client in the protocol's graph."""


def masked(
    rows_uif: np.ndarray,
    bound: float,
    size: int,
    clients: Sequence[int],
    seed: int,
    random_bytes: RandomBytes = secrets.token_bytes,
) -> np.ndarray:
    """The masked words of some clients as the numbers that a server would take them for, [c, i, f].

    Args:
      rows_uif: the rows of all items of every client, clipped to `bound`.
      bound: of fixed point.
      size: clients of a secure sum, in the groups of `uploads.summed`.
      clients: whose words are wanted.
      seed: of the groups.
      random_bytes: where the clients' secrets come from.
    """
    shape, point = rows_uif.shape[1:], make_fixed_point(bound, BITS, len(rows_uif))
    seen: dict[int, np.ndarray] = {}
    for group_c in groups_of(len(rows_uif), size, seed):
        wanted = sorted(set(group_c.tolist()) & set(clients))
        setup = make_setup(
            group_c.tolist(), round_=0, degree=DEGREE, num_words=int(np.prod(shape)), order=random.Random(seed)
        )
        begun = {u: client.advertise(u, setup, random_bytes) for u in setup.neighbours}
        known = server.route_adverts(setup, [advert for _, advert in begun.values()])
        shared = {u: client.share(begun[u][0], known[u], random_bytes) for u in begun}
        arrived = server.route_shares({u: sealed for u, (_, sealed) in shared.items()})
        for u in wanted:
            words = np.asarray(point.encode(rows_uif[u].ravel()))
            _, message = client.mask(shared[u][0], arrived[u], words)
            seen[u] = np.asarray(point.decode(jnp.asarray(message.words))).reshape(shape)
    return np.stack([seen[u] for u in clients])
