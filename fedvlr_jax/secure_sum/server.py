"""The steps of the server: it routes what it cannot read, and takes the masks off the sum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fedvlr_jax.secure_sum import shamir
from fedvlr_jax.secure_sum.client import add_pair_mask
from fedvlr_jax.secure_sum.messages import Advert, Masked, ProtocolError, Request, Revealed, SealedShare, Setup
from fedvlr_jax.secure_sum.primitives import agreed_key, mask_words


class Outcome(NamedTuple):
    """What the server has at the end of a round.

    Attributes:
      total: uint32 [w], the sum of the survivors' words modulo 2^32; None where too many were lost.
      survivors: the clients whose words are in it.
    """

    total: np.ndarray | None
    survivors: tuple[int, ...]


def usable(advert: Advert) -> Advert:
    """The advert, unless its keys would make the neighbours refuse: so its sender is left out, and they are not.

    Raises:
      ProtocolError: one key in both places, or one that nobody can agree on a secret with.
    """
    if advert.sealing == advert.masking:
        raise ProtocolError(f"client {advert.client}: expected two public keys, found one twice")
    for public in advert[1:]:
        agreed_key(bytes(range(32)), public, b"usable")  # any private key finds a point of small order
    return advert


def route_adverts(setup: Setup, adverts: Iterable[Advert]) -> dict[int, tuple[Advert, ...]]:
    """By client that advertised: the adverts of its neighbours."""
    found = {advert.client: advert for advert in adverts}
    return {u: tuple(found[v] for v in setup.neighbours[u] if v in found) for u in found}


def route_shares(sent: Mapping[int, Sequence[SealedShare]]) -> dict[int, tuple[SealedShare, ...]]:
    """By client that shared: what its neighbours sealed for it."""
    arrived: dict[int, list[SealedShare]] = {client: [] for client in sent}
    for messages in sent.values():
        for message in messages:
            if message.receiver in arrived:
                arrived[message.receiver].append(message)
    return {client: tuple(messages) for client, messages in arrived.items()}


def make_requests(setup: Setup, shared: Iterable[int], masked: Iterable[Masked]) -> dict[int, Request]:
    """By client whose words arrived: which of its neighbours that shared survived, and which did not."""
    shared, survivors = set(shared), {message.client for message in masked}
    requests = {}
    for client in survivors:
        known = [peer for peer in setup.neighbours[client] if peer in shared]
        requests[client] = Request(
            tuple(peer for peer in known if peer in survivors), tuple(peer for peer in known if peer not in survivors)
        )
    return requests


def unmask(
    setup: Setup,
    adverts: Iterable[Advert],
    requests: Mapping[int, Request],
    masked: Iterable[Masked],
    revealed: Iterable[Revealed],
) -> Outcome:
    """The sum of the words that arrived, if enough neighbours of everybody involved have answered.

    Args:
      setup, adverts, requests: of this round.
      masked: the words that arrived.
      revealed: the answers that arrived; clients may be lost before they answer.
    """
    masked, revealed = tuple(masked), tuple(revealed)
    survivors = tuple(sorted(message.client for message in masked))
    nothing = Outcome(None, survivors)
    if not masked:
        return nothing
    total: np.ndarray = np.stack([message.words for message in masked]).sum(axis=0, dtype=np.uint32)
    for client in survivors:
        shares = {answer.client + 1: answer.own_masks[client] for answer in revealed if client in answer.own_masks}
        seed = shamir.join(shares, setup.threshold)
        if seed is None:
            return nothing
        total -= mask_words(seed, setup.num_words)
    public = {advert.client: advert.masking for advert in adverts}
    for client in sorted({peer for request in requests.values() for peer in request.lost}):
        shares = {answer.client + 1: answer.keys[client] for answer in revealed if client in answer.keys}
        private = shamir.join(shares, setup.threshold)
        if private is None:
            return nothing
        # What the lost one would have added for each survivor that masked with it.
        for peer in (u for u, request in requests.items() if client in request.lost):
            add_pair_mask(total, client, peer, private, public[peer])
    return Outcome(total, survivors)
