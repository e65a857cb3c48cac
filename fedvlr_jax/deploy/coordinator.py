"""The rounds of a federation on its server: publish, wait for uploads, aggregate, step; over any transport.

The arithmetic is that of `algorithm.run` with the same cohort: `server.Server` opens and closes a round, the
pipeline's aggregator and transforms join the uploads, in ascending order of users, whenever they came in. With
``secure.sum`` the server gets no upload, but the sum that its aggregator would have formed (`secure_round`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.algorithm import Algorithm
from fedvlr_jax.deploy.client_uploads import ClientUpload
from fedvlr_jax.deploy.export import flat, require_fixed_bound, unflat
from fedvlr_jax.deploy.messages import JOIN, MASK, RANK, ROWS, TRAIN, Message, layout_of
from fedvlr_jax.deploy.partial_rows import with_rows
from fedvlr_jax.deploy.round_report import RoundReport
from fedvlr_jax.deploy.secure_messages import num_words, split_words
from fedvlr_jax.deploy.silo_programs import Sizes, limits_of, puts_noise, shared_settings
from fedvlr_jax.deploy.silos import Silos, Tally, Transport, new_tally
from fedvlr_jax.errors import ConfigError, TrainingError
from fedvlr_jax.evaluation.metrics import TEST, VALID
from fedvlr_jax.federated import sampling
from fedvlr_jax.federated.server import Aggregate
from fedvlr_jax.models.model import Broadcast, Upload
from fedvlr_jax.types import Array, Content, PublicState, PyTree

EMPTY_ROUNDS = 5  # in a row, without any upload or sum, after which the run stops


class Timing(NamedTuple):
    """How long the server waits.

    Attributes:
      round_seconds: for uploads and for metrics; who comes later does not count.
      start_seconds: for users to be there before the first round.
      start_users: how many have to be.
    """

    round_seconds: float = 60.0
    start_seconds: float = 600.0
    start_users: int = 1


class ServerState(NamedTuple):
    """What the server keeps between rounds: the public state, and int32 [u], each user's last round that counted."""

    public: PublicState
    counted_u: Array


def _require_no_simulation(settings: Mapping[str, Any], algorithm: Algorithm) -> None:
    require_fixed_bound(algorithm, "a federation of processes")
    simulated = {
        "secure.dropout": (settings["secure"]["dropout"], "its silos are lost by themselves"),
        "privacy.prior_share": (settings["privacy"]["prior_share"], "no prior is formed in it"),
    }
    for name, (found, reason) in simulated.items():
        if found:
            raise ConfigError(f"{name}: expected 0 in a federation of processes ({reason}), found {found:g}")


