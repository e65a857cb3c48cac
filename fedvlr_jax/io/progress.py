"""One line of progress: a bar on a terminal, else a plain line every ten seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm

from fedvlr_jax.evaluation.metrics import SELECTION_METRIC

PLAIN_SECONDS, TERMINAL_SECONDS = 10.0, 0.2


class Progress:
    """Shows round, loss, last validation metric, client updates per second and the time left."""

    def __init__(self, rounds: int, *, start_round: int = 0, stream: TextIO | None = None):
        self._rounds, self._start, self._stream = rounds, start_round, stream or sys.stderr
        self.start()
        layout = "{desc} |{bar:20}| {postfix}"
        self._bar = (
            tqdm(total=rounds, initial=start_round, file=self._stream, bar_format=layout, leave=False)
            if self._stream.isatty()
            else None
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def note(self, text: str) -> None:
        """Say what is going on before the first rounds are done."""
        if self._bar is not None:
            self._bar.set_description_str(text)
        else:
            print(text, file=self._stream, flush=True)

    def start(self) -> None:
        """Count the time left from now on."""
        self._begin = self._last_line = time.monotonic()

    def update(self, round_: int, *, loss: float, ndcg: float | None, updates_per_second: float) -> None:
        """Show the state after `round_` rounds; `ndcg` is a fraction, or None without validation rows."""
        now = time.monotonic()
        left = (now - self._begin) / max(round_ - self._start, 1) * (self._rounds - round_)
        head = f"round {round_}/{self._rounds}"
        valid = "-" if ndcg is None else f"{100 * ndcg:.2f} %"
        tail = f"loss {loss:.4g} | valid {SELECTION_METRIC} {valid} | {updates_per_second:,.0f} client updates/s"
        tail += f" | at most {_clock(left)} left"
        if self._bar is not None:
            self._bar.set_description_str(head, refresh=False)
            self._bar.set_postfix_str(tail, refresh=False)
            self._bar.update(round_ - self._bar.n)
            self._bar.refresh()
        elif now - self._last_line >= PLAIN_SECONDS or round_ == self._rounds:
            self._last_line = now
            print(f"{head} | {tail}", file=self._stream, flush=True)


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
