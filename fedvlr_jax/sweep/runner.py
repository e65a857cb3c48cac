"""The loop of a sweep: check every point, run what is left of this shard, and read back all runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.benchmark.storage import Stored
from fedvlr_jax.errors import ConfigError, DataError
from fedvlr_jax.settings import check_settings
from fedvlr_jax.sweep.guarantees import say_worth, worth_of_points
from fedvlr_jax.sweep.layout import Program, describe, group_by_program, points_of_shard
from fedvlr_jax.sweep.leaderboard import make_leaderboard
from fedvlr_jax.sweep.optuna_search import propose_points
from fedvlr_jax.sweep.runs import SweepRuns, SweepStore, require_same_sweep
from fedvlr_jax.sweep.space import SweepPoint, expand, name_of
from fedvlr_jax.sweep.training import Trainer
from fedvlr_jax.training.uncovered import leaves_out_sums, warn_of_sums
from fedvlr_jax.training.warm_start import refuse_warm_start


class Found(NamedTuple):
    """The points of a sweep and what became of their runs."""

    points: list[SweepPoint]
    runs: SweepRuns


def run_sweep(
    trainer: Trainer, *, shard: tuple[int, int] = (1, 1), on_start: Callable[[], None] = lambda: None
) -> Found:
    """Run all points of this shard, or go on where an earlier call ended.

    Args:
      trainer: with the sweep, its configuration and its workdir.
      shard: (i, n), this is shard i of n.
      on_start: called once nothing can be refused any more, before the first run.

    Returns:
      Every point, with the runs of all shards that the workdir holds.

    Raises:
      ConfigError, DataError: settings that make no sense, naming the field and the point, or a workdir of another
        sweep; nothing has been trained then.
      Interrupted: after a signal; finished points are kept.
    """
    store = trainer.store
    if store.sweep.kind == "optuna" and shard != (1, 1):
        raise ConfigError(f"--shard={shard[0]}/{shard[1]}: points of kind optuna depend on each other, expected 1/1")
    if store.sweep.kind != "optuna":
        points = expand(store.sweep)
        programs = check_points(store, points)
        require_same_sweep(store)
        _warn_of_privacy(store, points, set())
        for line in say_worth(worth_of_points(store, points)):
            trainer.report(line)
        on_start()
        return Found(points, _run(trainer, points, points_of_shard(programs, shard)))
    require_same_sweep(store)
    on_start()
    values: list[float | None] = []
    told: set[str] = set()
    runs: SweepRuns = {}

    def score(points: Sequence[SweepPoint]) -> list[float | None]:
        nonlocal runs
        check_points(store, points)
        _warn_of_privacy(store, points, told)
        runs = _run(trainer, points, range(len(values), len(points)))
        values[:] = [s.value for s in sorted(make_leaderboard(store.sweep, points, runs), key=lambda s: s.index)]
        return values

    return Found(propose_points(store.sweep, score), runs)


def check_points(store: SweepStore, points: Sequence[SweepPoint]) -> list[Program]:
    """The programs of the points, after a look at every value that they set.

    Raises:
      ConfigError, DataError: naming the field and the point.
    """
    programs = group_by_program(points)
    for program in programs:
        for k in program.points:
            try:
                settings = store.settings_of(points[k])
                check_settings(settings)
                refuse_warm_start(settings, "a sweep")
                if k == program.points[0]:
                    make_algorithm(settings, store.datasets.of(settings))
            except (ConfigError, DataError) as error:
                raise type(error)(f"point {k} ({name_of(points[k])}): {error}") from error
    return programs


def _warn_of_privacy(store: SweepStore, points: Sequence[SweepPoint], told: set[str]) -> None:
    """Warns of hosts that form sums which no guarantee is about, but not of those in `told`, which grows."""
    of_points = [store.settings_of(point) for point in points]
    hosts = {x["host"]["name"] for x in of_points if leaves_out_sums(x, store.datasets.of(x))} - told
    warn_of_sums(hosts)
    told |= hosts


def _run(trainer: Trainer, points: Sequence[SweepPoint], mine: Collection[int]) -> SweepRuns:
    """Runs what is left of the points in `mine`; all runs afterwards."""
    store, programs = trainer.store, group_by_program(points)
    runs = store.read(points)
    wanted = [key for key in runs if key[0] in mine]
    left = {key for key in wanted if not isinstance(runs[key], Stored)}
    for line in describe(points, programs):
        trainer.report(line)
    trainer.report(f"{len(wanted)} runs of {len(mine)} points here, {len(wanted) - len(left)} of them done before")
    for program in programs:
        keys = [key for key in wanted if key in left and key[0] in program.points]
        if keys:
            trainer.train(program, points, keys)
    return store.read(points) if left else runs
