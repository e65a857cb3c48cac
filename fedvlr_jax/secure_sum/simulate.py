"""One whole round of the protocol in one process, with clients that are lost at any of its steps."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from fedvlr_jax.secure_sum import client, server
from fedvlr_jax.secure_sum.messages import ProtocolError, make_setup
from fedvlr_jax.secure_sum.primitives import RandomBytes
from fedvlr_jax.secure_sum.server import Outcome

STEPS = ("advertise", "share", "mask", "reveal")


def secure_sum(
    words: Mapping[int, np.ndarray],
    *,
    degree: int,
    share: float = 2 / 3,
    round_: int = 0,
    lost: Mapping[str, Collection[int]] | None = None,
    random_bytes: RandomBytes = secrets.token_bytes,
) -> Outcome:
    """The sum of the clients' words by the protocol.

    Args:
      words: uint32 [w] by client.
      degree, share, round_: as of `messages.make_setup`.
      lost: by step, the clients whose message of that step never arrives, nor any later one.
      random_bytes: where secrets come from.
    """
    num_words = next(iter(words.values())).size
    order = random.Random(round_)
    setup = make_setup(tuple(words), round_=round_, degree=degree, num_words=num_words, order=order, share=share)
    gone, so_far = {}, set[int]()
    for step in STEPS:
        so_far = so_far | set((lost or {}).get(step, ()))
        gone[step] = so_far

    begun = {u: client.advertise(u, setup, random_bytes) for u in words if u not in gone["advertise"]}
    adverts = [advert for _, advert in begun.values()]

    shared: dict[int, Any] = {}
    for u, known in server.route_adverts(setup, adverts).items():
        if u not in gone["share"]:
            _unless_refused(shared, u, client.share, begun[u][0], known, random_bytes)

    uploaded: dict[int, Any] = {}
    for u, arrived in server.route_shares({u: sealed for u, (_, sealed) in shared.items()}).items():
        if u not in gone["mask"]:
            _unless_refused(uploaded, u, client.mask, shared[u][0], arrived, words[u])
    masked = [message for _, message in uploaded.values()]

    requests, revealed = server.make_requests(setup, shared, masked), dict[int, Any]()
    for u, request in requests.items():
        if u not in gone["reveal"]:
            _unless_refused(revealed, u, client.reveal, uploaded[u][0], request)
    return server.unmask(setup, adverts, requests, masked, revealed.values())


def _unless_refused(results: dict[int, Any], u: int, step: Callable[..., Any], *arguments: Any) -> None:
    """Notes what a client's step returns; a client that refuses it takes no further part."""
    try:
        results[u] = step(*arguments)
    except ProtocolError:
        return
