"""The quickstart from start to result as a user meets it: seconds, processor seconds, programs and their compilation.

    python benchmarks/first_minute.py [--checkouts=.,../before] [--repeats=3] [--config=configs/quickstart.py]
        [--out=FOLDER]

Every checkout (a folder with experiments/train.py) trains in a fresh process and an empty workdir, in turn with the
others: first without a compilation cache, then with one that an untimed run has filled. Medians. Processor seconds
(user and system) say more than seconds where the machine is shared. "compile s" are those of XLA alone, as the log of
JAX has them; tracing and lowering come before and are part of the rest.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1]), str(pathlib.Path(__file__).resolve().parent)]

import measure

from fedvlr_jax.io.compilation_cache import LEAST

COMPILED = re.compile(r"Finished XLA compilation of .* in ([0-9.e-]+) sec")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkouts", default=".")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--out", default=None)
    arguments = parser.parse_args()
    checkouts = arguments.checkouts.split(",")
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(arguments.repeats):
            for number, checkout in enumerate(checkouts):
                cache = pathlib.Path(folder) / f"cache{number}"
                if not repeat:
                    train(checkout, arguments.config, cache)
                for kind, at in (("without", None), ("with", cache)):
                    row = train(checkout, arguments.config, at)
                    found.setdefault((checkout, kind), []).append(row)
                    print(checkout, kind, row, file=sys.stderr, flush=True)
    rows = [{"checkout": checkout, "cache": kind, **_medians(seen)} for (checkout, kind), seen in found.items()]
    measure.write_results(arguments.out, "first_minute", rows, {"arguments": vars(arguments)})


def train(checkout: str, config: str, cache: pathlib.Path | None) -> dict[str, float]:
    """One training run in a process of its own; `cache` is where compiled programs are kept, None for nowhere."""
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, "experiments/train.py", f"--config={config}", f"--workdir={workdir}"]
        kept = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
        if cache is not None:
            kept = {"JAX_COMPILATION_CACHE_DIR": str(cache), **LEAST}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
        before, begin = _processor_seconds(), time.perf_counter()
        log = subprocess.run(
            command,
            cwd=checkout,
            env={**environment, **kept, "JAX_LOG_COMPILES": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stderr
        seconds = time.perf_counter() - begin
    compiled = [float(x) for x in COMPILED.findall(log)]
    return {
        "s": seconds,
        "processor s": _processor_seconds() - before,
        "programs": len(compiled),
        "compile s": sum(compiled),
    }


def _processor_seconds() -> float:
    """User and system seconds of all processes that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _medians(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


if __name__ == "__main__":
    main()
