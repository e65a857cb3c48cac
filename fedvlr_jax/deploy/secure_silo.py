"""A silo's part in secure sums: what it holds between the messages of a round is in memory alone.

It is never in a message, and never on disk: a silo that is started again in the middle of a round is lost for that
round. It answers for one sum a round: two sums of a round that differ in one silo would give that silo's words away.
So what is on disk is the number of the last round whose words went out.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from fedvlr_jax.deploy.answered import Answered
from fedvlr_jax.deploy.messages import ADVERTISE, MASK, REVEAL, SHARE, Message, whole_number
from fedvlr_jax.deploy.secure_messages import (
    join_words,
    of_advert,
    of_revealed,
    of_shares,
    to_adverts,
    to_request,
    to_setup,
    to_shares,
)
from fedvlr_jax.errors import MessageError
from fedvlr_jax.models.model import Broadcast
from fedvlr_jax.secure_sum import client
from fedvlr_jax.secure_sum.client import Advertised, Shared, Uploaded
from fedvlr_jax.secure_sum.primitives import RandomBytes

Step = TypeVar("Step", Advertised, Shared, Uploaded)


class Participant:
    """One silo in the secure sums of a federation; its methods answer the questions of `secure_messages`."""

    def __init__(self, bits: int, answered: Answered, random: RandomBytes = secrets.token_bytes):
        """A silo that was asked nothing yet.

        Args:
          bits: of one number, ``secure.bits``.
          answered: notes of the rounds that were summed.
          random: where its secrets come from.
        """
        self._bits, self._answered, self._random = bits, answered, random
        self._round = -1
        self._held: Advertised | Shared | Uploaded | None = None

    def advertise(self, question: Message, num_words: int) -> Message:
        """Begins a round, whatever was under way; `num_words` is the length of the vectors that are added.

        Raises:
          MessageError: as `to_setup`, and for a round that was summed or came before one that was.
        """
        round_ = whole_number(question, "round")
        own, setup = to_setup(question, round_, num_words)
        self._answered.require_unsummed(round_)
        self._round = round_
        self._held, advert = client.advertise(own, setup, self._random)
        return Message(ADVERTISE, {"round": round_}, of_advert(advert))

    def share(self, question: Message) -> Message:
        """Shares of this silo's secrets, sealed for its neighbours."""
        state = self._take(question, Advertised)
        self._held, shares = client.share(state, to_adverts(question), self._random)
        return Message(SHARE, {"round": self._round}, of_shares(shares, sent=True))

    def mask(self, question: Message, total: Broadcast, loss_of: Mapping[int, np.ndarray]) -> Message:
        """A sum of uploads in words under masks; the users whose uploads and losses are in it are told."""
        state = self._take(question, Shared)
        words = join_words(total, loss_of.values(), self._bits)
        self._answered.note_sum(self._round)  # before they go out
        arrived = to_shares(state.before.client, question, sent=False)
        self._held, masked = client.mask(state, arrived, words)
        users = np.array(list(loss_of), np.int32)
        return Message(MASK, {"round": self._round}, {"words": masked.words, "user": users})

    def reveal(self, question: Message) -> Message:
        """The shares with which the server takes masks off the sum."""
        state, request = self._take(question, Uploaded), to_request(question)
        revealed = client.reveal(state, request)
        return Message(REVEAL, {"round": self._round}, of_revealed(revealed, request))

    def _take(self, question: Message, step: type[Step]) -> Step:
        """What this silo holds after the step before; a step is taken once.

        Raises:
          MessageError: another round, or another step, is under way.
        """
        held, round_ = self._held, whole_number(question, "round")
        if round_ != self._round or not isinstance(held, step):
            raise MessageError(
                f"{question.kind}: expected round {round_} under way in this silo and the step before taken, found "
                "otherwise; was it started again in the middle of the round?"
            )
        self._held = None
        return held
