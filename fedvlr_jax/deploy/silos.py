"""Which silo has which users, and what came back from them in a round: every fault is counted, none stops a round."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from fedvlr_jax.deploy.client_uploads import ClientUpload, Limits, fault_of
from fedvlr_jax.deploy.messages import (
    JOIN,
    RANK,
    REFUSED,
    ROWS,
    TRAIN,
    Message,
    Spec,
    layout_of,
    num_bytes,
    require_layout,
    upload_layout,
)
from fedvlr_jax.deploy.partial_rows import asked_rows, num_rows
from fedvlr_jax.errors import MessageError
from fedvlr_jax.evaluation.metrics import SET_METRICS

FAULTS = ("absent", "late", "failed", "refused", "misfit", "repeated", "nonfinite", "claimed", "unsummed")
"""What is counted, in clients: their silo is not there, did not answer in time, could not be reached, refused, sent
what does not fit, answered twice; their upload is not finite; another silo claims them; too few others were left to
take the masks off their sum."""


class Failure(NamedTuple):
    """What a transport gives in place of an answer: one of `FAULTS`, and why."""

    fault: str
    reason: str


class Transport(Protocol):
    """How messages travel. Nodes are numbers; one node is one silo, until it goes and comes back as another."""

    def nodes(self) -> Sequence[int]:
        """The nodes that are there now."""

    def exchange(self, questions: Mapping[int, Message], seconds: float) -> Iterable[tuple[int, Message | Failure]]:
        """Asks nodes, and gives what they answer within so many seconds, in any order, possibly several times."""


class Tally(NamedTuple):
    """What a round counts: faults by name, and bytes of arrays down and up."""

    faults: collections.Counter[str]
    size: collections.Counter[str]


class Silos:
    """The silos of a federation, as the server sees them."""

    def __init__(self, transport: Transport, join: Message, *, num_users: int, say: Callable[[str], Any]):
        """Silos that nobody asked yet.

        Args:
          transport: how to reach them.
          join: what they are told first.
          num_users: |U|.
          say: takes a line about each fault.
        """
        self._transport, self._join, self._num_users, self._say = transport, join, num_users, say
        self._node_of: dict[int, int] = {}  # of a user
        self._asked: set[int] = set()
        self._owner_of: dict[int, str] = {}  # the first silo that came with a user
        self.unjoined: dict[int, str] = {}  # by node, why it was not taken when it was asked last

    @property
    def users(self) -> set[int]:
        """The users whose silos are there."""
        return set(self._node_of)

    def refresh(self, seconds: float, tally: Tally) -> None:
        """Forgets nodes that went, and asks new ones who they are, for so many seconds at most."""
        here = set(self._transport.nodes())
        self._asked &= here
        self._node_of = {user: node for user, node in self._node_of.items() if node in here}
        self.unjoined = {node: why for node, why in self.unjoined.items() if node in here}
        new = sorted(here - self._asked)
        if not new:
            return
        self._asked |= set(new)
        answers = self.ask(dict.fromkeys(new, self._join), JOIN, seconds, tally)
        for node, answer in sorted(answers.items()):
            try:
                require_layout(answer.arrays, {"user": Spec(("c",), "int32")}, "join")
                self._take(node, str(answer.fields.get("silo")), answer.arrays["user"].tolist(), tally)
            except MessageError as error:
                self.fault(tally, "misfit", f"node {node}: {error}")

    def train(
        self,
        question: Callable[[Sequence[int]], Message],
        users: Iterable[int],
        seconds: float,
        tally: Tally,
        limits: Limits,
    ) -> dict[int, ClientUpload]:
        """The uploads of some users that came in time, fit and are within the limits, by user; `question` makes what
        to ask a silo.
        """
        uploads: dict[int, ClientUpload] = {}
        for node, answer, sent, asked in self._ask_users(question, users, TRAIN, seconds, tally):
            try:
                found = _split(answer, sent, set(asked))
            except MessageError as error:
                self.fault(tally, "misfit", f"node {node}: {error}", len(asked))
                continue
            for user, upload in found.items():
                if wrong := fault_of(upload, limits):
                    self.fault(tally, wrong[0], f"user {user}: {wrong[1]}")
                else:
                    uploads[user] = upload
        return uploads

    def rows(
        self,
        question: Callable[[Sequence[int]], Message],
        users: Iterable[int],
        seconds: float,
        tally: Tally,
        *,
        each: int,
        num_items: int,
    ) -> dict[int, np.ndarray]:
        """By user the items whose rows its silo asks for, `each` for every user that it has among them."""
        ids: dict[int, np.ndarray] = {}
        for node, answer, _, asked in self._ask_users(question, users, ROWS, seconds, tally):
            try:
                ids |= dict.fromkeys(asked, asked_rows(answer, num_rows(len(asked), each, num_items), num_items))
            except MessageError as error:
                self.fault(tally, "misfit", f"node {node}: {error}", len(asked))
        return ids

    def rank(
        self, question: Callable[[Sequence[int]], Message], users: Iterable[int], seconds: float, tally: Tally
    ) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Sums of metrics over some users: their names, float64 [t, m], and int64 [t], the users they are sums of.

        `SET_METRICS` are among them where some user has several held-out rows in a split.
        """
        names: list[str] = []
        total, count, several = np.zeros((2, 0)), np.zeros(2, np.int64), False
        for node, answer, _, asked in self._ask_users(question, users, RANK, seconds, tally):
            try:
                require_layout(answer.arrays, {"sum": Spec((2, "m"), "float64"), "users": Spec((2,), "int32")}, RANK)
                named = list(answer.fields.get("metrics", []))
                if (names and named != names) or len(named) != answer.arrays["sum"].shape[1]:
                    raise MessageError(f"rank: expected the metrics {names}, found {named}")
            except MessageError as error:
                self.fault(tally, "misfit", f"node {node}: {error}", len(asked))
                continue
            total = answer.arrays["sum"] + (total if names else 0)
            names, count = named, count + answer.arrays["users"]
            several = several or bool(answer.fields.get("several"))
        shown = [k for k, name in enumerate(names) if several or name.partition("@")[0] not in SET_METRICS]
        return [names[k] for k in shown], total[:, shown], count

    def by_node(self, users: Iterable[int], tally: Tally) -> dict[int, list[int]]:
        """Some users by the node of their silo; who is not there is counted."""
        found: dict[int, list[int]] = {}
        for user in users:
            if user in self._node_of:
                found.setdefault(self._node_of[user], []).append(user)
            else:
                tally.faults["absent"] += 1
        return found

    def _ask_users(
        self,
        question: Callable[[Sequence[int]], Message],
        users: Iterable[int],
        kind: str,
        seconds: float,
        tally: Tally,
    ) -> list[tuple[int, Message, Mapping[str, np.ndarray], list[int]]]:
        """Asks the silos of some users; (node, answer, what was sent, users) by ascending node."""
        by_node = self.by_node(users, tally)
        questions = {node: question(asked) for node, asked in by_node.items()}
        answers = self.ask(questions, kind, seconds, tally, {node: len(asked) for node, asked in by_node.items()})
        return [(node, answer, questions[node].arrays, by_node[node]) for node, answer in sorted(answers.items())]

    def ask(
        self,
        questions: Mapping[int, Message],
        kind: str,
        seconds: float,
        tally: Tally,
        weight: Mapping[int, int] | None = None,
    ) -> dict[int, Message]:
        """The first fitting answer of every node; what goes wrong is counted, by default once a node."""
        weight = weight or dict.fromkeys(questions, 1)
        tally.size["down"] += sum(num_bytes(message.arrays) for message in questions.values())
        answers: dict[int, Message] = {}
        failed: set[int] = set()
        for node, answer in self._transport.exchange(questions, seconds):
            if node not in questions:
                continue
            if node in answers or node in failed:
                self.fault(tally, "repeated", f"node {node}: a second answer", weight[node])
                continue
            answer = _checked(answer, kind)
            if isinstance(answer, Failure):
                failed.add(node)
                self._missed(node, kind, answer.fault, answer.reason, tally, weight[node])
            else:
                tally.size["up"] += num_bytes(answer.arrays)
                answers[node] = answer
        for node in questions.keys() - answers.keys() - failed:
            self._missed(node, kind, "late", f"no answer to {kind} within {seconds:g} s", tally, weight[node])
        if kind == JOIN:  # who did not answer is asked again
            self._asked -= questions.keys() - answers.keys()
            self.unjoined = {node: why for node, why in self.unjoined.items() if node not in answers}
        return answers

    def _take(self, node: int, name: str, users: Sequence[int], tally: Tally) -> None:
        """Notes whom a node has. A silo may come back as another node; a user of another silo stays where it was."""
        for user in users:
            owner = self._owner_of.setdefault(user, name)
            if not 0 <= user < self._num_users:
                self.fault(tally, "misfit", f"node {node}: expected users below {self._num_users}, found {user}")
            elif owner != name:
                self.fault(
                    tally, "claimed", f"user {user}: expected in silo {owner} alone, found in silo {name} as well"
                )
            else:
                self._node_of[user] = node

    def _missed(self, node: int, kind: str, fault: str, reason: str, tally: Tally, count: int) -> None:
        """Counts a question without an answer. A node is asked to join again and again: its reason is said once."""
        if kind == JOIN and self.unjoined.get(node) == reason:
            tally.faults[fault] += count
            return
        self.unjoined |= {node: reason} if kind == JOIN else {}
        self.fault(tally, fault, f"node {node}: {reason}", count)

    def fault(self, tally: Tally, fault: str, reason: str, count: int = 1) -> None:
        """Counts a fault of some clients, and says why."""
        tally.faults[fault] += count
        self._say(f"{fault}: {reason}")


