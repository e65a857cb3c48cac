"""The four steps of a client (Bonawitz et al., CCS 2017, against a server that follows the protocol), all pure.

    advertise   two fresh key pairs; the public keys go to the neighbours
    share       a fresh seed; shares of it and of the masking key go to the neighbours, sealed
    mask        words + mask of the seed +- one mask for each neighbour who shared
    reveal      shares of the seeds of those who survived, of the masking keys of those who did not

Never both of one neighbour: with both, the server could take all masks off that neighbour's words.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from fedvlr_jax.secure_sum import shamir
from fedvlr_jax.secure_sum.messages import Advert, Masked, ProtocolError, Request, Revealed, SealedShare, Setup
from fedvlr_jax.secure_sum.primitives import (
    KEY_BYTES,
    NONCE_BYTES,
    KeyPair,
    RandomBytes,
    agreed_key,
    key_pair,
    mask_words,
    seal,
    unseal,
)


class Advertised(NamedTuple):
    """A client after its first step."""

    client: int
    setup: Setup
    sealing: KeyPair
    masking: KeyPair


class Shared(NamedTuple):
    """After its second step: the adverts of its neighbours by id, and the seed of its own mask."""

    before: Advertised
    adverts: dict[int, Advert]
    seed: bytes


class Uploaded(NamedTuple):
    """After its third step: by neighbour, the shares that it holds of a seed and of a masking key."""

    client: int
    held: dict[int, tuple[bytes, bytes]]
    threshold: int


def advertise(client: int, setup: Setup, random: RandomBytes) -> tuple[Advertised, Advert]:
    """Fresh keys for one round."""
    sealing, masking = key_pair(random(KEY_BYTES)), key_pair(random(KEY_BYTES))
    return Advertised(client, setup, sealing, masking), Advert(client, sealing.public, masking.public)


def share(
    state: Advertised, adverts: Iterable[Advert], random: RandomBytes
) -> tuple[Shared, tuple[SealedShare, ...]]:
    """Shares of the client's two secrets, for every neighbour that advertised.

    Raises:
      ProtocolError: adverts of others than neighbours, one key twice, or fewer neighbours than shares are needed.
    """
    client, setup, *_ = state
    found = {advert.client: advert for advert in adverts}
    if not set(found) <= set(setup.neighbours[client]):
        raise ProtocolError(f"client {client}: expected keys of its neighbours alone, found {sorted(found)}")
    _require_enough(client, len(found), setup.threshold)
    keys = [key for advert in found.values() for key in advert[1:]]
    if len(set(keys)) < len(keys):
        raise ProtocolError(f"client {client}: expected a key of its own from everybody, found one twice")
    seed = random(KEY_BYTES)
    points = [_point(peer) for peer in sorted(found)]
    parts = [shamir.split(secret, setup.threshold, points, random) for secret in (seed, state.masking.private)]
    sealed = tuple(
        SealedShare(
            client,
            peer,
            seal(
                agreed_key(state.sealing.private, found[peer].sealing, b"seal"),
                random(NONCE_BYTES),
                b"".join(part[_point(peer)] for part in parts),
                _context(setup, client, peer),
            ),
        )
        for peer in sorted(found)
    )
    return Shared(state, found, seed), sealed


def mask(state: Shared, arrived: Iterable[SealedShare], words: np.ndarray) -> tuple[Uploaded, Masked]:
    """The client's words under its masks.

    Args:
      state: of `share`.
      arrived: what its neighbours sealed for it; those without are taken as lost.
      words: uint32 [w].

    Raises:
      ProtocolError: a share that cannot be read or is not for this client, or too few of them.
    """
    (client, setup, sealing, masking), adverts, seed = state
    if words.dtype != np.uint32 or words.shape != (setup.num_words,):
        raise ProtocolError(f"client {client}: expected {setup.num_words} words, found {words.dtype} {words.shape}")
    held = {}
    for message in arrived:
        peer = message.sender
        if message.receiver != client or peer not in adverts:
            raise ProtocolError(f"client {client}: expected shares of its neighbours for itself, found {message[:2]}")
        key = agreed_key(sealing.private, adverts[peer].sealing, b"seal")
        opened = unseal(key, message.sealed, _context(setup, peer, client))
        if opened is None or len(opened) != 2 * shamir.SHARE_BYTES:
            raise ProtocolError(f"client {client}: the shares of client {peer} were changed on their way")
        held[peer] = (opened[: shamir.SHARE_BYTES], opened[shamir.SHARE_BYTES :])
    _require_enough(client, len(held), setup.threshold)
    masked = words + mask_words(seed, setup.num_words)
    for peer in held:
        add_pair_mask(masked, client, peer, masking.private, adverts[peer].masking)
    return Uploaded(client, held, setup.threshold), Masked(client, masked)


def reveal(state: Uploaded, request: Request) -> Revealed:
    """What the server needs to take masks off the sum; a client answers once in a round.

    Raises:
      ProtocolError: a request for both secrets of one client, for somebody else's, or with too few survivors.
    """
    client, held, threshold = state
    survivors, lost = set(request.survivors), set(request.lost)
    if survivors & lost or not survivors | lost <= set(held):
        raise ProtocolError(f"client {client}: expected every neighbour to have survived or not, found {request}")
    _require_enough(client, len(survivors), threshold)
    return Revealed(client, {u: held[u][0] for u in survivors}, {u: held[u][1] for u in lost})


def add_pair_mask(words: np.ndarray, client: int, peer: int, private: bytes, public: bytes) -> None:
    """Adds, in place, the mask that `client` shares with `peer`; the two cancel."""
    stream = mask_words(agreed_key(private, public, b"mask"), words.size)
    if client < peer:
        words += stream
    else:
        words -= stream


def _require_enough(client: int, found: int, threshold: int) -> None:
    if found < threshold:
        raise ProtocolError(f"client {client}: expected {threshold} neighbours or more, found {found}")


def _point(client: int) -> int:
    """Where the polynomial of a secret is taken for a client; 0 is the secret itself."""
    return client + 1


def _context(setup: Setup, sender: int, receiver: int) -> bytes:
    return f"{setup.round} {sender} {receiver}".encode()
