"""The loop of a sweep: check every point, run what is left of this shard, and see how all points stand."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.benchmark.storage import Stored
from fedvlr_jax.errors import ConfigError, DataError
from fedvlr_jax.settings import check_settings
from fedvlr_jax.sweep.layout import Program, describe, group_by_program, points_of_shard
from fedvlr_jax.sweep.leaderboard import stand
from fedvlr_jax.sweep.optuna_search import ask_points
from fedvlr_jax.sweep.runs import Runs, Shelf, require_same_sweep
from fedvlr_jax.sweep.space import Point, expand, name_of
from fedvlr_jax.sweep.training import Trainer


class Found(NamedTuple):
    """The points of a sweep and what became of their runs."""

    points: list[Point]
    runs: Runs


def run_sweep(trainer: Trainer, *, shard: tuple[int, int] = (1, 1)) -> Found:
    """Run all points of this shard, or go on where an earlier call ended.

    Args:
      trainer: with the sweep, its configuration and its workdir.
      shard: (i, n), this is part i of n.

    Returns:
      Every point, with the runs of all shards that the workdir holds.

    Raises:
      ConfigError, DataError: settings that make no sense, naming the field and the point, or a workdir of another
        sweep; nothing has been trained then.
      Interrupted: after a signal; finished points are kept.
    """
    shelf = trainer.shelf
    if shelf.sweep.kind == "optuna" and shard != (1, 1):
        raise ConfigError(f"--shard={shard[0]}/{shard[1]}: points of kind optuna depend on each other, expected 1/1")
    if shelf.sweep.kind != "optuna":
        points = expand(shelf.sweep)
        programs = check_points(shelf, points)
        require_same_sweep(shelf)
        return Found(points, _run(trainer, points, points_of_shard(programs, shard)))
    require_same_sweep(shelf)
    values: list[float | None] = []
    runs: Runs = {}

    def score(points: Sequence[Point]) -> list[float | None]:
        nonlocal runs
        check_points(shelf, points)
        runs = _run(trainer, points, range(len(values), len(points)))
        values[:] = [s.value for s in sorted(stand(shelf.sweep, points, runs), key=lambda s: s.index)]
        return values

    return Found(ask_points(shelf.sweep, score), runs)


def check_points(shelf: Shelf, points: Sequence[Point]) -> list[Program]:
    """The programs of the points, after a look at every value that they set.

    Raises:
      ConfigError, DataError: naming the field and the point.
    """
    programs = group_by_program(points)
    for program in programs:
        for k in program.points:
            try:
                settings = shelf.settings_of(points[k])
                check_settings(settings)
                if k == program.points[0]:
                    make_algorithm(settings, shelf.datasets.of(settings))
            except (ConfigError, DataError) as error:
                raise type(error)(f"point {k} ({name_of(points[k])}): {error}") from error
    return programs


def _run(trainer: Trainer, points: Sequence[Point], mine: Collection[int]) -> Runs:
    """Runs what is left of the points in `mine`; all runs afterwards."""
    shelf, programs = trainer.shelf, group_by_program(points)
    runs = shelf.read(points)
    wanted = [key for key in runs if key[0] in mine]
    left = {key for key in wanted if not isinstance(runs[key], Stored)}
    for line in describe(points, programs):
        trainer.say(line)
    trainer.say(f"{len(wanted)} runs of {len(mine)} points here, {len(wanted) - len(left)} of them done before")
    for program in programs:
        keys = [key for key in wanted if key in left and key[0] in program.points]
        if keys:
            trainer.train(program, points, keys)
    return shelf.read(points) if left else runs
