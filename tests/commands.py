"""Runs the commands in tests: inside this process for speed, or as real processes from experiments/."""

from __future__ import annotations

import importlib
import json
import os
import pathlib
import subprocess
import sys
import warnings

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
CLOCKS = ("seconds_", "client_updates_per_second")

TINY = {  # trains in well under a second once it is compiled
    "variant": "base",
    "objective": "bce",
    "rounds": 40,
    "client.steps": 1,
    "client.negatives": 1,
    "fusion.dim": 4,
    "eval.every": 10,
    "eval.patience": 0,
    "baselines": False,
    "data.synthetic.num_users": 12,
    "data.synthetic.num_items": 30,
    "data.synthetic.num_interactions": 90,
    "data.synthetic.skew": 0.0,
    "data.synthetic.dim_visual": 4,
    "data.synthetic.dim_text": 4,
}


def arguments(workdir: pathlib.Path | None = None, **overrides) -> list[str]:
    """The tiny configuration as flags; ``section__field=value`` overrides."""
    fields = TINY | {name.replace("__", "."): value for name, value in overrides.items()}
    flags = [
        f"--config={ROOT}/configs/quickstart.py",
        *(f"--config.{name}={value}" for name, value in fields.items()),
    ]
    return [*flags, f"--workdir={workdir}"] if workdir else flags


def run_here(monkeypatch, name: str, *flags: str) -> int:
    """Run a command in this process, as if by ``experiments/<name>.py``; its exit code."""
    monkeypatch.setattr(sys, "argv", [f"{ROOT}/experiments/{name}.py", *flags])
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # the command line sets its own
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the load_module", DeprecationWarning)  # inside ml_collections
        return importlib.import_module(f"fedvlr_jax.commands.{name}").main()


def start(name: str, *flags: str) -> subprocess.Popen:
    """Start ``experiments/<name>.py`` as a process, with the compilation cache of the tests."""
    cache = {
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }
    command = [sys.executable, str(ROOT / "experiments" / f"{name}.py"), *flags]
    return subprocess.Popen(
        command, env=os.environ | cache, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )


def finish(process: subprocess.Popen, timeout: float = 120.0) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a process."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def results(workdir: pathlib.Path) -> tuple:
    """Everything a finished run wrote that must be equal to the bit: without clocks, of ranks.npz the arrays."""
    with np.load(workdir / "ranks.npz") as arrays:
        ranks = {name: arrays[name].tobytes() for name in arrays.files}
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return without_clocks(json.loads((workdir / "result.json").read_text())), [*map(without_clocks, lines)], ranks


def without_clocks(values: dict) -> dict:
    """The dict without wall-clock fields."""
    return {name: value for name, value in values.items() if not name.startswith(CLOCKS)}
