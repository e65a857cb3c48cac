"""The clock of a benchmark: what runs took, what is left, and whether another run fits into the budget."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from fedvlr_jax.benchmark.forecast import Job, Lap, Left, seconds_left, seconds_of_run, seconds_to_compile
from fedvlr_jax.io.elapsed import elapsed

LATE = 0.05
"""The share of a budget by which a run may end later."""


class OutOfTime(Exception):
    """A run that would end after the budget, and was not started or broken off."""


class Clock:
    """Measures runs and forecasts those to come.

    Args:
      jobs: by name of method.
      programs: how many programs each method compiles, 0 where another one's are there; by name of method.
      seconds: of the budget, infinite where there is none.
      note: takes a line that says what is going on.
      now: gives seconds.
    """

    def __init__(
        self,
        jobs: Mapping[str, Job],
        programs: Mapping[str, int],
        *,
        seconds: float = float("inf"),
        note: Callable[[str], Any] | None = None,
        now: Callable[[], float] = time.monotonic,
    ):
        self.laps: list[Lap] = []
        self._jobs, self._programs, self._note, self._now = jobs, programs, note, now
        self._seconds, self._end = seconds, now() + seconds
        self._done: dict[str, set[Any]] = {name: set() for name in jobs}
        self._compiled = dict.fromkeys(jobs, 0)

    @property
    def remaining(self) -> float:
        """Seconds until the end of the budget."""
        return self._end - self._now()

    def found(self, name: str, key: Any) -> None:
        """Count a run that an earlier call finished."""
        self._done[name].add(key)

    def check(self, name: str) -> None:
        """Raises OutOfTime in a run that goes on for so long after the budget that nobody could have meant it."""
        if self.remaining < -LATE * self._seconds:
            raise OutOfTime(f"{name} (broken off, it was slower than expected)")

    @contextlib.contextmanager
    def lap(self, name: str, keys: Iterable[Any]) -> Iterator[Callable[[float], None]]:
        """Measure runs side by side; gives a function that takes the seconds in which they compiled.

        Raises:
          OutOfTime: before they start, if they are expected to end after the budget.
        """
        keys, job = list(keys), self._jobs[name]
        if self._cost(name, len(keys)) > self.remaining:
            raise OutOfTime(f"{name} (about {shown_time(self._cost(name, len(keys)))} a run)")
        compiling: list[float] = []
        begin = self._now()
        with elapsed(self._note, f"{name}: compiling and running", at_once=False):
            yield compiling.append
        seconds = (self._now() - begin - sum(compiling)) / len(keys)
        self.laps += [Lap(job, max(seconds, 0.0), sum(compiling) if key == keys[0] else 0.0) for key in keys]
        self._compiled[name] += sum(compiling) > 0
        self._done[name].update(keys)

    def left(self, planned: Mapping[str, int]) -> float:
        """Seconds of the runs that are still to come, where each method has so many in all."""
        return seconds_left((self._left(name, runs) for name, runs in planned.items()), self.laps)

    def _left(self, name: str, runs: int) -> Left:
        return Left(self._jobs[name], max(0, runs - len(self._done[name])), self._programs_left(name))

    def _programs_left(self, name: str) -> int:
        return max(0, self._programs[name] - self._compiled[name])

    def _cost(self, name: str, runs: int) -> float:
        compiling = seconds_to_compile(self._jobs[name], self.laps) if self._programs_left(name) else 0.0
        return runs * seconds_of_run(self._jobs[name], self.laps) + compiling


def shown_time(seconds: float) -> str:
    """Seconds below two minutes, then minutes."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