class Coordinator:
    """The rounds of one federation."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        algorithm: Algorithm,
        content: Content,
        sizes: Sizes,
        transport: Transport,
        *,
        timing: Timing,
        say: Callable[[str], Any],
    ):
        """A coordinator with silos that were not asked yet.

        Args:
          settings: nested, with all fields.
          algorithm: what they describe.
          content: the features that the server fuses.
          sizes: what silos are told of the catalogue.
          transport: how they are reached.
          timing: how long to wait.
          say: takes a line about what happens.

        Raises:
          ConfigError: for what is there in simulations alone, and where sums are secret and the extra that they need
            is not installed.
        """
        _require_no_simulation(settings, algorithm)
        self.sizes, self._timing, self._say = sizes, timing, say
        self._algorithm, self._content = algorithm, content
        self._shared = {**sizes._asdict(), "settings": shared_settings(settings)}  # what every question says
        self.silos = Silos(transport, Message(JOIN, self._shared, {}), num_users=sizes.num_users, say=say)
        self._key = jax.random.key(settings["seed"])
        self._open, self._add, self._close = (
            jax.jit(f) for f in (algorithm.server.open_round, self._added, self._closed)
        )
        self._words, self._drawn = _drawing(settings, algorithm, sizes.num_users)
        self._bits, self._threshold = settings["secure"]["bits"], settings["secure"]["threshold"]
        self._limits = limits_of(settings, algorithm, sizes.num_items)
        self._empty = 0  # rounds in a row that passed without a step
        self._noised = puts_noise(settings)  # then a silo answers one question about a round, and tells no losses
        self._rows = settings["client"]["download_rows"]
        if settings["secure"]["sum"]:
            from fedvlr_jax.deploy.secure_round import sum_in_secret

            self._sum_in_secret, self._total = sum_in_secret, self._total_in_secret
        else:
            self._total = self._total_of_uploads

    def start(self) -> ServerState:
        """The state before the first round."""
        return ServerState(self._algorithm.init_public(self._key), jnp.full(self.sizes.num_users, -1, jnp.int32))

    def wait_for_users(self) -> None:
        """Returns when enough users are there.

        Raises:
          TrainingError: they did not come in time.
        """
        wanted, end = self._timing.start_users, time.monotonic() + self._timing.start_seconds
        while len(self.silos.users) < wanted:
            if time.monotonic() > end:
                raise TrainingError(
                    f"expected {wanted} users within {self._timing.start_seconds:g} s, found {len(self.silos.users)}"
                    + "".join(f"; node {node}: {why}" for node, why in sorted(self.silos.unjoined.items()))
                )
            self.silos.refresh(self._timing.round_seconds, new_tally())
            if len(self.silos.users) < wanted:
                time.sleep(0.5)

    def round(self, state: ServerState) -> tuple[ServerState, RoundReport]:
        """One round.

        Without any upload it is opened again. What a silo answers once is not asked for twice, a secret sum or an
        upload with its noise: with too few silos left for it, the round passes without a step. A cohort of nobody,
        which Poisson sampling may draw, is a sum of nothing, with the noise of any other.

        Raises:
          TrainingError: after `EMPTY_ROUNDS` rounds in a row without any upload; the state before stays as it was.
        """
        tally, begin, number = new_tally(), time.monotonic(), int(state.public.round)
        cohort = self._drawn(np.asarray(self._words(self._key, state.public.round))).tolist()
        broadcast, pull_back = self._open(state.public, self._content)
        total, users = self._total(state, broadcast, cohort, tally) if cohort else (self._nothing(broadcast), [])
        if total is not None:
            public, update_norm = self._close(state.public, pull_back, total)
            loss = math.nan if self._noised or not users else float(total.loss / total.weight)
        else:
            public, update_norm, loss = state.public.replace(round=state.public.round + 1), 0.0, math.nan
        counted_u = np.asarray(state.counted_u).copy()
        counted_u[users] = number
        missed = [user for user in cohort if user not in set(users)]
        seconds = time.monotonic() - begin
        report = RoundReport(number + 1, loss, float(update_norm), len(cohort), missed, tally, seconds)
        return ServerState(public, jnp.asarray(counted_u)), report

    def rank(self, state: ServerState, *, test: bool, tally: Tally) -> dict[str, dict[str, float | None]]:
        """Validation metrics, and with `test` those of the test items, over all users who are there and answer."""
        self.silos.refresh(self._timing.round_seconds, tally)
        broadcast, _ = self._open(state.public, self._content)
        question = self._question(RANK, broadcast, state, {"round": int(state.public.round), "test": test})
        users = sorted(self.silos.users)
        names, total_tm, users_t = self.silos.rank(question, users, self._timing.round_seconds, tally)
        splits = {"valid": VALID, "test": TEST} if test else {"valid": VALID}
        return {
            split: {name: float(total_tm[t, m] / users_t[t]) if users_t[t] else None for m, name in enumerate(names)}
            for split, t in splits.items()
        }

    def _question(
        self, kind: str, broadcast: Broadcast, state: ServerState, fields: Mapping[str, Any]
    ) -> Callable[[Sequence[int]], Message]:
        """What to ask the silo of some users."""
        sent = {name: np.asarray(x) for name, x in flat(broadcast).items()}
        counted_u = np.asarray(state.counted_u)

        def question(users: Sequence[int]) -> Message:
            user = np.array(users, np.int32)
            return Message(kind, {**self._shared, **fields}, {**sent, "user": user, "counted": counted_u[user]})

        return question

    def _total_of_uploads(
        self, state: ServerState, broadcast: Broadcast, cohort: Sequence[int], tally: Tally
    ) -> tuple[Aggregate | None, list[int]]:
        """The sums over a cohort from its uploads, one by one; and who is in them."""
        number = int(state.public.round)
        whole = self._question(TRAIN, broadcast, state, {"round": number})
        for _ in range(1 if self._noised else EMPTY_ROUNDS):
            self.silos.refresh(self._timing.round_seconds, tally)
            question, users = whole, cohort
            if self._rows:
                ids = self._asked_rows(state, cohort, tally)
                question, users = with_rows(whole, ids), list(ids)
            uploads = self.silos.train(question, users, self._timing.round_seconds, tally, self._limits)
            if uploads:
                self._empty = 0
                return self._aggregate(broadcast, uploads, len(cohort)), list(uploads)
            goes_on = "passes without a step" if self._noised else "is opened again"
            self._say(f"round {number}: no upload of {len(cohort)} clients counts; the round {goes_on}")
            self._count_empty(number, "uploads")
        return None, []

    def _count_empty(self, number: int, expected: str) -> None:
        """Counts a round without anything to step by; too many in a row end the run."""
        self._empty += 1
        if self._empty >= EMPTY_ROUNDS:
            raise TrainingError(f"round {number}: expected {expected}, found none in {EMPTY_ROUNDS} rounds in a row")

    def _asked_rows(self, state: ServerState, cohort: Sequence[int], tally: Tally) -> dict[int, np.ndarray]:
        """By user the items whose rows its silo asks for."""
        question = self._question(ROWS, Broadcast({}, {}), state, {"round": int(state.public.round)})
        sizes = {"each": self._rows, "num_items": self.sizes.num_items}
        return self.silos.rows(question, cohort, self._timing.round_seconds, tally, **sizes)

    def _total_in_secret(
        self, state: ServerState, broadcast: Broadcast, cohort: Sequence[int], tally: Tally
    ) -> tuple[Aggregate | None, list[int]]:
        """The same sums without any upload, None where too few silos are left for one."""
        number = int(state.public.round)
        self.silos.refresh(self._timing.round_seconds, tally)
        words, users = self._sum_in_secret(
            self.silos,
            self._question(MASK, broadcast, state, {"round": number}),
            cohort,
            round_=number,
            num_words=num_words(layout_of(flat(broadcast))),
            threshold=self._threshold,
            seconds=self._timing.round_seconds,
            tally=tally,
        )
        if users:
            self._empty = 0
        else:
            self._count_empty(number, "a sum")
        if words is None:
            return None, []
        carry, loss = split_words(words, broadcast, self._bits)
        numbers = (jnp.float32(len(users)), jnp.float32(loss), jnp.zeros((), jnp.int32))
        return Aggregate(carry, *numbers), list(users)

    def _aggregate(self, broadcast: Broadcast, uploads: Mapping[int, ClientUpload], num_slots: int) -> Aggregate:
        total = self._nothing(broadcast, num_slots)
        for user in sorted(uploads):
            total = self._add(total, *_padded(uploads[user], broadcast, self.sizes.num_items))
        return total

    def _nothing(self, broadcast: Broadcast, num_slots: int = 1) -> Aggregate:
        carry = self._algorithm.pipeline.aggregator.init(broadcast, num_slots)
        return Aggregate(carry, jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32))

    def _added(self, total: Aggregate, upload: Upload, alpha: Array, loss: Array) -> Aggregate:
        """The sums with one more client; an aggregator takes chunks of them."""
        chunk, alpha_c = jax.tree.map(lambda x: x[None], (upload, alpha))
        carry = self._algorithm.pipeline.aggregator.add(total.carry, chunk, alpha_c)
        return Aggregate(carry, total.weight + alpha, total.loss + alpha * loss, total.num_dropped)

    def _closed(self, public: PublicState, pull_back: PyTree, total: Aggregate) -> tuple[PublicState, Array]:
        mean = self._algorithm.pipeline.mean(total, self._algorithm.clients_per_round, self._key, public.round)
        return self._algorithm.server.close_round(public, pull_back, mean)


def _drawing(
    settings: Mapping[str, Any], algorithm: Algorithm, num_users: int
) -> tuple[Callable[[Array, Array], Array], Callable[[np.ndarray], np.ndarray]]:
    """How a cohort is drawn, as `make_round` does: ``(key, round) -> words``, and whom they name, ascending."""
    size = algorithm.clients_per_round
    if settings["server"]["sampling"] != "poisson":
        return jax.jit(algorithm.cohort_words), lambda words: sampling.cohort_ids(words, size)

    def mask(key: Array, round_: Array) -> Array:
        return sampling.poisson_mask(sampling.stream(key, sampling.COHORT, round_), num_users, size / num_users)

    return jax.jit(mask), np.flatnonzero


def _padded(upload: ClientUpload, like: Broadcast, num_items: int) -> tuple[Upload, Array, Array]:
    """An upload with as many rows as the next power of four, so that few widths are compiled; its weight and loss."""
    width = 16
    while width < len(upload.ids_n):
        width *= 4
    more = width - len(upload.ids_n)
    rows = {name: np.pad(x, [(0, more)] + [(0, 0)] * (x.ndim - 1)) for name, x in upload.rows.items()}
    ids_n = np.pad(upload.ids_n, (0, more), constant_values=num_items)
    tree = unflat(like, {**rows, **upload.head})
    numbers = jnp.float32(upload.alpha), jnp.float32(upload.loss)
    return Upload(jnp.asarray(ids_n), tree.rows, tree.head), *numbers
