"""Train one federated recommender and report it beside simple baselines.

    python experiments/train.py --config=configs/ku.py [--config.host.name=fedrap] [--workdir=runs/first]

A run that was stopped or killed goes on where it was when the same command is given again.
"""

import pathlib
import sys

from absl import flags

from fedvlr_jax.commands import cli
from fedvlr_jax.io.interrupt import Interrupt


def define(values: flags.FlagValues) -> None:
    """The flags beside --config."""
    flags.DEFINE_string(
        "workdir", None, "folder of the run; default runs/<dataset>-<host>-<variant>-s<seed>", flag_values=values
    )
    flags.DEFINE_string(
        "coordinator", "", "several processes: host:port of process 0, or auto (TPU pods, Slurm)", flag_values=values
    )
    flags.DEFINE_integer("num_processes", 1, "several processes: how many", flag_values=values)
    flags.DEFINE_integer("process_id", 0, "several processes: which one this is, from 0", flag_values=values)
    cli.define_resume(values, "run")


def body(values: flags.FlagValues, interrupt: Interrupt) -> None:
    """Check everything, then train."""
    # Imported here, so that a slip of the pen in a flag is answered before JAX is loaded.
    from fedvlr_jax.algorithm import make_algorithm
    from fedvlr_jax.data import load_configured
    from fedvlr_jax.federated.mesh import join_processes
    from fedvlr_jax.io.environment import require_backend
    from fedvlr_jax.io.files import prepare_workdir
    from fedvlr_jax.io.lock import own
    from fedvlr_jax.io.progress import ProgressDisplay
    from fedvlr_jax.io.tables import cost_table, result_table
    from fedvlr_jax.io.trackers import require_writers
    from fedvlr_jax.report.run_page import write_page_of
    from fedvlr_jax.training.experiment import make_experiment
    from fedvlr_jax.training.job import delete_run, run_job
    from fedvlr_jax.training.schedule import make_plan

    if values.coordinator:
        join_processes(values.coordinator, values.num_processes, values.process_id)
    settings = cli.plain_settings(values.config)
    make_plan(settings)  # refuses bad values before any data is read
    require_writers(settings["writers"])
    require_backend()
    dataset = load_configured(settings["data"], settings["seed"], leaves_users_out=True)
    algorithm = make_algorithm(settings, dataset)
    if settings["dry_run"]:
        print(cost_table(dataset, algorithm.cost, settings["eval"]))
        return
    name = f"{dataset.name}-{settings['host']['name']}-{settings['variant']}-s{settings['seed']}"
    workdir = prepare_workdir(pathlib.Path(values.workdir or f"runs/{name}"))
    with own(workdir):
        if not values.resume:
            delete_run(workdir)
        print(f"{name} in {workdir}", file=sys.stderr, flush=True)
        experiment = make_experiment(settings, dataset)
        with ProgressDisplay() as display:
            job = run_job(
                experiment, workdir, command=sys.argv, interrupt=interrupt, on_progress=display, note=display.note
            )
        write_page_of(job, experiment, workdir)
    print(result_table(job.result, job.baselines))


def main() -> int:
    """Run the command line of this process; its exit code, see `cli`."""
    return cli.run(body, about=__doc__, define=define, with_config=True)
