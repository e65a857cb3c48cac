"""Train many points of one configuration, side by side where they share a program; validation chooses the best.

    python experiments/sweep.py --config=configs/ku.py --sweep=configs/sweeps/rates.py [--workdir=...] [--shard=1/4]

A sweep that was stopped or killed goes on when the same command is given again; finished points are never repeated.
With --config.dry_run=True it only says which points share a program.
"""

import pathlib
import runpy
import sys
from collections.abc import Mapping
from typing import Any

from absl import flags

from fedvlr_jax.commands import cli, config_files
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.fields import flatten
from fedvlr_jax.io.interrupt import Interrupt
from fedvlr_jax.sweep.layout import describe, read_shard
from fedvlr_jax.sweep.space import expand, read_sweep


def define(values: flags.FlagValues) -> None:
    """The flags beside --config."""
    flags.DEFINE_string("sweep", None, "sweep file, see configs/sweeps/", flag_values=values)
    flags.DEFINE_string("workdir", None, "folder; default runs/sweep-<sweep>-<dataset>", flag_values=values)
    flags.DEFINE_string("shard", "1/1", "i/n: run part i of n of the points", flag_values=values)
    flags.DEFINE_string(
        "vmap", "auto", "runs of one program side by side: on, off, or auto = what is faster", flag_values=values
    )
    cli.define_resume(values, "sweep")


def body(values: flags.FlagValues, interrupt: Interrupt) -> None:
    """Check everything, run what is left, write the report."""
    settings, shard = cli.plain_settings(values.config), read_shard(values.shard)
    sweep = read_sweep(
        load_sweep(values.sweep), dict(flatten(settings)), load_sweep(str(config_files.SWEEPS / "base.py"))
    )
    if shard != (1, 1) and not values.resume:
        raise ConfigError("--noresume would delete the points of other shards; delete the workdir and start them all")
    # Imported here, so that a slip of the pen in a flag or in the sweep is answered before JAX is loaded.
    from fedvlr_jax.io.environment import describe_environment, require_backend, write_environment
    from fedvlr_jax.io.files import prepare_workdir
    from fedvlr_jax.io.progress import ProgressDisplay
    from fedvlr_jax.sweep.guarantees import say_worth, worth_of_points
    from fedvlr_jax.sweep.report import write_report
    from fedvlr_jax.sweep.runner import check_points, run_sweep
    from fedvlr_jax.sweep.runs import Datasets, SweepStore, delete_sweep
    from fedvlr_jax.sweep.side_by_side import require_vmap
    from fedvlr_jax.sweep.training import Trainer

    require_vmap(values.vmap)
    require_backend()
    name = f"{pathlib.Path(values.sweep).stem}-{settings['data']['name']}"
    store = SweepStore(settings, sweep, pathlib.Path(values.workdir or f"runs/sweep-{name}").resolve(), Datasets())
    if settings["dry_run"]:
        points = [] if sweep.kind == "optuna" else expand(sweep)
        programs = check_points(store, points)
        lines = describe(points, programs) if points else ["optuna proposes its points on the way"]
        print("\n".join([*lines, *say_worth(worth_of_points(store, points))]))
        return
    prepare_workdir(store.workdir)
    if not values.resume:
        delete_sweep(store.workdir)
    environment = describe_environment(sys.argv, store.workdir)
    with ProgressDisplay() as display:
        display.line(f"sweep {name} in {store.workdir}")
        trainer = Trainer(store=store, vmap=values.vmap, interrupt=interrupt, report=display.line, note=display.note)
        found = run_sweep(trainer, shard=shard, on_start=lambda: write_environment(store.workdir, environment))
    config, changed = changed_fields(settings)
    train = [*cli.how_to_start("train"), f"--config={config}"]
    title = f"Sweep {name}"
    print(write_report(sweep, found, store, title=title, train=train, base=changed, environment=environment))


def changed_fields(settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The configuration file of the command line, and the dotted fields that the command line sets otherwise."""
    path = cli.config_file(sys.argv) or cli.DEFAULT_CONFIG
    plain = dict(flatten(cli.plain_settings(cli.config_alone(path))))
    return path, {field: value for field, value in flatten(settings) if value != plain[field]}


def load_sweep(path: str | None) -> dict[str, Any]:
    """What ``get_sweep()`` of a sweep file returns.

    Raises:
      ConfigError: no such file, or one that fails or has no ``get_sweep``.
    """
    file = config_files.find(path or "", config_files.SWEEPS)
    if not pathlib.Path(file).is_file():
        found = config_files.names(config_files.SWEEPS)
        raise ConfigError(f"--sweep={path or ''}: no such file; configs/sweeps/ has {found}")
    config_files.make_importable(file)
    try:
        return dict(runpy.run_path(file)["get_sweep"]().items())
    except Exception as error:  # the sweep is a program, it may raise anything
        raise ConfigError(
            f"--sweep={path}: expected a file with get_sweep(): {type(error).__name__}: {error}"
        ) from error


def main() -> int:
    """Run the command line of this process; its exit code, see `cli`."""
    return cli.run(body, about=__doc__, define=define, with_config=True)
