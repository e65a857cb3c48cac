"""Export a trained run: its client as programs that run with jax alone, or all parameters as safetensors.

    python experiments/export.py --workdir=runs/KU-fcf-fedvlr-s0 --out=client
    python experiments/export.py --workdir=runs/KU-fcf-fedvlr-s0 --out=parameters --format=safetensors

The folder has the client's round, its scoring and its first private state as serialised StableHLO, the broadcast of
the best round, a manifest, and device.py, a loader of under 100 lines. No private state is in it. With safetensors
it has public.safetensors, and the private parameters of every client in a file of its own.
"""

import pathlib

import numpy as np
from absl import flags
from tabulate import tabulate

from fedvlr_jax.commands import cli
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.io.interrupt import Interrupt


def define(values: flags.FlagValues) -> None:
    """All flags."""
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    flags.DEFINE_string("out", None, "folder to write", flag_values=values)
    flags.DEFINE_string("data_dir", None, "data root, if it is no longer where it was", flag_values=values)
    flags.DEFINE_enum("format", "programs", ["programs", "safetensors"], "what to write", flag_values=values)
    flags.DEFINE_integer(
        "longest_history", 0, "most items of a history; 0: as many as the longest of the data", 0, flag_values=values
    )


def body(values: flags.FlagValues, interrupt: Interrupt) -> None:
    """Restore, export, say what was written."""
    from fedvlr_jax.deploy.export import client_programs, export_client
    from fedvlr_jax.deploy.tensors import export_tensors
    from fedvlr_jax.io.environment import require_backend
    from fedvlr_jax.training.job import stored_experiment
    from fedvlr_jax.training.loop import best_public, restore_best

    del interrupt  # nothing to save
    for name in ("workdir", "out"):
        if not getattr(values, name):
            raise ConfigError(f"--{name}: expected a folder, found none")
    require_backend()
    workdir, out = pathlib.Path(values.workdir), pathlib.Path(values.out)
    experiment = stored_experiment(workdir, values.data_dir)
    settings, dataset, clients, algorithm = experiment
    if values.format == "safetensors":
        backend, state, progress = restore_best(experiment, workdir)
        about = {"dataset": dataset.name, "host": settings["host"]["name"], "variant": settings["variant"]}
        count = export_tensors(out, backend.parts(state), dataset, about | {"round": progress.best_round})
        print(f"{out} has the public parameters and those of {count} clients")
        return
    public = best_public(experiment, workdir)
    broadcast, _ = algorithm.server.open_round(public, clients.content)
    longest = values.longest_history or int(np.bincount(dataset.train_user).max())
    about = {
        "dataset": dataset.name,
        "host": settings["host"]["name"],
        "variant": settings["variant"],
        "round": int(public.round),
        "num_items": dataset.num_items,
    }
    programs = client_programs(algorithm, broadcast, dataset.num_items, longest)
    sizes = export_client(out, programs, broadcast, about)
    print(tabulate([[name, f"{size / 1e3:.1f} kB"] for name, size in sizes.items()], ["program", "size"]))
    print(f"{out} is ready; {out / 'device.py'} shows how to use it")


def main() -> int:
    """Run the command line of this process; its exit code, see `cli`."""
    return cli.run(body, about=__doc__, define=define, with_config=False)
