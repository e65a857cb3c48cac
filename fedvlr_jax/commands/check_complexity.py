"""Check the paper's parameter counts and complexity on the real code (docs/theory.md), and give verdicts.

    python experiments/check_complexity.py --config=configs/theory/complexity.py [--config.measure=False]

Exit code 0 if Table 3 comes out as described, 1 if not, 2 for bad input; exponents that differ are only reported.
"""

import pathlib
import sys

from absl import flags

from fedvlr_jax.commands import cli
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.io.interrupt import Interrupt


def define(values: flags.FlagValues) -> None:
    """The flags beside --config."""
    flags.DEFINE_string("workdir", None, "folder; default runs/complexity", flag_values=values)


def body(values: flags.FlagValues, interrupt: Interrupt) -> int:
    """Count, measure, write the files, print the verdicts."""
    # Imported here, so that a slip of the pen in a flag is answered before JAX is loaded.
    from fedvlr_jax.data import load_configured
    from fedvlr_jax.io.environment import describe_environment, require_backend
    from fedvlr_jax.io.files import prepare_workdir
    from fedvlr_jax.theory import complexity
    from fedvlr_jax.theory.growth import fit_growth, measure_growth
    from fedvlr_jax.theory.messages import messages
    from fedvlr_jax.theory.parameters import table3

    if "growth" not in values.config:
        raise ConfigError("--config: expected a check, such as configs/theory/complexity.py, found a training run")
    settings = cli.plain_settings(values.config)
    require_backend(float32=False)
    dataset = load_configured(settings["data"])
    workdir = prepare_workdir(pathlib.Path(values.workdir or "runs/complexity"))

    def report(line: str) -> None:
        interrupt.stop_if_signalled("stopped; nothing was written")
        print(line, file=sys.stderr, flush=True)

    cells, sent = table3(settings), messages(settings, dataset)
    points = list(measure_growth(settings, report)) if settings["measure"] else []
    exponents = fit_growth(points)
    parts = [complexity.parameter_table(cells), complexity.message_table(sent, dataset.name)]
    parts += [complexity.growth_table(exponents)] if points else []
    text = "\n\n".join(parts)
    environment = describe_environment(sys.argv, workdir)
    complexity.write_complexity(workdir, environment, cells, sent, points, exponents, text)
    print(text)
    return 0 if complexity.as_described(cells) else 1


def main() -> int:
    """Run the command line of this process; its exit code, see `cli`."""
    return cli.run(body, about=__doc__, define=define, with_config=True)
