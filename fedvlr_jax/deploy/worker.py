"""A silo behind a local socket, in a process that stays alive: programs and states are in memory between messages."""

from __future__ import annotations

import pathlib
import sys
import threading
import time
import traceback

from fedvlr_jax.deploy.local_socket import serve
from fedvlr_jax.deploy.messages import pack, refusal, unpack
from fedvlr_jax.deploy.silo import Silo
from fedvlr_jax.errors import ConfigError, MessageError
from fedvlr_jax.io.elapsed import repeated
from fedvlr_jax.io.interrupt import Interrupt


def work(silo: Silo, socket: pathlib.Path, interrupt: Interrupt) -> None:
    """Answers messages until a signal came in; what it was asked by then is answered.

    Raises:
      ConfigError: the socket cannot be made.
    """
    stop = threading.Event()

    def look() -> None:
        if interrupt.signum is not None:
            stop.set()

    with repeated(look, 0.1):
        try:
            serve(socket, lambda content: answer(silo, content), stop)
        except OSError as error:
            raise ConfigError(f"{socket}: expected a place for a socket, found: {error}") from error
    interrupt.stop_if_signalled("stopped; all private states are saved")


def answer(silo: Silo, content: bytes) -> bytes:
    """The packed answer to a packed message; an error of this program is told to the server, and printed here."""
    begin = time.monotonic()
    try:
        question = unpack(content)
    except MessageError as error:
        return pack(refusal(str(error)))
    try:
        found = silo.answer(question)
    except Exception as error:
        traceback.print_exc()
        found = refusal(f"the client failed: {type(error).__name__}")
    asked = question.arrays["user"].size if "user" in question.arrays else 0
    note = f": {found.fields['reason']}" if "reason" in found.fields else ""
    seconds = time.monotonic() - begin
    about = f"{question.kind} {question.fields.get('round', '')}".strip()
    print(f"{about} of {asked} users: {found.kind} in {seconds:.3f} s{note}", file=sys.stderr, flush=True)
    return pack(found)
