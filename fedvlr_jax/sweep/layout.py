"""Which points share a compiled program, and which shard has which points. Pure, without JAX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from fedvlr_jax.errors import ConfigError
from fedvlr_jax.settings import traceable_fields
from fedvlr_jax.sweep.space import SweepPoint

TRACEABLE = traceable_fields()
ARGUMENTS = TRACEABLE | {"seed"}
"""Fields that a compiled program takes as arguments."""


class Program(NamedTuple):
    """Points that differ in `ARGUMENTS` alone.

    Attributes:
      static: the values of all other swept fields, which they have in common.
      points: their indices, ascending.
    """

    static: SweepPoint
    points: tuple[int, ...]


def group_by_program(points: Sequence[SweepPoint]) -> list[Program]:
    """The programs of the points, each point in exactly one, in the order of their first points."""
    found: dict[tuple, list[int]] = {}
    for k, point in enumerate(points):
        static = tuple((field, value) for field, value in point.items() if field not in ARGUMENTS)
        found.setdefault(static, []).append(k)
    return [Program(dict(static), tuple(members)) for static, members in found.items()]


def traced(point: SweepPoint) -> dict[str, float]:
    """The numbers of a point that its program takes as arguments, without the seed."""
    return {field: float(value) for field, value in point.items() if field in TRACEABLE}


def describe(points: Sequence[SweepPoint], programs: Sequence[Program]) -> list[str]:
    """What shares a program, and which fields keep apart what does not; one sentence a line."""
    shared = [field for field in points[0] if field in ARGUMENTS]
    lines = [f"{_count(len(programs), 'program')} for {_count(len(points), 'point')}"]
    for number, program in enumerate(programs, start=1):
        static = ", ".join(f"{field}={value}" for field, value in program.static.items())
        line = f"program {number}{f' ({static})' if static else ''}: "
        if len(program.points) > 1:
            line += f"{len(program.points)} points share it ({', '.join(shared)}): {numbers(program.points)}"
        else:
            line += f"point {program.points[0]} alone"
        lines.append(line)
    if len(programs) > 1:
        apart = [field for field in programs[0].static if len({p.static[field] for p in programs}) > 1]
        lines.append(f"kept apart by {', '.join(apart)}: another value needs another program")
    return lines


def read_shard(text: str) -> tuple[int, int]:
    """``"i/n"`` as (i, n) with 1 <= i <= n.

    Raises:
      ConfigError: for anything else.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--shard={text}: expected i/n with 1 <= i <= n, as in 2/4")
    return int(match[1]), int(match[2])


def points_of_shard(programs: Sequence[Program], shard: tuple[int, int]) -> frozenset[int]:
    """The points of shard i of n: a block of the points in the order of their programs, so that few are compiled
    twice. The blocks of all shards partition the points, and their sizes differ by at most one."""
    i, n = shard
    order = [k for program in programs for k in program.points]
    return frozenset(order[len(order) * (i - 1) // n : len(order) * i // n])


def numbers(indices: Sequence[int]) -> str:
    """Ascending indices in short: "0-3, 7"."""
    runs: list[list[int]] = []
    for k in indices:
        if runs and k == runs[-1][-1] + 1:
            runs[-1].append(k)
        else:
            runs.append([k])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def name_points(indices: Sequence[int]) -> str:
    """Ascending indices of points in words: "point 2", "points 0-3, 7"."""
    return f"point{'' if len(indices) == 1 else 's'} {numbers(indices)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
