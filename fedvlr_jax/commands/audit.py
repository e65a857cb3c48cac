"""Show what uploads give away of train items and router weights, under several defences (docs/privacy.md).

python experiments/audit.py --config=configs/audit/ku.py [--config.audit.methods=fcf+base,fcf+fedvlr]
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
    """Audit method after method, print a table, write audit.json."""
    # Imported here, so that a slip of the pen in a flag is answered before JAX is loaded.
    from fedvlr_jax.assembly import parse_names
    from fedvlr_jax.audit.report import as_rows, table
    from fedvlr_jax.audit.runner import audit
    from fedvlr_jax.data import load_configured
    from fedvlr_jax.io.environment import describe_environment, require_backend
    from fedvlr_jax.io.files import json_ready, prepare_workdir, write_json
    from fedvlr_jax.settings import override
    from fedvlr_jax.training.experiment import make_experiment

    if "audit" not in values.config:
        raise ConfigError("--config: expected an audit, such as configs/audit/ku.py, found a training run")
    settings = cli.plain_settings(values.config)
    plan = settings.pop("audit")
    require_backend()
    dataset = load_configured(settings["data"], settings["seed"])
    workdir, rows = prepare_workdir(pathlib.Path(values.workdir or "runs/audit")), []
    for objective in parse_names(plan["objectives"]):
        for method in parse_names(plan["methods"]):
            host, _, variant = method.partition("+")
            changes = {"host.name": host, "variant": variant, "objective": objective}
            print(f"{method}, {objective}", file=sys.stderr, flush=True)
            experiment = make_experiment(override(settings, changes), dataset)
            for row in as_rows(f"{host} + {variant}, {objective}", audit(experiment, plan)):
                interrupt.stop_if_signalled("stopped; nothing was written")
                rows.append(row)
    write_json(workdir / "audit.json", json_ready({"plan": plan, "rows": rows}))
    write_json(workdir / "environment.json", describe_environment(sys.argv, workdir))
    print(table(rows))


def main() -> int:
    """Run the command line of this process; its exit code, see `cli`."""
    return cli.run(body, about=__doc__, define=define, with_config=True)
