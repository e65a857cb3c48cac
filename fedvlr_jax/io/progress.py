"""How a run goes on: one event for each evaluation, and a display of them for people."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TextIO

from tqdm import tqdm

from fedvlr_jax.evaluation.metrics import SELECTION_METRIC

PLAIN_SECONDS, TERMINAL_SECONDS = 10.0, 0.2


class ProgressEvent(NamedTuple):
    """What a run reports after each evaluation; `str` gives it as one line.

    Attributes:
      round: rounds done.
      rounds: rounds at most; early stopping may end the run before.
      loss: of the latest round, the mean over its clients.
      valid: validation metrics by name ("NDCG@50"), fractions in [0, 1]; each is None without validation items.
      updates_per_second: local trainings of clients per second of training.
      epsilon: what the rounds so far have spent of differential privacy; None where nobody accounts for it.
      seconds_left: until `rounds`, at the pace so far; early stopping makes it less.
    """

    round: int
    rounds: int
    loss: float
    valid: Mapping[str, float | None]
    updates_per_second: float
    seconds_left: float
    epsilon: float | None = None

    def __str__(self) -> str:
        value = self.valid[SELECTION_METRIC]
        shown = "-" if value is None else f"{100 * value:.2f} %"
        spent = "" if self.epsilon is None else f"epsilon {self.epsilon:.4g} | "
        return (
            f"round {self.round}/{self.rounds} | loss {self.loss:.4g} | valid {SELECTION_METRIC} {shown} | "
            f"{spent}{self.updates_per_second:,.0f} client updates/s | at most {_clock(self.seconds_left)} left"
        )


class ProgressDisplay:
    """Shows the latest event: a bar on a terminal, else a plain line every ten seconds. A context manager."""

    def __init__(self, stream: TextIO | None = None):
        self._stream = stream or sys.stderr
        self._last_line = time.monotonic()
        self._bar: tqdm | None = None

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def note(self, text: str) -> None:
        """Say what is going on before the first rounds are done."""
        if self._stream.isatty():
            self._open_bar().set_description_str(text)
        else:
            print(text, file=self._stream, flush=True)

    def line(self, text: str) -> None:
        """Say something that stays, on a line of its own."""
        if self._bar is None:
            print(text, file=self._stream, flush=True)
        else:
            self._bar.write(text, file=self._stream)

    def __call__(self, event: ProgressEvent) -> None:
        """Show an event."""
        if self._stream.isatty():
            head, _, tail = str(event).partition(" | ")
            bar = self._open_bar()
            bar.total, bar.n = event.rounds, event.round
            bar.set_description_str(head, refresh=False)
            bar.set_postfix_str(tail, refresh=False)
            bar.refresh()
        elif (now := time.monotonic()) - self._last_line >= PLAIN_SECONDS or event.round == event.rounds:
            self._last_line = now
            print(event, file=self._stream, flush=True)

    def _open_bar(self) -> tqdm:
        if self._bar is None:
            layout = "{desc} |{bar:20}| {postfix}"
            self._bar = tqdm(total=0, file=self._stream, bar_format=layout, leave=False)
        return self._bar


def counting_line(what: str, stream: TextIO | None = None) -> Callable[[int, int, float | None], None]:
    """A function (done, total, seconds left or None) that shows where a count stands, as `Progress` shows rounds."""
    shown, stream = [0.0], stream or sys.stderr

    def show(done: int, total: int, seconds_left: float | None) -> None:
        last, now = done == total, time.monotonic()
        if not last and now - shown[0] < (TERMINAL_SECONDS if stream.isatty() else PLAIN_SECONDS):
            return
        shown[0] = now
        left = "" if seconds_left is None else f" | {_clock(seconds_left)} left"
        start, end = ("\r", "\n" if last else "") if stream.isatty() else ("", "\n")
        print(f"{start}{what} {done:,}/{total:,}{left}", end=end, file=stream, flush=True)

    return show


def _clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