def new_tally() -> Tally:
    """A tally of nothing."""
    return Tally(collections.Counter(), collections.Counter())


def _checked(answer: Message | Failure, kind: str) -> Message | Failure:
    """The answer, if it is one to such a question; its arrays are not looked at."""
    if isinstance(answer, Message) and answer.kind == REFUSED:
        return Failure("refused", str(answer.fields.get("reason")))
    if isinstance(answer, Message) and answer.kind != kind:
        return Failure("misfit", f"expected an answer to {kind}, found one to {answer.kind!r}")
    return answer


def _split(answer: Message, sent: Mapping[str, np.ndarray], asked: set[int]) -> dict[int, ClientUpload]:
    """The uploads of an answer by user, given what was sent.

    Raises:
      MessageError: arrays that do not fit, users that were not asked or come twice, items out of range or order, or
        whose rows were not sent.
    """
    arrays, broadcast = answer.arrays, layout_of({k: x for k, x in sent.items() if k.startswith(("rows", "head"))})
    require_layout(arrays, upload_layout(broadcast), TRAIN)
    users, ends = arrays["user"].tolist(), np.cumsum(arrays["count"], dtype=np.int64).tolist()
    if len(set(users)) < len(users) or not set(users) <= asked:
        raise MessageError(f"train: user: expected some of {sorted(asked)}, each once, found {users}")
    if (arrays["count"] < 0).any() or (ends[-1] if ends else 0) != len(arrays["ids"]):
        raise MessageError(
            f"train: count: expected numbers of rows that add up to {len(arrays['ids'])}, found others"
        )
    known = sent.get("ids", np.arange(min((len(x) for k, x in sent.items() if k.startswith("rows/")), default=0)))
    uploads = {}
    for c, (user, begin, end) in enumerate(zip(users, [0, *ends], ends, strict=False)):
        ids_n = arrays["ids"][begin:end]
        if not np.isin(ids_n, known).all() or (np.diff(ids_n) <= 0).any():
            raise MessageError(f"train: ids of user {user}: expected distinct items that were sent, ascending")
        rows = {name: arrays[name][begin:end] for name in broadcast if name.startswith("rows/")}
        head = {name: arrays[name][c] for name in broadcast if not name.startswith("rows/")}
        uploads[user] = ClientUpload(ids_n, rows, head, float(arrays["alpha"][c]), float(arrays["loss"][c]))
    return uploads
