"""The time that something takes which says nothing itself, such as compiling."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def repeated(act: Callable[[], Any], seconds: float) -> Iterator[None]:
    """Calls a function every so many seconds while active, from another thread."""
    end = threading.Event()

    def repeat() -> None:
        while not end.wait(seconds):
            act()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


@contextlib.contextmanager
def elapsed(
    say: Callable[[str], Any] | None, text: str, *, every: float | None = None, at_once: bool = True
) -> Iterator[None]:
    """Say a text at once, and again with the seconds since then while active.

    Args:
      say: takes a line; it is called from another thread. None if nobody listens.
      text: what is going on.
      every: seconds between two lines; by default 1 on a terminal, where a line replaces the last one, else 10.
      at_once: False says nothing of what is over before the first pause.
    """
    if say is None:
        yield
        return
    begin = time.monotonic()
    pause = every or (1.0 if sys.stderr.isatty() else 10.0)
    if at_once:
        say(text)
    with repeated(lambda: say(f"{text}, {time.monotonic() - begin:.0f} s so far"), pause):
        yield
