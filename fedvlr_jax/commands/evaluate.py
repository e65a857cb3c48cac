"""Compute the metrics of a run again from its best checkpoint, and compare them with its result.json.

python experiments/evaluate.py --workdir=runs/KU-fcf-fedvlr-s0 [--data_dir=/where/the/data/is/now] [--recommend=10]
python experiments/evaluate.py --workdir=runs/x --recommend=10 --users=196,22 --format=jsonl
python experiments/evaluate.py --workdir=runs/x --lists

--recommend=K also writes recommendations.csv (or .jsonl with --format=jsonl) into the workdir: every user's K best
items outside of the history, in the original ids and with titles where the data set has them; --users, a comma list
of original ids, writes those of some users alone. --lists also judges whole lists: coverage, Gini of exposure,
popularity, novelty, diversity.

--history=FILE, a csv file with the columns user, item and perhaps timestamp, writes new_users.csv (or .jsonl)
instead: the K best items for users who were not trained.
"""

import contextlib
import pathlib

from absl import flags

from fedvlr_jax.commands import cli
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.io.interrupt import Interrupt


def define(values: flags.FlagValues) -> None:
    """All flags."""
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    flags.DEFINE_string("data_dir", None, "data root, if it is no longer where it was", flag_values=values)
    flags.DEFINE_integer("recommend", 0, "write so many items for every user", lower_bound=0, flag_values=values)
    flags.DEFINE_list("users", None, "recommend to these users alone, by their ids", flag_values=values)
    flags.DEFINE_bool("lists", False, "judge whole lists too", flag_values=values)
    flags.DEFINE_string("history", None, "csv file with histories of new users", flag_values=values)
    flags.DEFINE_enum("format", "csv", ["csv", "jsonl"], "of the recommendations", flag_values=values)


def body(values: flags.FlagValues, interrupt: Interrupt) -> None:
    """Restore, rank, print."""
    from fedvlr_jax.data.posted import read_histories
    from fedvlr_jax.io.environment import require_backend
    from fedvlr_jax.io.files import write_rows
    from fedvlr_jax.io.identity import differences
    from fedvlr_jax.io.lock import own
    from fedvlr_jax.io.tables import result_table
    from fedvlr_jax.newcomers import recommend_with
    from fedvlr_jax.training.job import evaluate_job, stored_experiment
    from fedvlr_jax.training.loop import restore_best
    from fedvlr_jax.training.stored import stored_baselines, stored_result

    del interrupt  # nothing to save
    if values.workdir is None:
        raise ConfigError("--workdir is missing: give the folder of a training run")
    if values.users is not None and not values.recommend:
        raise ConfigError("--users is for --recommend=K: give the number of items too")
    require_backend()
    workdir = pathlib.Path(values.workdir)
    experiment = stored_experiment(workdir, values.data_dir)
    if values.history is not None:
        file = workdir / f"new_users.{values.format}"
        histories = read_histories(pathlib.Path(values.history))
        _, state, _ = restore_best(experiment, workdir)
        rows = recommend_with(experiment, state, histories, values.recommend or 10, titles=True)
        with own(workdir):
            write_rows(file, rows, values.format)
        print(f"{file}: {len(rows)} items for {len(histories)} users who were not trained")
        return
    with own(workdir) if values.recommend else contextlib.nullcontext():
        result = evaluate_job(
            experiment,
            workdir,
            num_best=values.recommend,
            format=values.format,
            users=values.users,
            lists=values.lists,
        )
    print(result_table(result, stored_baselines(workdir) or []))
    stored = stored_result(workdir)
    if stored is None:
        print("The run is not finished; these are the metrics of its best checkpoint so far.")
        return
    clocks = {name for name in stored if name.startswith(("seconds_", "client_updates_"))}
    if "lists" not in stored:
        result.pop("lists", None)
    found = differences(stored, result, origin="result.json")
    lines = [line for line in found if line.split(":")[0] not in clocks]
    if lines:
        print("These differ from result.json:", *lines, sep="\n  ")
    else:
        print("All metrics are equal to those of result.json.")


def main() -> int:
    """Run the command line of this process; its exit code, see `cli`."""
    return cli.run(body, about=__doc__, define=define, with_config=False)
