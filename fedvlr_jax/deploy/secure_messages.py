"""The messages of a secure sum in a federation: those of `secure_sum.messages` as arrays, and what words mean.

    kind        to a silo                                            back
    advertise   round; its number, the threshold, its neighbours     its public keys
    share       round; the keys of the neighbours that advertised    shares sealed for each of them
    mask        as train; the shares that its neighbours sealed      masked words, the users whose uploads are in them
    reveal      round; neighbours whose words arrived or were lost   its shares of their seeds and masking keys

A client of the protocol is a silo, and its number its place among the silos of a round. Its words are the sum of its
users' uploads in the words of `federated.words`, and one more for the sum of their losses.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from fedvlr_jax.deploy.export import flat, unflat
from fedvlr_jax.deploy.messages import Layout, Message, Spec, require_layout
from fedvlr_jax.errors import MessageError
from fedvlr_jax.federated.words import FixedPoint
from fedvlr_jax.models.model import Broadcast
from fedvlr_jax.secure_sum.messages import Advert, Masked, Request, Revealed, SealedShare, Setup
from fedvlr_jax.secure_sum.shamir import SHARE_BYTES

LOSS_BOUND = 64.0  # a mean loss beyond it counts as this
PUBLIC_BYTES = 32  # a key of X25519
SEALED_BYTES = 12 + 2 * SHARE_BYTES + 16  # nonce, two shares, tag

SETUP: Layout = {"client": Spec((), "int32"), "threshold": Spec((), "int32"), "neighbour": Spec(("p",), "int32")}
ADVERT: Layout = {"sealing": Spec((PUBLIC_BYTES,), "uint8"), "masking": Spec((PUBLIC_BYTES,), "uint8")}
ADVERTS: Layout = {
    "neighbour": Spec(("p",), "int32"),
    "sealing": Spec(("p", PUBLIC_BYTES), "uint8"),
    "masking": Spec(("p", PUBLIC_BYTES), "uint8"),
}
SEALED: Layout = {"neighbour": Spec(("p",), "int32"), "sealed": Spec(("p", SEALED_BYTES), "uint8")}
"""Shares for neighbours on the way up, from neighbours on the way down."""
REQUEST: Layout = {"survivor": Spec(("s",), "int32"), "lost": Spec(("l",), "int32")}
REVEALED: Layout = {"seed": Spec(("s", SHARE_BYTES), "uint8"), "key": Spec(("l", SHARE_BYTES), "uint8")}


def masked_layout(num_words: int) -> Layout:
    """The answer to mask: the words, and the users whose uploads are in them."""
    return {"words": Spec((num_words,), "uint32"), "user": Spec(("c",), "int32")}


def num_words(broadcast: Layout) -> int:
    """Words of a silo for a broadcast of this layout."""
    return 1 + sum(math.prod(int(size) for size in spec.shape) for spec in broadcast.values())


def loss_numbers(bits: int) -> FixedPoint:
    """Mean losses of clients as words."""
    return FixedPoint(LOSS_BOUND, bits)


def join_words(total: Broadcast, losses: Iterable[np.ndarray], bits: int) -> np.ndarray:
    """uint32 [w], a sum of uploads in words, and the sum of their losses."""
    encoded = [np.asarray(loss_numbers(bits).encode(jnp.asarray(loss))) for loss in losses]
    loss = np.sum(encoded, axis=0, dtype=np.uint32).reshape(1)
    return np.concatenate([*(np.ravel(x) for x in flat(total).values()), loss])


def split_words(words: np.ndarray, like: Broadcast, bits: int) -> tuple[Broadcast, float]:
    """What `join_words` joined, in the shapes of a broadcast: the sum of uploads in words, and that of losses."""
    leaves, begin = {}, 0
    for name, x in flat(like).items():
        leaves[name] = jnp.asarray(words[begin : begin + x.size].reshape(x.shape))
        begin += x.size
    return unflat(like, leaves), float(loss_numbers(bits).decode(jnp.asarray(words[begin])))


def of_setup(setup: Setup, client: int) -> dict[str, np.ndarray]:
    """The arrays of what one silo has to know of a round."""
    return {
        "client": np.array(client, np.int32),
        "threshold": np.array(setup.threshold, np.int32),
        "neighbour": _numbers(setup.neighbours[client]),
    }


def to_setup(question: Message, round_: int, num_words: int) -> tuple[int, Setup]:
    """A silo's number, and what it knows of a round.

    Raises:
      MessageError: a graph or a threshold with which a sum would not be safe; arrays that do not fit, as all
        functions of this module that read a message.
    """
    require_layout(question.arrays, SETUP, question.kind)
    client, threshold = (int(question.arrays[name]) for name in ("client", "threshold"))
    peers = tuple(question.arrays["neighbour"].tolist())
    if len({client, *peers}) <= len(peers) or not max(2, len(peers) // 2 + 1) <= threshold <= len(peers):
        raise MessageError(
            f"{question.kind}: expected two neighbours or more and a threshold of more than half of them, found "
            f"neighbours {list(peers)} of {client} and threshold {threshold}"
        )
    return client, Setup(round_, {client: peers}, threshold, num_words)


def of_advert(advert: Advert) -> dict[str, np.ndarray]:
    """The arrays of one silo's keys."""
    return {name: x[0] for name, x in of_adverts([advert]).items() if name in ADVERT}


