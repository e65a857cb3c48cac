"""What runs will take, from what others took: a pure function of recorded durations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

CLOSED, LEARNED, TRAINED = "closed form", "learned", "federated"
"""Kinds of methods: solved at once, centralised by gradients, federated."""

FIRST_GUESS = {CLOSED: 1.0, LEARNED: 3e-6, TRAINED: 3e-9}
"""Seconds of a unit of `Job.work` before anything of the kind was measured: two cores, within a factor of ten."""
MACHINES = 5.0
"""How many times slower or faster than in the first guess a machine is taken to be at most."""
FIRST_COMPILE = {CLOSED: 0.0, LEARNED: 0.0, TRAINED: 15.0}


class Job(NamedTuple):
    """What decides the cost of one run of a method.

    Attributes:
      method: its name; a control has that of the method whose settings it repeats.
      kind: one of the three above.
      host, variant: of federated methods, else "".
      work: of one run, in units that `FIRST_GUESS` has for the kind; only ratios count once a run was measured.
    """

    method: str
    kind: str
    host: str
    variant: str
    work: float


class Lap(NamedTuple):
    """A run that was measured: its seconds without those of compiling, and these."""

    job: Job
    seconds: float
    compiling: float


class Left(NamedTuple):
    """Runs of a method that are still to come, and how many programs have to be compiled for them."""

    job: Job
    runs: int
    programs: int


def seconds_of_run(job: Job, laps: Sequence[Lap]) -> float:
    """Seconds of one run without compiling: the rate of the most similar method that was measured, times the work.

    The same method comes first, then methods of the same host and variant, host, variant, and kind. Closed forms have
    nothing in common but the machine. Where nothing of the kind was measured, the first guess counts, as much
    slower or faster as this machine was in other kinds.
    """
    rates = _most_similar(job, [lap for lap in laps if lap.job.work > 0], lambda lap: lap.seconds / lap.job.work)
    rate = _mean(rates) if rates else FIRST_GUESS[job.kind] * _slowness(laps)
    return rate * job.work


def seconds_to_compile(job: Job, laps: Sequence[Lap]) -> float:
    """Seconds to compile the programs of a method, as those of the most similar one took."""
    compiled = _most_similar(job, [lap for lap in laps if lap.compiling > 0], lambda lap: lap.compiling)
    return _mean(compiled) if compiled else FIRST_COMPILE[job.kind]


def seconds_left(left: Iterable[Left], laps: Sequence[Lap]) -> float:
    """Seconds of all runs that are still to come, compiling included."""
    return sum(
        runs * seconds_of_run(job, laps) + (programs * seconds_to_compile(job, laps) if programs else 0.0)
        for job, runs, programs in left
        if runs
    )


def _most_similar(job: Job, laps: Sequence[Lap], value: Callable[[Lap], float]) -> list[float]:
    """Values of the laps of the most similar methods, a mean for each method."""
    by_method: dict[Job, list[float]] = {}
    for lap in laps:
        if lap.job.kind == job.kind:
            by_method.setdefault(lap.job._replace(work=0.0), []).append(value(lap))
    same: tuple[Callable[[Job], bool], ...] = (
        lambda other: other.method == job.method,
        lambda other: (other.host, other.variant) == (job.host, job.variant),
        lambda other: other.host == job.host,
        lambda other: other.variant == job.variant,
        lambda other: True,
    )
    for is_similar in same[:1] if job.kind == CLOSED else same:
        if found := [_mean(values) for other, values in by_method.items() if is_similar(other)]:
            return found
    return []


def _slowness(laps: Sequence[Lap]) -> float:
    """How many times longer than guessed all runs with a training loop took, within reason; 1 without any."""
    measured = [lap for lap in laps if lap.job.kind != CLOSED]
    guessed = sum(FIRST_GUESS[lap.job.kind] * lap.job.work for lap in measured)
    return min(max(sum(lap.seconds for lap in measured) / guessed, 1 / MACHINES), MACHINES) if guessed else 1.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
