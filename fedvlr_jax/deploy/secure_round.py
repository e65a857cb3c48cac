"""The server's part in a secure sum: four questions to the silos of a round, any of which may go unanswered.

What is hard about it: a silo may be lost between any two questions. Who was lost before its words were masked is left
out; who shared its secrets and sent no words is uncovered by its neighbours' shares of its masking key; who sent its
words and was lost afterwards is in the sum, by its neighbours' shares of its seed. With too few left there is no sum,
and nobody's words can be read.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from fedvlr_jax.deploy.messages import ADVERTISE, MASK, REVEAL, SHARE, Message
from fedvlr_jax.deploy.secure_messages import (
    of_adverts,
    of_request,
    of_setup,
    of_shares,
    to_advert,
    to_masked,
    to_revealed,
    to_sent,
)
from fedvlr_jax.deploy.silos import Silos, Tally
from fedvlr_jax.errors import MessageError
from fedvlr_jax.secure_sum import server
from fedvlr_jax.secure_sum.messages import ProtocolError, make_setup

FEWEST = 3  # silos of a sum
NEIGHBOURS = 100  # of a silo; all others where there are not more

Read = TypeVar("Read")


class SecretSum(NamedTuple):
    """The words of all silos whose words arrived, uint32 [w], None without a sum; and the users who are in them."""

    words: np.ndarray | None
    users: tuple[int, ...]


class _Asked(NamedTuple):
    """The silos of one round; a client of the protocol is its place in `nodes`."""

    silos: Silos
    task: Callable[[Sequence[int]], Message]
    by_node: Mapping[int, Sequence[int]]
    nodes: Sequence[int]
    seconds: float
    tally: Tally

    def users(self, client: int) -> Sequence[int]:
        """The users of the cohort that a silo has."""
        return self.by_node[self.nodes[client]]

    def ask(
        self, kind: str, arrays_of: Mapping[int, Mapping[str, np.ndarray]], read: Callable[[int, Message], Read]
    ) -> dict[int, Read]:
        """By client, what `read` finds in its answer; who does not answer, or not as expected, is counted."""
        sent, found = {}, {}
        for client, arrays in arrays_of.items():
            task = self.task(self.users(client))
            both = {**task.arrays, **arrays} if kind == MASK else arrays
            sent[self.nodes[client]] = Message(kind, task.fields, both)
        weight = {node: len(users) for node, users in self.by_node.items()}
        answers = self.silos.ask(sent, kind, self.seconds, self.tally, weight)
        for client, node in enumerate(self.nodes):
            if node in answers:
                try:
                    found[client] = read(client, answers[node])
                except (MessageError, ProtocolError) as error:
                    self.silos.fault(self.tally, "misfit", f"node {node}: {error}", weight[node])
        return found


def sum_in_secret(
    silos: Silos,
    task: Callable[[Sequence[int]], Message],
    cohort: Sequence[int],
    *,
    round_: int,
    num_words: int,
    threshold: float,
    seconds: float,
    tally: Tally,
) -> SecretSum:
    """One secure sum over the silos of a cohort.

    Args:
      silos: that are there.
      task: what to train some users with; its fields go with every question.
      cohort: users.
      round_: number of the round.
      num_words: of a silo.
      threshold: share of a silo's neighbours that takes masks off, ``secure.threshold``.
      seconds: that each of the four questions waits for answers.
      tally: takes faults and bytes.
    """
    by_node = silos.by_node(cohort, tally)
    asked = _Asked(silos, task, by_node, sorted(by_node), seconds, tally)
    places = range(len(asked.nodes))
    if len(places) < FEWEST:
        found = f"expected clients in {FEWEST} silos or more, found {len(places)}; fewer would see through the sum"
        silos.fault(tally, "unsummed", f"round {round_}: {found}", sum(map(len, by_node.values())))
        return SecretSum(None, ())
    order = random.Random(round_)
    setup = make_setup(places, round_=round_, degree=NEIGHBOURS, num_words=num_words, order=order, share=threshold)
    to_each = {u: of_setup(setup, u) for u in places}
    adverts = tuple(asked.ask(ADVERTISE, to_each, lambda u, answer: server.usable(to_advert(u, answer))).values())
    shared = asked.ask(
        SHARE,
        {u: of_adverts(known) for u, known in server.route_adverts(setup, adverts).items()},
        lambda u, answer: to_sent(u, answer, setup.neighbours[u]),
    )
    uploaded = asked.ask(
        MASK,
        {u: of_shares(arrived, sent=False) for u, arrived in server.route_shares(shared).items()},
        lambda u, answer: to_masked(u, answer, num_words, asked.users(u)),
    )
    if not uploaded:
        return SecretSum(None, ())
    masked = [words for words, _ in uploaded.values()]
    requests = server.make_requests(setup, shared, masked)
    revealed = asked.ask(
        REVEAL,
        {u: of_request(request) for u, request in requests.items()},
        lambda u, answer: to_revealed(u, answer, requests[u]),
    )
    total = server.unmask(setup, adverts, requests, masked, revealed.values()).total
    users = tuple(sorted(user for _, found in uploaded.values() for user in found))
    if total is None:
        left = f"{len(revealed)} of {len(places)} silos were left to take the masks off"
        silos.fault(tally, "unsummed", f"round {round_}: {left}, which are too few", len(users))
        return SecretSum(None, ())
    return SecretSum(total, users)
