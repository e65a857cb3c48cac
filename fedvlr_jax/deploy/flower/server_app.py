"""Flower's ServerApp of a federation: the rounds of `deploy.server_run` over Flower's grid of nodes."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence

from flwr.app import Context
from flwr.app import Message as FlowerMessage
from flwr.serverapp import Grid, ServerApp

from fedvlr_jax.deploy.flower.records import from_records, to_records
from fedvlr_jax.deploy.messages import ADVERTISE, JOIN, MASK, RANK, REVEAL, ROWS, SHARE, TRAIN, Message
from fedvlr_jax.deploy.silos import Failure
from fedvlr_jax.errors import MessageError

TYPES = {RANK: "evaluate"}
TYPES |= dict.fromkeys((TRAIN, MASK), "train") | dict.fromkeys((JOIN, ROWS, ADVERTISE, SHARE, REVEAL), "query")
POLL = 0.05  # seconds between two looks for answers

app = ServerApp()


class GridTransport:
    """Flower's grid as a `silos.Transport`."""

    def __init__(self, grid: Grid):
        self._grid = grid

    def nodes(self) -> Sequence[int]:
        """The supernodes that are online."""
        return list(self._grid.get_node_ids())

    def exchange(self, questions: Mapping[int, Message], seconds: float) -> Iterator[tuple[int, Message | Failure]]:
        """As `silos.Transport.exchange`; a message that is not answered in time is void."""
        if not questions:
            return
        end = time.monotonic() + seconds
        sent = [
            FlowerMessage(to_records(message), dst_node_id=node, message_type=TYPES[message.kind], ttl=seconds)
            for node, message in questions.items()
        ]
        nodes = list(questions)
        waiting = {name: node for name, node in zip(self._grid.push_messages(sent), nodes, strict=True) if name}
        while waiting and time.monotonic() < end:
            for reply in self._grid.pull_messages(list(waiting)):
                node = waiting.pop(reply.metadata.reply_to_message_id, None)
                if node is not None:
                    yield node, _content(reply)
            time.sleep(POLL if waiting else 0)


def main(grid: Grid, context: Context) -> None:
    """Trains in the folder ``workdir`` of the run's configuration, from its last round on."""
    from fedvlr_jax.deploy.server_run import run_server

    config = context.run_config
    run_server(pathlib.Path(str(config["workdir"])), GridTransport(grid))


app.main()(main)


def _content(reply: FlowerMessage) -> Message | Failure:
    if reply.has_error():
        return Failure("failed", " ".join(str(reply.error.reason).split()))
    try:
        return from_records(reply.content)
    except MessageError as error:
        return Failure("misfit", str(error))
