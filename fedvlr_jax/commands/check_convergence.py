"""Measure both sides of every lemma and of Theorem 1 (docs/theory.md) on the real model, and give verdicts.

    python experiments/check_convergence.py --config=configs/theory/convergence.py [--config.data.name=ku]

Exit code 0 if every statement holds, 1 if one is violated, 2 for bad input.
"""

import pathlib
import sys
import time

from absl import flags

from fedvlr_jax.commands import cli
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.io.interrupt import Interrupt

VIOLATED = 1


def define(values: flags.FlagValues) -> None:
    """The flags beside --config."""
    flags.DEFINE_string("workdir", None, "folder; default runs/convergence-<dataset>", flag_values=values)


def body(values: flags.FlagValues, interrupt: Interrupt) -> int:
    """Run the grid, write the files, print the verdicts."""
    # Imported here, so that a slip of the pen in a flag is answered before JAX is loaded.
    import jax

    from fedvlr_jax.data import load_configured
    from fedvlr_jax.io.environment import describe_environment, require_backend
    from fedvlr_jax.io.files import prepare_workdir
    from fedvlr_jax.theory.convergence import check_convergence
    from fedvlr_jax.theory.reporting import verdicts, write_findings

    if "check" not in values.config or "rate" not in values.config.check:
        raise ConfigError("--config: expected a check, such as configs/theory/convergence.py, found a training run")
    settings = cli.plain_settings(values.config)
    if settings["check"]["precision"] not in ("float32", "float64"):
        raise ConfigError(f"check.precision: expected float32 or float64, found {settings['check']['precision']!r}")
    jax.config.update("jax_enable_x64", settings["check"]["precision"] == "float64")
    require_backend(float32=False)
    dataset = load_configured(settings["data"])
    workdir = prepare_workdir(pathlib.Path(values.workdir or f"runs/convergence-{dataset.name}"))
    start = time.perf_counter()

    def report(line: str) -> None:
        interrupt.stop_if_signalled("stopped; nothing was written")
        print(f"{time.perf_counter() - start:6.1f} s  {line}", file=sys.stderr, flush=True)

    findings = check_convergence(settings, dataset, report=report)
    write_findings(findings, workdir, describe_environment(sys.argv, workdir))
    print(
        f"{dataset.name}, {settings['check']['precision']}, {settings['check']['seeds']} seeds, files in {workdir}\n"
    )
    print(verdicts(findings))
    return 0 if findings.holds else VIOLATED


def main() -> int:
    """Run the command line of this process; its exit code, see `cli`."""
    return cli.run(body, about=__doc__, define=define, with_config=True)
