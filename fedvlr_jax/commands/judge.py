"""Judge scores that any other library made: ranks, metrics and intervals as for runs, and tests against them.

    python experiments/judge.py --scores=implicit.npy --config.data.name=ML [--against=runs/a,runs/b] [--out=judged]

--scores is a matrix [users, items] (.npy, .npz) or a list (.csv, .tsv, .jsonl, .parquet) with the columns user, item
and score or rank; ids are those of the data set. Train items are left out as in every evaluation here, and items that
a list lacks rank behind all others, tied. --against names workdirs of finished runs on the same data; --out is a
folder for result.json, ranks.npz and tests.csv.
"""

import pathlib

from absl import flags

from fedvlr_jax.commands import cli
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.io.interrupt import Interrupt


def define(values: flags.FlagValues) -> None:
    """The flags beside --config."""
    flags.DEFINE_string("scores", None, "file of scores", flag_values=values)
    flags.DEFINE_list("against", [], "workdirs of finished runs to compare with", flag_values=values)
    flags.DEFINE_string("out", None, "folder to write; nothing is written without", flag_values=values)


def body(values: flags.FlagValues, interrupt: Interrupt) -> None:
    """Read, rank, compare, print."""
    from fedvlr_jax.analysis.judging import compare_with, judge, run_of
    from fedvlr_jax.data import load_configured
    from fedvlr_jax.data.score_files import read_scores
    from fedvlr_jax.io.environment import require_backend
    from fedvlr_jax.io.files import json_ready, prepare_workdir, write_arrays, write_csv, write_json
    from fedvlr_jax.io.judgement import TEST_COLUMNS, comparison_row, judgement_text
    from fedvlr_jax.training.results import rank_arrays

    del interrupt  # nothing to save
    if values.scores is None:
        raise ConfigError("--scores is missing: give a file of scores")
    settings = cli.plain_settings(values.config)
    require_backend()
    dataset = load_configured(settings["data"], settings["seed"])
    file = pathlib.Path(values.scores)
    runs = [run_of(pathlib.Path(folder), dataset) for folder in values.against]
    judged = judge(read_scores(file, dataset), dataset)
    tests = [comparison_row(*test) for test in compare_with(judged, runs)]
    print(judgement_text(file.name, judged.result, [(name, run.result) for name, run in runs], tests))
    if values.out is not None:
        out = prepare_workdir(pathlib.Path(values.out))
        write_json(out / "result.json", json_ready({"scores": str(file), **judged.result}))
        write_arrays(out / "ranks.npz", rank_arrays(judged.ranks))
        write_csv(out / "tests.csv", TEST_COLUMNS, tests)


def main() -> int:
    """Run the command line of this process; its exit code, see `cli`."""
    return cli.run(body, about=__doc__, define=define, with_config=True)
