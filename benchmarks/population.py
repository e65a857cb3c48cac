"""Seconds and memory of rounds of one cohort size from ever larger populations, with private states on disk.

    python benchmarks/population.py [--cohort=10000] [--populations=10000,100000,1000000] [--out=population.json]

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
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import numpy as np

from configs.base import get_config
from fedvlr_jax.programs import make_experiment
from fedvlr_jax.stored import Finished, StoredPrograms
from fedvlr_jax.types import Dataset, FedState

COLUMNS = ("round", "draw", "fetch", "device", "write")
NUM_ITEMS, ITEMS_PER_CLIENT, DIM_FEATURES = 20_000, 10, 32


def main() -> None:
    """Measures every population in a process of its own, prints a table and writes JSON."""
    arguments = _parser().parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments)))
        return
    rows = []
    for size in map(int, arguments.populations.split(",")):
        command = [sys.executable, __file__, *sys.argv[1:], f"--only={size}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(line(rows[-1]) if len(rows) > 1 else f"{header()}\n{line(rows[-1])}", flush=True)
    print(f"\nlargest over smallest population: {rows[-1]['round'] / rows[0]['round']:.2f} times the seconds a round")
    if arguments.out:
        pathlib.Path(arguments.out).write_text(json.dumps(rows, indent=2) + "\n")


def measure(num_users: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One population: medians of seconds, and the peak of resident memory in GB, of this process."""
    begin = time.perf_counter()
    experiment = make_experiment(settings(arguments), synthetic(num_users))
    made = time.perf_counter() - begin
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        programs = StoredPrograms(experiment, pathlib.Path(folder), eval_chunk=256)
        state = programs.init(0)
        if arguments.written:
            write_everybody(programs, num_users)
        begin = time.perf_counter()
        state, _ = programs.advance(state, 2)
        first = time.perf_counter() - begin
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
        "cohort": min(arguments.cohort, num_users),
        "round": statistics.median(stretches),
        "stretches": stretches,
        **{name: statistics.median(values) for name, values in steps.items()},
        "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "gigabytes_on_disk": stored / 1e9,
        "seconds_data": made,
        "seconds_compile_and_two_rounds": first,
    }


def write_everybody(programs: StoredPrograms, num_users: int) -> None:
    """Put a state of every client into the store."""
    for begin in range(0, num_users, 10_000):
        fetched = programs.fetch(np.arange(begin, min(begin + 10_000, num_users)), np.empty(0, np.int64))
        programs.write_back(Finished(fetched.cohort.ids, fetched.private))
    programs.commit()


def one_by_one(programs: StoredPrograms, state: FedState, rounds: int) -> dict[str, list[float]]:
    """Seconds of every step of some rounds, none of which overlaps with another."""
    seconds: dict[str, list[float]] = {name: [] for name in COLUMNS[1:]}

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


def synthetic(num_users: int) -> Dataset:
    """Random interactions of every client, 5 to 14 distinct items, and random features."""
    rng = np.random.default_rng(0)
    length_u = rng.integers(ITEMS_PER_CLIENT // 2, ITEMS_PER_CLIENT + ITEMS_PER_CLIENT // 2, num_users)
    user = np.repeat(np.arange(num_users, dtype=np.int64), length_u)
    pair = np.unique(user * NUM_ITEMS + rng.integers(0, NUM_ITEMS, user.size))
    V, C = (rng.normal(size=(NUM_ITEMS, DIM_FEATURES)).astype(np.float32) for _ in range(2))
    return Dataset(
        name="random",
        num_users=num_users,
        num_items=NUM_ITEMS,
        train_user=(pair // NUM_ITEMS).astype(np.int32),
        train_item=(pair % NUM_ITEMS).astype(np.int32),
        valid_item=rng.integers(0, NUM_ITEMS, num_users).astype(np.int32),
        test_item=rng.integers(0, NUM_ITEMS, num_users).astype(np.int32),
        V=V / np.linalg.norm(V, axis=1, keepdims=True),
        C=C / np.linalg.norm(C, axis=1, keepdims=True),
    )


def header() -> str:
    """The first line of the table."""
    names = (*(f"{name} s" for name in COLUMNS), "peak GB", "disk GB")
    return f"{'population':>10}" + "".join(f"{name:>10}" for name in names)


def line(row: dict[str, Any]) -> str:
    """One population as a line of the table."""
    values = (*(row[name] for name in COLUMNS), row["peak_gigabytes"], row["gigabytes_on_disk"])
    return f"{row['population']:>10}" + "".join(f"{value:>10.3f}" for value in values)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--populations", default="10000,100000,1000000", help="numbers of clients, a comma list")
    parser.add_argument("--cohort", type=int, default=10_000, help="clients a round")
    parser.add_argument("--steps", type=int, default=2, help="local steps")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of a stretch")
    parser.add_argument("--repeats", type=int, default=3, help="stretches")
    parser.add_argument("--written", action="store_true", help="every client was trained before")
    parser.add_argument("--folder", default=".", help="where a temporary folder for the store is made")
    parser.add_argument("--out", default="", help="a JSON file for the numbers")
    parser.add_argument("--only", type=int, default=0, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
