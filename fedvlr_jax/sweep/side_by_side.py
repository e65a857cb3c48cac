"""How many runs of one program go side by side: asked for, or whichever is faster in the first rounds."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax

from fedvlr_jax.benchmark.group import Run
from fedvlr_jax.benchmark.programs import MethodPrograms
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.training.schedule import Plan
from fedvlr_jax.types import Dataset

VMAP = ("auto", "on", "off")

PAYS = 10
"""A second program is compiled to be measured where all rounds take at least so many times what the first took."""

_REPEATS = 3


class Choice(NamedTuple):
    """How many runs go side by side, and a sentence that says why."""

    size: int
    why: str


def require_vmap(vmap: str) -> None:
    """Refuses what is not one of `VMAP`.

    Raises:
      ConfigError: with the value.
    """
    if vmap not in VMAP:
        raise ConfigError(f"--vmap={vmap}: expected one of {', '.join(VMAP)}")


def group_size(vmap: str, group: int, backend: str, runs: int) -> int:
    """How many runs go side by side where nothing was measured.

    Args:
      vmap: one of `VMAP`.
      group: at most so many; 0 = all.
      backend: JAX's name of the kind of device.
      runs: how many there are, at least 1.
    """
    if vmap == "off" or (vmap == "auto" and backend == "cpu"):
        return 1
    return min(group or runs, runs)


def faster_size(
    programs: MethodPrograms,
    plan: Plan,
    runs: Sequence[Run],
    *,
    most: int,
    usual: int,
    datasets: Sequence[Dataset] | None = None,
) -> Choice:
    """1 or `most`, whichever takes less time for a round of a run; the rounds that are measured are thrown away.

    Args:
      programs: of the runs; those of the choice are compiled afterwards.
      plan: rounds and evaluations.
      runs: all that are left, at least 2.
      most: how many could go side by side, 2 to the number of runs.
      usual: what is chosen where all rounds together are too short for a second program to pay, see `PAYS`.
      datasets: the data with the features of each run, where they differ.
    """
    before = programs.seconds
    alone = _seconds_a_round(programs, plan, runs[:1], datasets)
    compiled, left = programs.seconds - before, alone * plan.rounds * len(runs)
    if left < PAYS * compiled:
        return Choice(usual, f"not measured: about {left:.0f} s of rounds, {compiled:.0f} s to compile them")
    together = _seconds_a_round(programs, plan, runs[:most], datasets)
    why = f"measured: {1e3 * alone:.1f} ms a round alone, {1e3 * together:.1f} ms a run with {most} side by side"
    return Choice(most if together < alone else 1, why)


def _seconds_a_round(
    programs: MethodPrograms, plan: Plan, runs: Sequence[Run], datasets: Sequence[Dataset] | None
) -> float:
    """Seconds that a round of one run takes in a group: the least of some calls after the one that compiles."""
    length = math.gcd(plan.eval_every, plan.rounds)
    group = programs.group([run.point for run in runs], None if datasets is None else datasets[: len(runs)])
    state, seconds = programs.init(group, [run.seed for run in runs]), []
    for _ in range(_REPEATS + 1):
        begin = time.perf_counter()
        state, _ = jax.block_until_ready(programs.run(group, state, length))
        seconds.append(time.perf_counter() - begin)
    return min(seconds[1:]) / length / len(runs)
