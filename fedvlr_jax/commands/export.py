"""Export a trained run: its client as programs that run with jax alone, or all parameters as safetensors.

    python experiments/export.py --workdir=runs/ku --out=client
    python experiments/export.py --workdir=runs/ku --out=client --onnx --web=node_modules/onnxruntime-web
    python experiments/export.py --workdir=runs/ku --out=parameters --format=safetensors

The folder has the client's round, its scoring and its first private state as serialised StableHLO, the broadcast of
the best round, a manifest, and device.py, a loader of under 100 lines. No private state is in it. With --onnx it has
score.onnx, and with --web index.html, a page that ranks items for the private state in a file. With safetensors it
has public.safetensors, and the private parameters of every client in a file of its own.
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
    flags.DEFINE_bool("onnx", False, "also write the scoring as score.onnx", flag_values=values)
    flags.DEFINE_string("web", None, "npm's package onnxruntime-web, for index.html; with --onnx", flag_values=values)
    flags.DEFINE_integer(
        "longest_history", 0, "most items of a history; 0: as many as the longest of the data", 0, flag_values=values
    )


def body(values: flags.FlagValues, interrupt: Interrupt) -> None:
    """Restore, export, say what was written."""
    from fedvlr_jax.deploy.export import client_programs, export_client
    from fedvlr_jax.deploy.onnx_export import scoring_graph, scoring_page
    from fedvlr_jax.deploy.tensors import export_tensors
    from fedvlr_jax.io.environment import require_backend
    from fedvlr_jax.training.job import stored_experiment
    from fedvlr_jax.training.loop import best_public, restore_best

    del interrupt  # nothing to save
    for name in ("workdir", "out"):
        if not getattr(values, name):
            raise ConfigError(f"--{name}: expected a folder, found none")
    if values.web and not values.onnx:
        raise ConfigError("--web: expected --onnx as well, for the page has the graph inside; found --web alone")
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
    more = {}
    if values.onnx:
        scoring = scoring_graph(programs, broadcast, about)
        more["score.onnx"] = scoring.model
        if values.web:
            title = "{dataset}, {host} + {variant}".format(**about)
            more["index.html"] = scoring_page(scoring, dataset, title, pathlib.Path(values.web))
    sizes = export_client(out, programs, broadcast, about, more=more)
    print(tabulate([[name, f"{size / 1e3:.1f} kB"] for name, size in sizes.items()], ["file", "size"]))
    print(f"{out} is ready; {out / 'device.py'} shows how to use it")


def main() -> int:
    """Run the command line of this process; its exit code, see `cli`."""
    return cli.run(body, about=__doc__, define=define, with_config=False)
