"""Seconds of training until the validation metric (NDCG@50) reaches a target, with the tuned settings of a data set.

    python benchmarks/time_to_target.py [--set=ku] [--methods=fcf+base,fcf+fedvlr,...|all] [--target=0.15]
        [--rounds=400] [--every=5] [--seeds=3] [--precision=float32] [--out=FOLDER]

The set is a configuration with tuned methods, ku or ml. A run stops at the first evaluation (every so many rounds) at
or above the target. Seconds are those of the rounds alone, after compilation; compiling and ranking have
columns of their own. Of a method that never reaches the target within the rounds, the best value is in the table.
"""

from __future__ import annotations

import argparse
import importlib
import pathlib
import statistics
import sys
import time
from typing import Any, NamedTuple

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1]), str(pathlib.Path(__file__).resolve().parent)]

import measure

from fedvlr_jax.data import load_configured
from fedvlr_jax.evaluation.metrics import SELECTION_METRIC, summarise
from fedvlr_jax.training.device_backend import DeviceBackend
from fedvlr_jax.training.experiment import make_experiment


class Race(NamedTuple):
    """One run: the best validation metric it saw, the round it stopped at, and seconds of rounds and rankings."""

    best: float
    round: int
    train: float
    rank: float


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="ku", choices=["ku", "ml"])
    parser.add_argument("--methods", default="fcf+base,fcf+fedvlr,fedavg+fedvlr,pfedrec+fedvlr,fedrap+fedvlr")
    parser.add_argument("--target", type=float, default=0.15)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--out", default=None)
    arguments = parser.parse_args()
    chosen = importlib.import_module(f"configs.{arguments.set}")
    methods = list(chosen.CHOSEN) if arguments.methods == "all" else arguments.methods.split(",")
    rows = []
    for method in methods:
        config = chosen.get_config(method)
        config.compute.precision = arguments.precision
        rows.append({"method": method, **_row(config.to_dict(), arguments)})
        print(rows[-1], file=sys.stderr, flush=True)
    extra = {"arguments": vars(arguments)}
    measure.write_results(arguments.out, f"time_to_target_{arguments.set}_{arguments.target}", rows, extra)


def _row(settings: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """One row of the table: medians over the seeds that reached the target."""
    experiment = make_experiment(settings, load_configured(settings["data"]))
    programs = DeviceBackend(experiment, eval_chunk=settings["eval"]["chunk"])
    programs.prepare(arguments.every)
    races = [race(programs, seed, arguments) for seed in range(arguments.seeds)]
    reached = [run for run in races if run.best >= arguments.target]

    def median(name: str) -> float | None:
        return statistics.median(getattr(run, name) for run in reached) if reached else None

    return {
        "reached": f"{len(reached)} of {len(races)}",
        "rounds": median("round"),
        "seconds of rounds": median("train"),
        "of rankings": median("rank"),
        f"best {SELECTION_METRIC}": max(run.best for run in races),
        "compile s": programs.seconds,
    }


def race(programs: DeviceBackend, seed: int, arguments: argparse.Namespace) -> Race:
    """Trains from scratch until the target, or to the last round."""
    state, result = programs.init(seed), Race(0.0, 0, 0.0, 0.0)
    while result.best < arguments.target and result.round < arguments.rounds:
        begin = time.perf_counter()
        state, _ = programs.advance(state, arguments.every)
        middle = time.perf_counter()
        valid = summarise(programs.rank(state, hide_test=True), programs.warm_i)["valid"]
        result = Race(
            max(result.best, valid[SELECTION_METRIC]),
            result.round + arguments.every,
            result.train + middle - begin,
            result.rank + time.perf_counter() - middle,
        )
    return result


if __name__ == "__main__":
    main()
