"""Seconds and memory of rounds of one cohort size from ever larger populations, with private states on disk.

    python benchmarks/population.py [--cohort=10000] [--populations=10000,100000,1000000] [--out=FOLDER]

fcf + fedvlr, bce, d = 16, 20,000 items, about 10 train items a client. Every population runs in a process of its
own, so that its peak of resident memory is its own. `round` is the median over the rounds of a stretch in which
drawing, reading and writing run in the background; the columns behind it are medians of the same steps one by one.
A client that no round had before is initialised when it is read; with --written all of them were written before.

    draw      the cohort's ids                      device   the round alone, its arrays are on the device
    fetch     histories, states, copies to device   write    states back into the store
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1]), str(pathlib.Path(__file__).resolve().parent)]

import jax
import measure
import numpy as np
from random_data import random_dataset

from configs.base import get_config
from fedvlr_jax.training.experiment import make_experiment
from fedvlr_jax.training.store_backend import Finished, StoreBackend
from fedvlr_jax.types import FedState

STEPS = ("draw", "fetch", "device", "write")
NUM_ITEMS, ITEMS_PER_CLIENT, DIM_FEATURES = 20_000, 10, 32


def main() -> None:
    """Measures every population in a process of its own, prints a table and writes JSON."""
    arguments = _parser().parse_args()
    if arguments.only:
        print(json.dumps(one_population(arguments.only, arguments)))
        return
    rows = []
    for size in map(int, arguments.populations.split(",")):
        command = [sys.executable, __file__, *sys.argv[1:], f"--only={size}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], file=sys.stderr, flush=True)
    name = "population_written" if arguments.written else "population"
    measure.write_results(arguments.out, name, rows, {"arguments": vars(arguments)})
    ratio = rows[-1]["round s"] / rows[0]["round s"]
    print(f"largest over smallest population: {ratio:.2f} times the seconds a round")


def one_population(num_users: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One population: medians of seconds, and the peak of resident memory in GB, of this process."""
    num_rows = ITEMS_PER_CLIENT * num_users
    dataset = random_dataset("random", num_users, NUM_ITEMS, num_rows, width=DIM_FEATURES, skew=0.3)
    experiment = make_experiment(settings(arguments), dataset)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        programs = StoreBackend(experiment, pathlib.Path(folder), eval_chunk=256)
        state = programs.init(0)
        if arguments.written:
            write_everybody(programs, num_users)
        state, _ = programs.advance(state, 2)  # compiles
        stretches = []
        for _ in range(arguments.repeats):
            begin = time.perf_counter()
            state, info = programs.advance(state, arguments.rounds)
            stretches.append((time.perf_counter() - begin) / arguments.rounds)
        if int(info.num_dropped.sum()):
            raise RuntimeError(f"expected finite clients only, found {info.num_dropped.tolist()} dropped")
        steps = one_by_one(programs, state, arguments.rounds)
        stored = sum(path.stat().st_size for path in pathlib.Path(folder).iterdir())
    return {
        "population": num_users,
        "round s": statistics.median(stretches),
        "from": min(stretches),
        "to": max(stretches),
        **{f"{name} s": statistics.median(values) for name, values in steps.items()},
        "peak GB": measure.peak_gigabytes(),
        "GB on disk": stored / 1e9,
    }


def write_everybody(programs: StoreBackend, num_users: int) -> None:
    """Put a state of every client into the store."""
    for begin in range(0, num_users, 10_000):
        fetched = programs.fetch(np.arange(begin, min(begin + 10_000, num_users)), np.empty(0, np.int64))
        programs.write_back(Finished(fetched.cohort.ids, fetched.private))
    programs.commit()


def one_by_one(programs: StoreBackend, state: FedState, rounds: int) -> dict[str, list[float]]:
    """Seconds of every step of some rounds, none of which overlaps with another."""
    seconds: dict[str, list[float]] = {name: [] for name in STEPS}

    def timed(name: str, call: Callable, *args: Any) -> Any:
        begin = time.perf_counter()
        found = jax.block_until_ready(call(*args))
        seconds[name].append(time.perf_counter() - begin)
        return found

    finished, before = None, np.empty(0, np.int64)
    first = int(state.public.round)
    for number in range(first, first + rounds):
        ids = timed("draw", programs.draw, state.key, number)
        fetched = timed("fetch", programs.fetch, ids, before)
        state, finished, _ = timed("device", programs.step, state, fetched, finished)
        timed("write", programs.write_back, finished)
        before = ids
    return seconds


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The configuration of every population."""
    config = get_config()
    config.objective, config.client.steps, config.fusion.dim = "bce", arguments.steps, 16
    config.compute.store, config.server.clients_per_round = "disk", arguments.cohort
    return config.to_dict()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--populations", default="10000,100000,1000000", help="numbers of clients, a comma list")
    parser.add_argument("--cohort", type=int, default=10_000, help="clients a round")
    parser.add_argument("--steps", type=int, default=2, help="local steps")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of a stretch")
    parser.add_argument("--repeats", type=int, default=3, help="stretches")
    parser.add_argument("--written", action="store_true", help="every client was trained before")
    parser.add_argument("--folder", default=".", help="where a temporary folder for the store is made")
    parser.add_argument("--out", default=None, help="a folder for the table and its JSON")
    parser.add_argument("--only", type=int, default=0, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
