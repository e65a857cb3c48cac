"""What users of a trained model prefer, what its router does, and what each modality is worth (figures 2 and 3).

python experiments/analyze.py --workdir=runs/KU-fcf-fedvlr-s0 [--data_dir=/where/the/data/is/now] [--out=folder]
python experiments/analyze.py --runs=runs/sweep-modalities-KU --out=runs/figure3

Of a run in --workdir: figure2.csv and .png, and with a router analysis.json, rankings.csv and history.csv, into the
workdir or --out. Of --runs, a comma list of folders with runs in or below them that differ in host,
fusion.modalities and seed alone: figure3.csv and .png, into --out or the workdir. Nothing is trained.
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
    flags.DEFINE_list("runs", [], "folders with runs to compare", flag_values=values)
    flags.DEFINE_string("out", None, "where to write; default the workdir", flag_values=values)


def body(values: flags.FlagValues, interrupt: Interrupt) -> None:
    """Restore, measure, write, print."""
    from fedvlr_jax.analysis.report import analyse_run, compare_modalities
    from fedvlr_jax.data import load_configured
    from fedvlr_jax.io.environment import require_backend
    from fedvlr_jax.io.files import prepare_workdir
    from fedvlr_jax.training.experiment import make_experiment
    from fedvlr_jax.training.stored import stored_settings

    del interrupt  # nothing to save
    if values.workdir is None and not values.runs:
        raise ConfigError(
            "--workdir and --runs are missing: give the folder of a training run, or folders to compare"
        )
    if values.workdir is None and values.out is None:
        raise ConfigError("--out is missing: say where the figure of --runs is to be written")
    require_backend()
    if values.workdir is not None:
        workdir = pathlib.Path(values.workdir)
        settings = stored_settings(workdir)
        if values.data_dir is not None:
            settings["data"]["dir"] = values.data_dir
        experiment = make_experiment(settings, load_configured(settings["data"], settings["seed"]))
        print(analyse_run(experiment, workdir, prepare_workdir(pathlib.Path(values.out or values.workdir))))
    if values.runs:
        out = prepare_workdir(pathlib.Path(values.out or values.workdir))
        print(compare_modalities([pathlib.Path(folder) for folder in values.runs], out))


def main() -> int:
    """Run the command line of this process; its exit code, see `cli`."""
    return cli.run(body, about=__doc__, define=define, with_config=False)
