"""Audits (docs/privacy.md): what uploads give away, what promoters of items reach, and what epsilon is at least.

python experiments/audit.py --config=configs/audit/ku.py [--config.audit.methods=fcf+base,fcf+fedvlr]
python experiments/audit.py --config=configs/audit/promotion.py
python experiments/audit.py --config=configs/audit/canaries.py
"""

import pathlib
import sys

from absl import flags

from fedvlr_jax.commands import cli
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.io.interrupt import Interrupt


def define(values: flags.FlagValues) -> None:
    """The flags beside --config."""
    flags.DEFINE_string("workdir", None, "folder; default runs/audit", flag_values=values)


def body(values: flags.FlagValues, interrupt: Interrupt) -> None:
    """Audit, print a table, write audit.json."""
    # Imported here, so that a slip of the pen in a flag is answered before JAX is loaded.
    from fedvlr_jax.audit.kinds import make_kind
    from fedvlr_jax.io.environment import describe_environment, require_backend
    from fedvlr_jax.io.files import json_ready, prepare_workdir, write_json

    if "audit" not in values.config:
        raise ConfigError("--config: expected an audit, such as configs/audit/ku.py, found a training run")
    settings = cli.plain_settings(values.config)
    plan = settings.pop("audit")
    kind = make_kind(plan)
    require_backend()
    workdir, rows = prepare_workdir(pathlib.Path(values.workdir or "runs/audit")), []
    for row in kind.rows(settings, plan):
        if rows and rows[-1].get("method") != row.get("method"):
            print(f"{rows[-1]['method']} done", file=sys.stderr, flush=True)
        rows.append(row)
        write_json(workdir / "audit.json", json_ready({"plan": plan, "rows": rows}))
        interrupt.stop_if_signalled(f"stopped; what was found is in {workdir / 'audit.json'}")
    write_json(workdir / "environment.json", describe_environment(sys.argv, workdir))
    print(kind.table(rows))


def main() -> int:
    """Run the command line of this process; its exit code, see `cli`."""
    return cli.run(body, about=__doc__, define=define, with_config=True)
