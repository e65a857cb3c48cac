"""The command of fedvlr_jax/commands/explain.py, run from a checkout."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from fedvlr_jax.commands.explain import main

if __name__ == "__main__":
    sys.exit(main())
