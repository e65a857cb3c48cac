"""Write the page of a finished run again: report.html in its workdir, which opens without a network.

python experiments/report.py --workdir=runs/KU-fcf-fedvlr-s0 [--data_dir=/where/the/data/is/now]

The page has the statistics of the data, curves, the test table with baselines, groups of test rows, router weights,
the settings that differ from their default, the environment, and commands to go on. Nothing is trained or ranked.
"""

import pathlib

from absl import flags

from fedvlr_jax.commands import cli
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.io.interrupt import Interrupt


def define(values: flags.FlagValues) -> None:
    """All flags."""
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    flags.DEFINE_string("data_dir", None, "data root, if it is no longer where it was", flag_values=values)


def body(values: flags.FlagValues, interrupt: Interrupt) -> None:
    """Read back, write, say where."""
    from fedvlr_jax.io.environment import require_backend
    from fedvlr_jax.io.lock import own
    from fedvlr_jax.report.run_page import write_run_page
    from fedvlr_jax.training.job import stored_experiment

    del interrupt  # nothing to save
    if values.workdir is None:
        raise ConfigError("--workdir is missing: give the folder of a training run")
    require_backend()
    workdir = pathlib.Path(values.workdir)
    experiment = stored_experiment(workdir, values.data_dir)
    with own(workdir):
        print(write_run_page(experiment, workdir))


def main() -> int:
    """Run the command line of this process; its exit code, see `cli`."""
    return cli.run(body, about=__doc__, define=define, with_config=False)
