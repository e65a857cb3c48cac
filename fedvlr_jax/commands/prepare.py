"""From the raw files of a data set to a canonical folder that the other commands train on.

    python experiments/prepare.py --config=configs/prepare/movielens.py --raw=DIR --out=data/ML

Nothing in the raw folder is changed. A second call with the same settings and files changes nothing; other content in
--out is refused. The rules are in docs/guides/data.md.
"""

import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from absl import flags
from tabulate import tabulate

from fedvlr_jax.commands import cli, config_files
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.io.files import read_csv
from fedvlr_jax.io.interrupt import Interrupt

TABLE1 = config_files.PACKAGE / "theory" / "published_table1.csv"


def define(values: flags.FlagValues) -> None:
    """The flags beside --config."""
    flags.DEFINE_string("raw", None, "folder with the raw files, or an archive of it", flag_values=values)
    flags.DEFINE_string("out", None, "canonical folder to write, such as data/ML", flag_values=values)


def body(values: flags.FlagValues, interrupt: Interrupt) -> None:
    """Read, filter, split, write, and show the statistics."""
    from fedvlr_jax.data.prepare.pipeline import prepare
    from fedvlr_jax.data.prepare.settings import check_settings

    def report(line: str) -> None:
        interrupt.stop_if_signalled("stopped; nothing was written")
        print(line, file=sys.stderr, flush=True)

    settings = values.config.to_dict()
    check_settings(settings)
    for name in ("raw", "out"):
        if not getattr(values, name):
            raise ConfigError(f"--{name}: expected a folder, found none")
    raw, out = (pathlib.Path(name).expanduser().resolve() for name in (values.raw, values.out))
    done = prepare(settings, raw, out, report)
    print(describe(done.facts, out.name))
    print(f"{out} {'is ready' if done.is_new else 'has this content already; nothing was changed'}")


def describe(facts: Mapping[str, Any], name: str) -> str:
    """Sizes after each step and the statistics, beside those of the paper where the set is one of its seven."""
    steps = tabulate(
        [[step, *size.values()] for step, size in facts["steps"].items()], ["", "users", "items", "rows"]
    )
    published = {row["dataset"].lower(): row for row in read_csv(TABLE1)}.get(name.lower())
    found = facts["statistics"]
    if published:
        rows = [[field, value, published.get(field, "")] for field, value in found.items()]
        table = tabulate(rows, ["", name, "paper, Table 1"], disable_numparse=True)
    else:
        table = tabulate(list(found.items()), ["", name], disable_numparse=True)
    return f"{steps}\n\n{table}\n"


def main() -> int:
    """Run the command line of this process; its exit code, see `cli`."""
    from fedvlr_jax.data.prepare.settings import help_text

    return cli.run(body, about=__doc__, define=define, with_config=True, help_text=help_text)
