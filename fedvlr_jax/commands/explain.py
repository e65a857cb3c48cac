"""Why some users of a trained run are shown what they are shown: explain.json and explain.html.

    python experiments/explain.py --workdir=runs/KU-fcf-fedvlr-s0 --user=17 [--user=23] [--k=10] [--out=folder]

For every user: the history, the newest first; the weights of the views beside those of the average user; the k best
items, and for each how much every view and which items of the history added to its score. The files say what of this
is exact. Ids are those of the data set. Pictures of items are taken from <data root>/<set>/images or --images, files
named by the ids of items (17.jpg), where they are small. Nothing is trained.
"""

import functools
import pathlib
import time

from absl import flags

from fedvlr_jax.commands import cli
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.io.interrupt import Interrupt


def define(values: flags.FlagValues) -> None:
    """All flags."""
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    flags.DEFINE_string("data_dir", None, "data root, if it is no longer where it was", flag_values=values)
    flags.DEFINE_multi_string("user", [], "id of a user; may be given again", flag_values=values)
    flags.DEFINE_integer("k", 10, "items for each user", 1, flag_values=values)
    flags.DEFINE_string("images", None, "folder with pictures of items", flag_values=values)
    flags.DEFINE_string("out", None, "where to write; default the workdir", flag_values=values)


def body(values: flags.FlagValues, interrupt: Interrupt) -> None:
    """Restore, explain, write, print."""
    from fedvlr_jax.analysis.explanation import explain, make_explainer, with_pictures
    from fedvlr_jax.data import data_root
    from fedvlr_jax.io.environment import require_backend
    from fedvlr_jax.io.files import prepare_workdir, write_bytes, write_json
    from fedvlr_jax.io.pictures import picture_address
    from fedvlr_jax.report.pages import render
    from fedvlr_jax.training.job import stored_experiment
    from fedvlr_jax.training.loop import restore_best

    del interrupt  # nothing to save
    if values.workdir is None or not values.user:
        raise ConfigError("expected --workdir, the folder of a training run, and --user, the id of a user")
    require_backend()
    workdir = pathlib.Path(values.workdir)
    experiment = stored_experiment(workdir, values.data_dir)
    _, state, _ = restore_best(experiment, workdir)
    explainer = make_explainer(experiment, state, values.k)
    out = prepare_workdir(pathlib.Path(values.out or values.workdir))
    begin = time.perf_counter()
    explained = explain(explainer, values.user)
    write_json(out / "explain.json", explained)
    data = experiment.settings["data"]
    images = pathlib.Path(values.images) if values.images else data_root(data["dir"]) / data["name"] / "images"
    shown = with_pictures(explained, functools.partial(picture_address, images))
    title = f"{explained['dataset']}: why users see what they see"
    write_bytes(out / "explain.html", render("explain.html", title=title, explained=shown).encode())
    for user in explained["users"]:
        best = [item["title"] or item["item"] for item in user["items"][:3]]
        print(f"user {user['user']}: {len(user['history'])} items in the history; best {', '.join(best)}")
    print(f"{out / 'explain.json'} and explain.html ({time.perf_counter() - begin:.1f} s)")


def main() -> int:
    """Run the command line of this process; its exit code, see `cli`."""
    return cli.run(body, about=__doc__, define=define, with_config=False)
