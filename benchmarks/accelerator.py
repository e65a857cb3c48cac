"""One accelerator in four minutes: rounds, a million clients, sweeps, a large catalogue, compile times, ceilings.

    python benchmarks/accelerator.py [--out=FOLDER] [--seconds=240] [--hosts=all] [--parts=rounds,clients,sweep,best]
        [--workers=0] [--small]

Needs no files: random data in the shapes of KU, ML and Movie. Everything is compiled first, several programs at a
time and without a cache, then measured one by one while nothing else runs. What is not compiled in half of
`--seconds`, or not measured before their end, is left out and named; what was measured is printed and written.

    rounds    fedvlr on every host; share as in throughput.py, of the matrix product and copy measured here
    clients   a round of 10^6 clients, in the shape of growth.py
    sweep     16 and 64 points side by side: "factor" = their rounds one after the other over their rounds together
    best      the 50 best of 10^6 items for 256 users, all at once and 10,000 items at a time

`--small` has everything in sizes that a CPU finishes in seconds, without fusion; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import functools
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, NamedTuple

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1]), str(pathlib.Path(__file__).resolve().parent)]

import catalogue
import growth
import jax
import measure
import throughput
from random_data import random_dataset

from configs.base import get_config
from fedvlr_jax.benchmark.programs import MethodPrograms
from fedvlr_jax.compiling import compile_ahead
from fedvlr_jax.data.buckets import make_client_data
from fedvlr_jax.models.hosts import HOSTS
from fedvlr_jax.training.experiment import make_experiment
from fedvlr_jax.types import Dataset

REPEATS = 3
COLUMNS = ("what", "points", "ms", "updates/s", "share", "factor", "program GB", "compile s")
Row = dict[str, Any]


class Sizes(NamedTuple):
    """What is measured: shapes are (clients, items, rows); `dim` is d."""

    shapes: Mapping[str, tuple[int, int, int]]
    variant: str
    dim: int
    clients: int
    points: tuple[int, ...]
    items: int
    block: int
    product: int
    copy_megabytes: int


FULL = Sizes(
    {"KU": (204, 560, 3_488), "ML": (610, 3_650, 90_274), "Movie": (15_908, 2_528, 111_091)},
    variant="fedvlr",
    dim=64,
    clients=1_000_000,
    points=(16, 64),
    items=1_000_000,
    block=10_000,
    product=8_192,
    copy_megabytes=1_024,
)
SMALL = Sizes(
    {"KU": (12, 40, 60)},
    variant="base",
    dim=4,
    clients=50,
    points=(2,),
    items=500,
    block=100,
    product=128,
    copy_megabytes=1,
)


class Job(NamedTuple):
    """One thing to measure: `prepare` compiles and returns what measures, which returns rows of the table."""

    name: str
    prepare: Callable[[], Callable[[], list[Row]]]


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Measures, prints and writes; the rows of the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=None)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--hosts", default="all")
    parser.add_argument("--parts", default="rounds,clients,sweep,best")
    parser.add_argument("--workers", type=int, default=0, help="programs compiled at a time; 0 = half of the cores")
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args(arguments)
    end = time.perf_counter() + given.seconds
    sizes = SMALL if given.small else FULL
    if not given.small:  # which is about the table, not about its numbers
        jax.config.update("jax_enable_compilation_cache", False)
    ceilings = measure.measure_ceilings(sizes.product, sizes.copy_megabytes)
    device = jax.devices()[0].device_kind
    print(f"{device}: {ceilings.flops / 1e12:.2f} TFLOP/s, {ceilings.bytes / 1e9:.0f} GB/s", file=sys.stderr)
    hosts = tuple(HOSTS) if given.hosts == "all" else tuple(given.hosts.split(","))
    jobs = make_jobs(sizes, hosts, given.parts.split(","), ceilings)
    extra = {"device": device, "jax": jax.__version__, "ceilings": ceilings._asdict()}
    return run_jobs(jobs, end, given.workers or max(1, (os.cpu_count() or 2) // 2), given.out, extra)


def make_jobs(sizes: Sizes, hosts: Sequence[str], parts: Sequence[str], ceilings: measure.Ceilings) -> list[Job]:
    """All jobs of the parts, in the order of their worth."""
    every = {
        "rounds": [
            Job(f"round, {name}, {host}", functools.partial(_prepare_round, sizes, name, host, ceilings))
            for name in sizes.shapes
            for host in hosts
        ],
        "clients": [Job(f"round, {sizes.clients:,} clients", functools.partial(_prepare_clients, sizes, ceilings))],
        "sweep": [Job("sweep", functools.partial(_prepare_sweep, sizes))],
        "best": [
            Job(f"50 best, {block or 'all'} at once", functools.partial(_prepare_best, sizes, block))
            for block in (0, sizes.block)
        ],
    }
    return [job for part in parts for job in every[part]]


def run_jobs(jobs: Sequence[Job], end: float, workers: int, out: str | None, extra: Mapping[str, Any]) -> list[Row]:
    """Compiles all jobs side by side, measures them in turn, and is back by `end` (of ``time.perf_counter``)."""
    rows: list[Row] = []
    left_out: dict[str, str] = {}

    def write() -> None:
        measure.write_results(out, "accelerator", rows, {**extra, "left out": left_out})

    def give_up() -> None:
        if rows:
            write()
        os._exit(3)  # neither a compilation nor a program can be interrupted

    watch = threading.Timer(max(end - time.perf_counter(), 0), give_up)
    watch.daemon = True
    watch.start()
    pool = ThreadPoolExecutor(workers)
    ready = {job.name: pool.submit(job.prepare) for job in jobs}
    wait(ready.values(), timeout=max(end - time.perf_counter(), 0) / 2)
    pool.shutdown(wait=False, cancel_futures=True)
    for job in jobs:
        prepared = ready.pop(job.name)  # its arrays are free before the next one is measured
        if prepared.cancelled() or not prepared.done():
            left_out[job.name] = "not compiled in half of the time"
            continue
        try:
            found = prepared.result()()
        except Exception as error:  # out of memory, say: the others go on
            left_out[job.name] = f"{type(error).__name__}: {error}"
            continue
        rows += [{column: {"what": job.name, **row}.get(column) for column in COLUMNS} for row in found]
        print(rows[-1], file=sys.stderr, flush=True)
    watch.cancel()
    if rows:
        write()
    for name, reason in left_out.items():
        print(f"left out: {name}: {reason}", file=sys.stderr)
    return rows


@functools.cache
def _dataset(name: str, shape: tuple[int, int, int]) -> Dataset:
    return random_dataset(name, *shape, width=64)


def _prepare_round(sizes: Sizes, name: str, host: str, ceilings: measure.Ceilings) -> Callable[[], list[Row]]:
    config = get_config()
    config.host.name, config.variant, config.objective, config.fusion.dim = host, sizes.variant, "bce", sizes.dim
    return _round(config.to_dict(), _dataset(name, sizes.shapes[name]), ceilings)


def _prepare_clients(sizes: Sizes, ceilings: measure.Ceilings) -> Callable[[], list[Row]]:
    return _round(*growth.problem(growth.BASE | {"clients": sizes.clients}), ceilings)


def _round(settings: dict, dataset: Dataset, ceilings: measure.Ceilings) -> Callable[[], list[Row]]:
    """Rounds of all clients."""
    experiment = make_experiment(settings, dataset)
    algorithm, data = experiment.algorithm, jax.device_put(experiment.clients)
    key = jax.random.key(0)
    init, _ = compile_ahead(jax.jit(algorithm.init), key)
    run = jax.jit(algorithm.run, static_argnames="num_rounds", donate_argnames="state")
    state = jax.eval_shape(algorithm.init, key)
    program, compiled = compile_ahead(run, state, data, num_rounds=throughput.ROUNDS)
    least = throughput.least_seconds(settings, algorithm, dataset, state, data, ceilings)
    memory = program.memory_analysis()
    used = memory.temp_size_in_bytes + memory.argument_size_in_bytes

    def timed() -> list[Row]:
        holder = [init(key)]
        timing = measure.interleaved({"": lambda: throughput.advance(program, holder, data)}, REPEATS)[""]
        seconds = timing.median / throughput.ROUNDS
        row = {"ms": 1e3 * seconds, "updates/s": dataset.num_users / seconds, "share": least / seconds}
        return [row | {"program GB": used / 1e9, "compile s": compiled}]

    return timed


def _prepare_sweep(sizes: Sizes) -> Callable[[], list[Row]]:
    """Rounds of one point, and of several side by side."""
    config = get_config()
    config.variant, config.fusion.dim = sizes.variant, sizes.dim
    settings, dataset = config.to_dict(), _dataset("KU", sizes.shapes["KU"])
    clients, sides, compiled = make_client_data(dataset), {}, {}
    for count in (1, *sizes.points):
        programs = MethodPrograms(settings, dataset, clients)
        group = programs.group([{"client.lr": 0.1 / (1 + k)} for k in range(count)])
        holder = [programs.init(group, range(count))]

        def advance(programs: Any = programs, group: Any = group, holder: list = holder) -> Any:
            holder[0], _ = programs.run(group, holder[0], throughput.ROUNDS)
            return holder[0]

        jax.block_until_ready(advance())  # which compiles
        sides[count], compiled[count] = advance, programs.seconds

    def timed() -> list[Row]:
        timing = measure.interleaved({str(count): side for count, side in sides.items()}, REPEATS)
        alone = timing["1"].median
        return [
            {
                "points": count,
                "ms": 1e3 * timing[str(count)].median / throughput.ROUNDS,
                "factor": count * alone / timing[str(count)].median,
                "compile s": compiled[count],
            }
            for count in sides
        ]

    return timed


def _prepare_best(sizes: Sizes, block: int) -> Callable[[], list[Row]]:
    """The best items of 256 users among very many."""
    config = get_config()
    config.fusion.dim, config.eval.item_chunk = 16, block
    experiment = make_experiment(config.to_dict(), _dataset("items", (256, sizes.items, 2_048)))
    algorithm, clients = experiment.algorithm, jax.device_put(experiment.clients)
    params = jax.jit(algorithm.snapshot)(jax.jit(algorithm.init)(jax.random.key(0)), clients.content)
    best = catalogue.make_tasks(algorithm.rank_score, experiment.dataset)["best"]
    program, compiled = compile_ahead(jax.jit(best), params, clients.buckets)

    def timed() -> list[Row]:
        timing = measure.interleaved({"": lambda: program(params, clients.buckets)}, REPEATS)[""]
        gigabytes = program.memory_analysis().temp_size_in_bytes / 1e9
        return [{"ms": 1e3 * timing.median, "program GB": gigabytes, "compile s": compiled}]

    return timed


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # without waiting for compilations that were given up
