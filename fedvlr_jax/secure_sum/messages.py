"""What clients and server send each other in one round of the protocol, and how a round is set up."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fedvlr_jax.errors import UserError


class ProtocolError(UserError):
    """A message or a request that an honest party does not send; who finds it takes no further part."""


class Setup(NamedTuple):
    """What everybody knows of a round.

    Attributes:
      round: number of the round; keys and shares are bound to it.
      neighbours: for each client the clients that it exchanges masks and shares with.
      threshold: shares that give a secret; more than half of the neighbours of any client, so that no two groups of
        them can be told different things about who has dropped out.
      num_words: length of the vectors that are added.
    """

    round: int
    neighbours: Mapping[int, tuple[int, ...]]
    threshold: int
    num_words: int


class Advert(NamedTuple):
    """Step 1, client -> server -> neighbours: public keys, one to seal shares with and one to agree on masks."""

    client: int
    sealing: bytes
    masking: bytes


class SealedShare(NamedTuple):
    """Step 2, client -> server -> neighbour: shares of the sender's two secrets, sealed for one neighbour."""

    sender: int
    receiver: int
    sealed: bytes


class Masked(NamedTuple):
    """Step 3, client -> server: uint32 [w], the client's words under all of its masks."""

    client: int
    words: np.ndarray


class Request(NamedTuple):
    """Step 4, server -> client: which of its neighbours' words arrived, and which neighbours were lost."""

    survivors: tuple[int, ...]
    lost: tuple[int, ...]


class Revealed(NamedTuple):
    """Step 4, client -> server: by neighbour, shares of own masks of survivors and of masking keys of the lost."""

    client: int
    own_masks: Mapping[int, bytes]
    keys: Mapping[int, bytes]


def make_setup(
    clients: Sequence[int], *, round_: int, degree: int, num_words: int, order: random.Random, share: float = 2 / 3
) -> Setup:
    """A round of the given clients, on the graph of SecAgg+ (Bell et al., CCS 2020).

    The clients stand in a circle in random order, and each has half of its neighbours on either side.

    Args:
      clients: distinct ids from 0.
      round_: number of the round.
      degree: neighbours of a client; all others where there are not more.
      num_words: length of the vectors.
      order: of the circle; nobody has to keep it secret.
      share: of the neighbours, the least whose shares give a secret, from a half to 1.

    Raises:
      ProtocolError: fewer than three clients, where a sum says too much, or a share out of range.
    """
    if len(clients) < 3 or not 0.5 <= share <= 1:
        raise ProtocolError(
            f"expected three clients or more and a share from 0.5 to 1, found {len(clients)} and {share}"
        )
    circle = list(clients)
    order.shuffle(circle)
    size, half = len(circle), -(-degree // 2)
    both_sides = [step for k in range(1, half + 1) for step in (k, -k)]
    steps = list(range(1, size)) if 2 * half >= size - 1 else both_sides
    neighbours = {
        client: tuple(sorted(circle[(at + step) % size] for step in steps)) for at, client in enumerate(circle)
    }
    # A product that is a whole number may be computed to a little more than it.
    threshold = max(math.ceil(share * len(steps) - 1e-9), len(steps) // 2 + 1)
    return Setup(round_, neighbours, threshold, num_words)
