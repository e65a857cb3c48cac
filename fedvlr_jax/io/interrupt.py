"""Ctrl-C and SIGTERM as a request to stop at the next safe point."""

from __future__ import annotations

import os
import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """A run that stopped because of a signal; `signum` is its number, the message tells how to go on."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum


class Interrupt:
    """While active, the first signal is remembered in `signum`; the second one stops at once.

    A context manager. The state that a run saves must be complete, so the first signal interrupts nothing.
    """

    def __init__(self):
        self.signum: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Interrupt:
        self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def stop_if_signalled(self, message: str) -> None:
        """Raises Interrupted with the message after a signal; where nothing is left to save."""
        if self.signum is not None:
            raise Interrupted(self.signum, message)

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        if self.signum is not None:
            raise Interrupted(signum, "stopped at once; the last checkpoint is intact")
        self.signum = signum
        message = f"\n{signal.Signals(signum).name}: saving after the rounds under way (once more: stop at once)\n"
        os.write(2, message.encode())  # not print: its buffer may be in use by the interrupted code
