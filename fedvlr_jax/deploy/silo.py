"""One place with one or several users: it trains and ranks them when the server asks, and keeps what is private.

A silo needs the settings, its users' interactions, and from the server the sizes of the catalogue; it needs no
features. What leaves it are the numbers of its users, their uploads, and sums of metrics over them. Where sums are
secret (``secure.sum``), it sends the sum of its users' uploads under masks, and never an upload.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.deploy.answered import Answered, digests_of
from fedvlr_jax.deploy.export import flat, unflat
from fedvlr_jax.deploy.messages import (
    ADVERTISE,
    JOIN,
    MASK,
    RANK,
    REVEAL,
    ROWS,
    SHARE,
    TASK_LAYOUT,
    TRAIN,
    Layout,
    Message,
    layout_of,
    refusal,
    require_layout,
    whole_number,
)
from fedvlr_jax.deploy.partial_rows import (
    make_order,
    num_rows,
    partial_layout,
    put_back,
    require_enough,
    rows_to_ask,
)
from fedvlr_jax.deploy.people import Person, bucketed, padded, targets_of
from fedvlr_jax.deploy.secure_messages import SEALED, num_words
from fedvlr_jax.deploy.silo_programs import (
    Programs,
    Sizes,
    make_programs,
    puts_noise,
    require_same_settings,
    shared_settings,
)
from fedvlr_jax.deploy.states import Arrays, States
from fedvlr_jax.errors import MessageError, UserError
from fedvlr_jax.evaluation.metrics import CUTOFFS, METRICS, SET_METRICS, TEST, VALID, user_values
from fedvlr_jax.federated import sampling
from fedvlr_jax.federated.executors import client_weights
from fedvlr_jax.federated.scoring import Snapshot
from fedvlr_jax.models.model import Upload
from fedvlr_jax.types import Array, PyTree

METRIC_NAMES = tuple(f"{name}@{k}" for name in (*METRICS, *SET_METRICS) for k in CUTOFFS)


def silo_key(seed: int) -> Array:
    """The key of a seed of up to 64 bits; below 2^32 it is that of a simulation with this seed."""
    return jax.random.wrap_key_data(jnp.asarray([seed >> 32, seed & 0xFFFFFFFF], jnp.uint32))


class Silo:
    """Answers the messages of a server; see `messages`. Compiled programs and states stay in memory between them."""

    def __init__(
        self, settings: Mapping[str, Any], people: Mapping[int, Person], states: States, *, key: Array, name: str
    ):
        """A silo.

        Args:
          settings: nested, with all fields.
          people: its users, by their number in the federation.
          states: where private states are kept.
          key: of everything random in this silo: first states, draws, client halves of upload transforms.
          name: tells this silo from others that claim the same users.

        Raises:
          ConfigError: sums are secret, and the extra that they need is not installed; or notes of what was answered
            cannot be read.
        """
        self._settings, self._people, self._states, self._key, self._name = settings, people, states, key, name
        self._programs: Programs | None = None
        self._noised, self._answered = puts_noise(settings), Answered(states.folder)
        self._each = settings["client"]["download_rows"]  # rows that a user asks for, 0 for all
        rows = {ROWS: self._rows} if self._each else {}
        self._answers = {JOIN: self._join, **rows, TRAIN: self._train, RANK: self._rank}
        if settings["secure"]["sum"]:
            from fedvlr_jax.deploy.secure_silo import Participant

            self._part = part = Participant(settings["secure"]["bits"], self._answered)
            steps = {ADVERTISE: self._advertise, SHARE: part.share, MASK: self._mask, REVEAL: part.reveal}
            self._answers = {JOIN: self._join, **steps, RANK: self._rank}

    def answer(self, question: Message) -> Message:
        """The answer to a question; one of kind "refused", which says why, where there is none."""
        try:
            if question.kind not in self._answers:
                raise MessageError(f"message: expected one of {', '.join(self._answers)}, found {question.kind!r}")
            return self._answers[question.kind](question)
        except UserError as error:
            return refusal(str(error))

    def _join(self, question: Message) -> Message:
        num_items = self._prepared(question).sizes.num_items
        histories = (person.history for person in self._people.values())
        require_enough(self._settings["client"], histories, num_items)
        return Message(JOIN, {"silo": self._name}, {"user": np.array(sorted(self._people), np.int32)})

    def _rows(self, question: Message) -> Message:
        programs = self._prepared(question)
        require_layout(question.arrays, TASK_LAYOUT, ROWS)
        users, num_items = [user for user, _ in self._asked(question)], programs.sizes.num_items
        size = num_rows(len(users), self._each, num_items)
        pairs = [(self._history(user, num_items), self._keys(question, user)[0]) for user in users]
        touched = jax.device_get([programs.touched(jnp.asarray(history_l), key) for history_l, key in pairs])
        ids = rows_to_ask([x[x < num_items] for x in touched], size, make_order(self._key, num_items))
        return Message(ROWS, {"round": question.fields["round"]}, {"ids": ids})

    def _prepared(self, question: Message) -> Programs:
        """The programs for the settings and sizes of a server, which every question has, for workers start anew."""
        sizes = Sizes(*(whole_number(question, name) for name in Sizes._fields))
        require_same_settings(shared_settings(self._settings), question.fields.get("settings"))
        for user, person in self._people.items():
            last = np.concatenate(person).max(initial=0)
            if not 0 <= user < sizes.num_users or last >= sizes.num_items:
                raise MessageError(
                    f"{question.kind}: expected user {user} of this silo and its item {last} to be among the "
                    f"server's, found {sizes.num_users} users and {sizes.num_items} items there"
                )
        if self._programs is None or self._programs.sizes != sizes:
            self._programs = make_programs(self._settings, sizes)
        return self._programs

    def _train(self, question: Message) -> Message:
        programs, broadcast, asked = self._opened(question)
        if self._noised:
            self._answer_once(question)
        uploads = [
            self._sent(programs, user, upload, loss)
            for user, upload, loss, _ in self._trained(question, programs, broadcast, asked)
        ]
        arrays = {k: np.concatenate([sent[k] for sent in uploads]) for k in uploads[0]}
        return Message(TRAIN, {"round": question.fields["round"]}, arrays)

    def _answer_once(self, question: Message) -> None:
        """Refuses a second question about a round, and rounds that the noise was not solved for."""
        round_, rounds = whole_number(question, "round"), self._settings["rounds"]
        if round_ >= rounds:
            raise MessageError(f"{question.kind}: round: expected one below {rounds}, found {round_}")
        self._answered.note(round_, digests_of(question, {u: x.history for u, x in self._people.items()}))

    def _advertise(self, question: Message) -> Message:
        return self._part.advertise(question, num_words(self._prepared(question).layout))

    def _mask(self, question: Message) -> Message:
        programs, broadcast, asked = self._opened(question, SEALED)
        total = programs.algorithm.pipeline.aggregator.init(broadcast, 1)
        losses: dict[int, np.ndarray] = {}
        for user, upload, loss, alive in self._trained(question, programs, broadcast, asked):
            if alive:
                total, losses[user] = programs.add(total, upload), loss
        return self._part.mask(question, total, losses)

    def _trained(
        self, question: Message, programs: Programs, broadcast: PyTree, asked: list[tuple[int, int]]
    ) -> Iterator[tuple[int, Upload, np.ndarray, bool]]:
        """Trains users for a round: each with its upload, its loss, and whether all of that is finite."""
        round_ = whole_number(question, "round")
        for user, counted in asked:
            own = self._keys(question, user)
            state = unflat(programs.private, self._state(programs, user, counted))
            history_l = self._history(user, programs.sizes.num_items)
            moved, upload, loss = jax.device_get(programs.train(broadcast, state, history_l, *own, jnp.int32(round_)))
            alive = all(np.isfinite(x).all() for x in (loss, *jax.tree.leaves((upload.rows, upload.head))))
            ended = moved if alive else state  # what is not finite moves nothing, here or on the server
            self._states.put(user, round_, flat(ended), keep=counted)
            yield user, upload, loss, alive

    def _keys(self, question: Message, user: int) -> list[Array]:
        """A user's keys of a round for its draws, and for its half of upload transforms."""
        streams = (
            sampling.stream(self._key, purpose, whole_number(question, "round"))
            for purpose in (sampling.CLIENT, sampling.TRANSFORM)
        )
        return [sampling.entity_keys(key, jnp.asarray([user]))[0] for key in streams]

    def _history(self, user: int, num_items: int) -> np.ndarray:
        return padded(self._people[user].history, num_items)

    def _rank(self, question: Message) -> Message:
        programs, broadcast, asked = self._opened(question)
        users, sizes = [user for user, _ in asked], programs.sizes
        targets = targets_of(self._people, users, sizes.num_users, test=bool(question.fields.get("test")))
        states = [unflat(programs.private, self._state(programs, *pair)) for pair in asked]
        private = jax.tree.map(lambda *x: np.stack(x), *states)
        buckets = bucketed(self._people, users, sizes.num_items)
        params = Snapshot(broadcast, private, self._key, jnp.int32(whole_number(question, "round")))
        ranks = jax.device_get(programs.rank(params, buckets, targets))
        values = [[user_values(ranks, name, split=t) for name in METRIC_NAMES] for t in (VALID, TEST)]
        return Message(
            RANK,
            {"metrics": list(METRIC_NAMES), "several": ranks.user is not None},
            {
                "sum": np.array([[x.sum() for x in row] for row in values], np.float64).reshape(2, -1),
                "users": np.array([row[0].size for row in values], np.int32),
            },
        )

    def _opened(
        self, question: Message, more: Layout | None = None
    ) -> tuple[Programs, PyTree, list[tuple[int, int]]]:
        """What a question about users needs: programs, the broadcast, pairs of user and last counted round."""
        programs = self._prepared(question)
        partial = self._each and question.kind == TRAIN
        layout = partial_layout(programs.layout) if partial else programs.layout
        require_layout(question.arrays, {**layout, **TASK_LAYOUT, **(more or {})}, question.kind)
        asked = self._asked(question)
        arrays = put_back(question.arrays, programs.layout) if partial else question.arrays
        return programs, unflat(programs.broadcast, arrays), asked

    def _asked(self, question: Message) -> list[tuple[int, int]]:
        """The users that a question is about, each with its last counted round."""
        asked = list(zip(*(question.arrays[name].tolist() for name in TASK_LAYOUT), strict=True))
        strange = sorted({user for user, _ in asked} - set(self._people))
        if strange or not asked:
            raise MessageError(f"{question.kind}: expected users of this silo, found {strange or 'none'}")
        return asked

    def _state(self, programs: Programs, user: int, counted: int) -> Arrays:
        """The private state of a user after the last round that counted."""
        if counted < 0:
            fresh = programs.algorithm.init_clients(self._key, jnp.asarray([user]))
            return flat(jax.tree.map(lambda x: np.asarray(x)[0], fresh))
        state = self._states.get(user, counted)
        if state is None:
            raise MessageError(
                f"user {user}: expected the private state after round {counted}, found those after rounds "
                f"{self._states.rounds(user)}; was the folder of states lost, or is it that of another run?"
            )
        require_layout(state, layout_of(flat(programs.private)), f"private state of user {user}")
        return state

    def _sent(self, programs: Programs, user: int, upload: Upload, loss: np.ndarray) -> Arrays:
        """What is sent for one client; padding is not."""
        num_items, length = programs.sizes.num_items, len(self._people[user].history)
        ids = np.arange(num_items, dtype=np.int32) if upload.ids_n is None else upload.ids_n
        real = ids < num_items
        rows = {name: x[real] for name, x in flat({"rows": upload.rows}).items()}
        head = {name: x[None] for name, x in flat({"head": upload.head}).items()}
        model, transform = programs.algorithm.model, programs.algorithm.pipeline.transform
        alpha = float(client_weights(model, transform, jnp.float32(length)))
        told = 0 * loss if self._noised else loss  # the noise is not on it; what is not finite stays so
        numbers = {"user": np.int32(user), "count": np.int32(real.sum()), "alpha": np.float32(alpha), "loss": told}
        return {**rows, **head, "ids": ids[real], **{name: np.asarray(x)[None] for name, x in numbers.items()}}
