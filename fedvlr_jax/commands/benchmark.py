"""Run every host, variant, control and baseline over seeds on one data set, and write the table.

    python experiments/benchmark.py --config=configs/benchmark/ku.py [--config.methods="ease,fcf+*"] [--workdir=...]

A benchmark that was stopped or killed goes on when the same command is given again; finished runs are never repeated.
"""

import datetime
import pathlib
import sys

from absl import flags

from fedvlr_jax.commands import cli
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.io.interrupt import Interrupt


def define(values: flags.FlagValues) -> None:
    """The flags beside --config."""
    flags.DEFINE_string("workdir", None, "folder; default runs/benchmark-<dataset>", flag_values=values)


def body(values: flags.FlagValues, interrupt: Interrupt) -> None:
    """Check everything, run what is left, write the report."""
    # Imported here, so that a slip of the pen in a flag is answered before JAX is loaded.
    from fedvlr_jax.benchmark.report import write_report
    from fedvlr_jax.benchmark.runner import run_benchmark
    from fedvlr_jax.data import load_configured
    from fedvlr_jax.io.environment import describe_environment, require_backend, write_environment
    from fedvlr_jax.io.files import prepare_workdir
    from fedvlr_jax.io.lock import own
    from fedvlr_jax.io.progress import ProgressDisplay
    from fedvlr_jax.training.warm_start import refuse_warm_start

    if "train" not in values.config:
        raise ConfigError("--config: expected a benchmark, such as configs/benchmark/ku.py, found one training run")
    config = values.config.to_dict()
    config.pop("data", None)  # a short way to write train.data
    config["train"] = cli.plain_settings(values.config.train)
    refuse_warm_start(config["train"], "a benchmark")
    require_backend()
    dataset = load_configured(config["train"]["data"])
    workdir = prepare_workdir(pathlib.Path(values.workdir or f"runs/benchmark-{dataset.name}"))
    environment = describe_environment(sys.argv, workdir) | {"date": datetime.date.today().isoformat()}
    with own(workdir):
        print(f"benchmark of {dataset.name} in {workdir}", file=sys.stderr, flush=True)
        with ProgressDisplay() as display:
            finished = run_benchmark(
                config,
                dataset,
                workdir,
                interrupt=interrupt,
                report=display.line,
                note=display.note,
                on_start=lambda: write_environment(workdir, environment),
            )
        print(write_report(finished.records, dataset, workdir, environment, finished.notes))


def main() -> int:
    """Run the command line of this process; its exit code, see `cli`."""
    return cli.run(body, about=__doc__, define=define, with_config=True)
