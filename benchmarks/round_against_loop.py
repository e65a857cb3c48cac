"""Client updates per second: one round of all clients in one program, against jitted calls client by client.

    python benchmarks/round_against_loop.py [--set=KU] [--repeats=11]

Both sides do the same work in one process: fcf + fedvlr, bce, 5 local steps, 4 negatives, full participation. The
loop calls the compiled local update of one client (its draw included) for every client from Python; it pays neither
for the aggregation nor for the server. Medians after warm-up; compile time apart.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax

from configs.base import get_config
from fedvlr_jax import sampling
from fedvlr_jax.algorithm import Algorithm, make_algorithm
from fedvlr_jax.chunks import gather_local
from fedvlr_jax.client import draw_work, make_local_update
from fedvlr_jax.data import load_configured
from fedvlr_jax.data.buckets import make_client_data
from fedvlr_jax.types import ClientData, Dataset, FedState

ROUNDS = 5  # in one call of the program


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="KU", help="a data set below the data root, or synthetic")
    parser.add_argument("--repeats", type=int, default=11)
    arguments = parser.parse_args()
    config = get_config()
    config.objective, config.data.name = "bce", arguments.set
    settings = config.to_dict()
    dataset = load_configured(settings["data"])
    algorithm, data = make_algorithm(settings, dataset), make_client_data(dataset)
    data = jax.device_put(data)
    state = jax.jit(algorithm.init)(jax.random.key(0))

    begin = time.perf_counter()
    program = jax.jit(algorithm.run, static_argnames="num_rounds").lower(state, data, num_rounds=ROUNDS).compile()
    compiled = time.perf_counter() - begin
    loop = make_loop(algorithm, dataset, data, state)
    sides = {"loop": (loop, 1), "round": (lambda: program(state, data), ROUNDS)}
    seconds = interleaved(sides, arguments.repeats)
    print(
        f"{dataset.name}: {dataset.num_users} clients, {jax.devices()[0].device_kind}, compiled in {compiled:.0f} s"
    )
    for name, values in seconds.items():
        median = statistics.median(values)
        low, high = 1e3 * min(values), 1e3 * max(values)
        print(
            f"{name:6} {1e3 * median:8.1f} ms a round ({low:.1f} to {high:.1f})"
            f" {dataset.num_users / median:10,.0f} client updates/s"
        )
    print(
        f"the round is {statistics.median(seconds['loop']) / statistics.median(seconds['round']):.1f} times as fast"
    )


def make_loop(algorithm: Algorithm, dataset: Dataset, data: ClientData, state: FedState) -> Callable[[], list]:
    """One round as calls of one jitted client after another."""
    update = make_local_update(algorithm.model, algorithm.local)

    def client(broadcast, local, history_l, key, round_):
        work = draw_work(algorithm.local, dataset.num_items, history_l, key, touched_rows=True)
        return update(broadcast, local, work, round_)

    jitted = jax.jit(client)
    broadcast = algorithm.model.publish(state.public.params, data.content)
    key = sampling.stream(state.key, sampling.CLIENT, 0)
    inputs = []
    for bucket in data.buckets:
        for slot, user in enumerate(bucket.user.tolist()):
            local = gather_local(state.private, bucket.user[slot : slot + 1], None)
            local = jax.tree.map(lambda x: x[0], local)
            inputs.append((local, bucket.history[slot], jax.random.fold_in(key, user)))
    return lambda: [jitted(broadcast, *one, state.public.round) for one in inputs]


def interleaved(sides: dict[str, tuple[Callable, int]], repeats: int) -> dict[str, list[float]]:
    """Seconds a round of every side, measured in turn, after one call of each."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, (call, rounds) in sides.items():
            begin = time.perf_counter()
            jax.block_until_ready(call())
            if repeat:
                seconds[name].append((time.perf_counter() - begin) / rounds)
    return seconds


if __name__ == "__main__":
    main()
