"""Sixteen points of a sweep: one vmapped program against one after the other through the program of a single run.

    python benchmarks/sweep_side_by_side.py [--set=synthetic] [--points=16] [--rounds=10] [--repeats=3]

Both sides train the same points of server.lr and client.lr (fcf + fedvlr) in one process, from the first round to
their test ranks. Medians after one untimed call of each, which compiles; compile time is printed apart. The largest
difference of any validation or test metric is printed too: both sides compute the same up to the order of summation,
which unstable training makes large (try --server-lr=0.1 --client-lr=1: the server's Adam amplifies small gradients).
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import sys
import time
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import numpy as np

from configs.base import get_config
from fedvlr_jax.benchmark.group import Outcome, Run, train_group
from fedvlr_jax.benchmark.programs import MethodPrograms
from fedvlr_jax.data import load_configured
from fedvlr_jax.data.buckets import make_client_data
from fedvlr_jax.evaluation.metrics import MAIN_CUTOFF, METRICS, TEST, VALID, user_values
from fedvlr_jax.training.schedule import make_plan


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="synthetic", help="a data set below the data root, or synthetic")
    parser.add_argument("--points", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--server-lr", type=float, default=0.01, help="of the fastest point; the slowest has a tenth")
    parser.add_argument("--client-lr", type=float, default=0.3, help="of the fastest point; the slowest has a tenth")
    arguments = parser.parse_args()
    config = get_config()
    config.data.name, config.rounds, config.eval.every = arguments.set, arguments.rounds, arguments.rounds
    settings = config.to_dict()
    dataset = load_configured(settings["data"])
    plan, programs = make_plan(settings), MethodPrograms(settings, dataset, make_client_data(dataset))
    scale_m = np.geomspace(0.1, 1.0, arguments.points)
    most = {"server.lr": arguments.server_lr, "client.lr": arguments.client_lr}
    runs = [Run({field: float(x * scale) for field, x in most.items()}, seed=0) for scale in scale_m]

    def train(group: Sequence[Run]) -> list[Outcome]:
        return train_group(programs, plan, group, megabytes_per_round=0.0)

    sides = {"one by one": lambda: [train([run])[0] for run in runs], "side by side": lambda: train(runs)}
    compiled, seconds, outcomes = {}, {name: [] for name in sides}, {}
    for repeat in range(arguments.repeats + 1):
        for name, side in sides.items():
            begin, before = time.perf_counter(), programs.seconds
            outcomes[name] = side()
            if repeat:
                seconds[name].append(time.perf_counter() - begin)
            else:
                compiled[name] = programs.seconds - before
    device = jax.devices()[0].device_kind
    print(f"{dataset.name}: {dataset.num_users} clients, {len(runs)} points, {plan.rounds} rounds each, {device}")
    for name, values in seconds.items():
        spread = f"({min(values):.2f} to {max(values):.2f})"
        print(f"{name:12} {statistics.median(values):7.2f} s {spread}, compiled in {compiled[name]:.0f} s")
    factor = statistics.median(seconds["one by one"]) / statistics.median(seconds["side by side"])
    print(
        f"side by side is {factor:.2f} times as fast; metrics differ by at most {difference(*outcomes.values()):.1e}"
    )


def difference(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> float:
    """The largest difference of any mean validation or test metric at the main cut-off, over all runs."""
    return max(
        abs(
            float(
                np.mean(user_values(a.ranks, metric, split=split))
                - np.mean(user_values(b.ranks, metric, split=split))
            )
        )
        for a, b in zip(ours, theirs, strict=True)
        for metric in (f"{name}@{MAIN_CUTOFF}" for name in METRICS)
        for split in (VALID, TEST)
    )


if __name__ == "__main__":
    main()