def to_advert(client: int, answer: Message) -> Advert:
    """The keys of a silo."""
    require_layout(answer.arrays, ADVERT, answer.kind)
    return Advert(client, answer.arrays["sealing"].tobytes(), answer.arrays["masking"].tobytes())


def of_adverts(adverts: Iterable[Advert]) -> dict[str, np.ndarray]:
    """The arrays of the keys of some silos."""
    adverts = tuple(adverts)
    return {
        "neighbour": _numbers(advert.client for advert in adverts),
        "sealing": _bytes([advert.sealing for advert in adverts], PUBLIC_BYTES),
        "masking": _bytes([advert.masking for advert in adverts], PUBLIC_BYTES),
    }


def to_adverts(question: Message) -> tuple[Advert, ...]:
    """The keys of some silos."""
    require_layout(question.arrays, ADVERTS, question.kind)
    columns = (question.arrays["neighbour"].tolist(), *(_rows(question, name) for name in ("sealing", "masking")))
    return tuple(Advert(*row) for row in zip(*columns, strict=True))


def of_shares(shares: Iterable[SealedShare], *, sent: bool) -> dict[str, np.ndarray]:
    """The arrays of sealed shares that one silo has `sent`, or that it is to receive."""
    shares = tuple(shares)
    return {
        "neighbour": _numbers(share.receiver if sent else share.sender for share in shares),
        "sealed": _bytes([share.sealed for share in shares], SEALED_BYTES),
    }


def to_sent(client: int, answer: Message, neighbours: Sequence[int]) -> tuple[SealedShare, ...]:
    """What a silo sealed for some of its neighbours."""
    shares = to_shares(client, answer, sent=True)
    receivers = [share.receiver for share in shares]
    if len(set(receivers)) < len(receivers) or not set(receivers) <= set(neighbours):
        raise MessageError(f"share: expected shares for some of {list(neighbours)}, each once, found {receivers}")
    return shares


def to_shares(client: int, message: Message, *, sent: bool) -> tuple[SealedShare, ...]:
    """The sealed shares that a silo has `sent`, or that it received, among whatever else the message has."""
    require_layout({name: message.arrays[name] for name in SEALED if name in message.arrays}, SEALED, message.kind)
    pairs = zip(message.arrays["neighbour"].tolist(), _rows(message, "sealed"), strict=True)
    return tuple(
        SealedShare(client, peer, sealed) if sent else SealedShare(peer, client, sealed) for peer, sealed in pairs
    )


def to_masked(client: int, answer: Message, words: int, asked: Iterable[int]) -> tuple[Masked, list[int]]:
    """The masked words of a silo, and the users whose uploads are in them."""
    require_layout(answer.arrays, masked_layout(words), answer.kind)
    users = answer.arrays["user"].tolist()
    if len(set(users)) < len(users) or not set(users) <= set(asked):
        raise MessageError(f"mask: user: expected some of {sorted(asked)}, each once, found {users}")
    return Masked(client, answer.arrays["words"]), users


def of_request(request: Request) -> dict[str, np.ndarray]:
    """The arrays of a request."""
    return {"survivor": _numbers(request.survivors), "lost": _numbers(request.lost)}


def to_request(question: Message) -> Request:
    """The request of a question."""
    require_layout(question.arrays, REQUEST, question.kind)
    return Request(*(tuple(question.arrays[name].tolist()) for name in REQUEST))


def of_revealed(revealed: Revealed, request: Request) -> dict[str, np.ndarray]:
    """The arrays of shares, in the order of the request."""
    return {
        "seed": _bytes([revealed.own_masks[peer] for peer in request.survivors], SHARE_BYTES),
        "key": _bytes([revealed.keys[peer] for peer in request.lost], SHARE_BYTES),
    }


def to_revealed(client: int, answer: Message, request: Request) -> Revealed:
    """The shares that a silo revealed when it got this request."""
    sizes = {"s": len(request.survivors), "l": len(request.lost)}
    layout = {name: Spec((sizes[str(spec.shape[0])], SHARE_BYTES), spec.dtype) for name, spec in REVEALED.items()}
    require_layout(answer.arrays, layout, answer.kind)
    seeds, keys = (_rows(answer, name) for name in REVEALED)
    return Revealed(client, _by(request.survivors, seeds), _by(request.lost, keys))


def _by(peers: Iterable[int], shares: Iterable[bytes]) -> Mapping[int, bytes]:
    return dict(zip(peers, shares, strict=True))


def _numbers(numbers: Iterable[int]) -> np.ndarray:
    return np.array(list(numbers), np.int32)


def _bytes(rows: list[bytes], width: int) -> np.ndarray:
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), width)


def _rows(message: Message, name: str) -> list[bytes]:
    return [row.tobytes() for row in message.arrays[name]]
