"""How a round grows with clients, rows of a client, items, local steps, operators and dimensions; fitted exponents.

    python benchmarks/growth.py [--sizes=clients,rows,items,steps,operators,dim] [--repeats=3] [--out=FOLDER]

FCF + FedVLR, bce, 2 negatives, random data; one size at a time, the others at their base. Every size has two times:
of the round, and of its server part alone (publish, pull back, optimizer step, an empty table of cotangents);
"clients" is their difference. Exponents are least-squares slopes of log seconds over log size, over all points and
over the upper half: constant costs flatten the small ones. A difference below 5 % of its round is left out of them.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1]), str(pathlib.Path(__file__).resolve().parent)]

import jax
import jax.numpy as jnp
import measure
import numpy as np
from random_data import random_dataset

from configs.base import get_config
from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.compiling import compile_ahead
from fedvlr_jax.data.buckets import make_client_data
from fedvlr_jax.types import Dataset

SEEN = 0.05  # a part below this share of its round is lost in the noise of a difference of two times
BASE = {"clients": 3_000, "rows": 8, "items": 3_000, "steps": 2, "operators": 2, "dim": 16}
BESIDE = {"rows": {"items": 30_000}}
"""What differs from the base while a size grows: with so many items no step is cheaper over all of them."""
VALUES = {
    "clients": (100, 1_000, 10_000, 100_000, 1_000_000),
    "rows": (4, 16, 64, 256, 1_024),
    "items": (1_000, 10_000, 100_000, 1_000_000),
    "steps": (1, 4, 16, 64),
    "operators": (1, 2, 4, 8),
    "dim": (8, 16, 32, 64),
}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(VALUES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", default=None)
    arguments = parser.parse_args()
    rows, exponents = [], []
    for size in arguments.sizes.split(","):
        found = [point(BASE | BESIDE.get(size, {}) | {size: value}, arguments.repeats) for value in VALUES[size]]
        rows += [{"size": size, "value": value, **at} for value, at in zip(VALUES[size], found, strict=True)]
        exponents += [
            {"size": size, "part": part, **_exponents(VALUES[size], found, part)} for part in ("round", "clients")
        ]
        print(rows[-len(found) :], exponents[-2:], file=sys.stderr, flush=True)
    measure.write_results(arguments.out, "growth", rows, {"exponents": exponents})
    measure.write_results(arguments.out, "growth_exponents", exponents, {})


def _exponents(values: tuple[int, ...], found: list[dict[str, float]], part: str) -> dict[str, float]:
    """Over all points and over the upper half of those at which the part is not lost in the noise."""
    value, milliseconds = np.array(
        [
            (v, at[f"{part} ms"])
            for v, at in zip(values, found, strict=True)
            if at[f"{part} ms"] > SEEN * at["round ms"]
        ]
    ).T
    half = len(value) // 2
    return {"exponent": slope(value, milliseconds), "upper half": slope(value[half:], milliseconds[half:])}


def slope(value: np.ndarray, milliseconds: np.ndarray) -> float:
    """The exponent: least squares on logarithms."""
    return float(np.polyfit(np.log(value), np.log(milliseconds), 1)[0])


def problem(shape: dict[str, int]) -> tuple[dict, Dataset]:
    """Settings and random data of a shape with the keys of `BASE`."""
    config = get_config()
    config.objective, config.fusion.dim, config.client.steps = "bce", shape["dim"], shape["steps"]
    config.client.negatives = 2
    config.fusion.operators = ",".join(f"gate#{k}" if k else "gate" for k in range(shape["operators"]))
    num_rows = shape["clients"] * shape["rows"]
    return config.to_dict(), random_dataset("random", shape["clients"], shape["items"], num_rows, width=16, skew=0.3)


def point(shape: dict[str, int], repeats: int) -> dict[str, float]:
    """Milliseconds of the round and of its parts, and bytes of the round's program."""
    settings, dataset = problem(shape)
    algorithm, data = make_algorithm(settings, dataset), jax.device_put(make_client_data(dataset))
    holder = [jax.jit(algorithm.init)(jax.random.key(0))]
    run = jax.jit(algorithm.run, static_argnames="num_rounds", donate_argnames="state")
    program, _ = compile_ahead(run, holder[0], data, num_rounds=1)
    public = jax.tree.map(jnp.copy, holder[0].public)

    @jax.jit
    def server(public, content):
        broadcast, pull_back = algorithm.server.open_round(public, content)
        return algorithm.server.close_round(public, pull_back, jax.tree.map(jnp.zeros_like, broadcast))

    def advance():
        holder[0], _ = program(holder[0], data)
        return holder[0]

    timing = measure.interleaved({"round": advance, "server": lambda: server(public, data.content)}, repeats)
    whole, part = 1e3 * timing["round"].median, 1e3 * timing["server"].median
    memory = program.memory_analysis()
    used = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    return {"round ms": whole, "server ms": part, "clients ms": whole - part, "program GB": used / 1e9}


if __name__ == "__main__":
    main()
