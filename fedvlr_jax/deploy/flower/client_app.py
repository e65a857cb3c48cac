"""Flower's ClientApp of a silo: hands each message to the worker that stays alive, and its answer back.

Flower starts a process for every message, so this one imports no JAX, compiles nothing, and looks at nothing. The
node's configuration says where the worker listens: ``flower-supernode --node-config 'socket="state/socket"'``.
"""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedvlr_jax.deploy.flower.records import parts_of_records, to_records
from fedvlr_jax.deploy.local_socket import ask
from fedvlr_jax.deploy.messages import pack_parts, unpack

TIMEOUT = 3600.0  # seconds; the server waits less, and the first message may have to be compiled for

app = ClientApp()


def answer(message: Message, context: Context) -> Message:
    """The worker's answer.

    Raises:
      OSError: no worker listens; Flower then tells the server.
    """
    question = pack_parts(parts_of_records(message.content))
    found = ask(str(context.node_config["socket"]), question, TIMEOUT)
    return Message(to_records(unpack(found)), reply_to=message)


for register in (app.query, app.train, app.evaluate):
    register()(answer)
