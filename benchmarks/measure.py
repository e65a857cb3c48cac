"""What the benchmarks share: timing in turn, the machine's two ceilings, peak memory, and tables."""

from __future__ import annotations

import json
import pathlib
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from tabulate import tabulate

from fedvlr_jax.io.environment import describe_environment


class Ceilings(NamedTuple):
    """The most that this machine does: operations a second (float32 matrix product), bytes a second (copy)."""

    flops: float
    bytes: float


class Timing(NamedTuple):
    """Seconds of several calls, and the median of their processor seconds, which say more on a shared machine."""

    median: float
    low: float
    high: float
    processor: float


def interleaved(sides: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Timing]:
    """Seconds of every side, measured in turn after one untimed call of each; results are waited for."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    processor: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, call in sides.items():
            begin, begin_processor = time.perf_counter(), time.process_time()
            jax.block_until_ready(call())
            if repeat:
                seconds[name].append(time.perf_counter() - begin)
                processor[name].append(time.process_time() - begin_processor)
    return {
        name: Timing(statistics.median(x), min(x), max(x), statistics.median(processor[name]))
        for name, x in seconds.items()
    }


def measure_ceilings(size: int = 2048, megabytes: int = 256) -> Ceilings:
    """A product of two square matrices, and a copy that no cache holds; the best of seven calls each."""
    a_nn = jax.random.normal(jax.random.key(0), (size, size))
    x_n = jnp.zeros(megabytes << 18)
    product, copy = jax.jit(lambda a: a @ a), jax.jit(lambda x: x + 1)
    found = interleaved({"product": lambda: product(a_nn), "copy": lambda: copy(x_n)}, 7)
    return Ceilings(2 * size**3 / found["product"].low, 2 * x_n.nbytes / found["copy"].low)


def peak_gigabytes() -> float:
    """Most resident memory of this process so far, 10^9 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def write_results(out: str | None, name: str, rows: Sequence[Mapping[str, Any]], extra: Mapping[str, Any]) -> None:
    """Prints the rows as a table; with a folder `out`, writes ``<name>.json`` and ``<name>.md`` there."""
    table = tabulate([list(row.values()) for row in rows], headers=list(rows[0]), tablefmt="github", floatfmt=",.4g")
    print(table)
    if out:
        folder = pathlib.Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        record = {"rows": list(rows), **extra, "environment": describe_environment([], folder)}
        (folder / f"{name}.json").write_text(json.dumps(record, indent=2, default=str) + "\n")
        (folder / f"{name}.md").write_text(table + "\n")
