"""Client updates per second of one round, against loops over clients and against the machine's ceilings.

    python benchmarks/throughput.py [--set=KU] [--methods=fcf+fedvlr,...|all] [--objective=bce] [--sides=round,loop]
        [--repeats=7] [--path=auto] [--out=FOLDER]

The set is a folder below the data root, `synthetic`, or `movie`: random interactions in the shape of the paper's
Movie set (15,908 clients, 2,528 items, 111,091 rows). Full participation, settings of configs/base.py (5 steps, 4
negatives). Sides, all in one process and measured in turn:

    round   one compiled program of rounds (the library)
    loop    the compiled local update of one client, called from Python for one client after the other
    dense   vmap over clients that each carry whole tables (path uploads, without confining a client to its rows)
    private the same program with uploads clipped and noise on their sum
    numpy   one client after the other in plain NumPy (fcf + base and fcf + fedvlr; objective bce)

loop and numpy run `--clients` clients, spread over the lengths of histories, and pay neither for aggregation nor for
the server. "share" is the time that a round's least operations and bytes take at the machine's ceilings, over the
measured time: operations of the touched rows (score, gradient of the query, cotangent: 6 |rows| |G| d a step; for
FedNCF also its layers behind the first, which alone can be applied to items before they are drawn), of the fusion
forward and backward, and of the router once; bytes of the private states read and written once.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections.abc import Callable

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[1]), str(pathlib.Path(__file__).resolve().parent)]

import jax
import jax.numpy as jnp
import measure
import numpy as np
import numpy_client
from random_data import random_dataset

from configs.base import get_config
from fedvlr_jax.algorithm import Algorithm, make_algorithm
from fedvlr_jax.assembly import OPTIMIZERS
from fedvlr_jax.compiling import compile_ahead
from fedvlr_jax.data import load_configured
from fedvlr_jax.data.buckets import make_client_data
from fedvlr_jax.federated import sampling
from fedvlr_jax.federated.private_state import gather_clients
from fedvlr_jax.federated.rounds import BucketPlan, make_round
from fedvlr_jax.models.hosts import HOSTS
from fedvlr_jax.models.variants import VARIANTS
from fedvlr_jax.types import ClientData, Dataset, FedState

ROUNDS = 5  # in one call of the program


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="KU")
    parser.add_argument("--methods", default="fcf+fedvlr,fcf+base")
    parser.add_argument("--objective", default="bce", choices=["bce", "bpr", "softmax"])
    parser.add_argument("--sides", default="round,loop")
    parser.add_argument("--path", default="auto")
    parser.add_argument("--clients", type=int, default=204, help="of the loops")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", default=None)
    arguments = parser.parse_args()
    every = [f"{host}+{variant}" for host in HOSTS if host != "fedprior" for variant in VARIANTS]
    methods = every if arguments.methods == "all" else arguments.methods.split(",")
    ceilings = measure.measure_ceilings()
    print(f"ceilings: {ceilings.flops / 1e9:.0f} GFLOP/s, {ceilings.bytes / 1e9:.1f} GB/s")
    dataset = None
    rows = []
    for method in methods:
        settings = _settings(arguments, method)
        dataset = dataset or _load(arguments.set, settings)
        rows.append({"method": method, **_measure(settings, dataset, arguments, ceilings)})
        print(rows[-1], file=sys.stderr, flush=True)
    extra = {"set": arguments.set, "objective": arguments.objective, "ceilings": ceilings._asdict()}
    measure.write_results(arguments.out, f"throughput_{dataset.name}_{arguments.objective}", rows, extra)
    print(f"{dataset.name}: peak memory of the process {measure.peak_gigabytes():.1f} GB")


def _settings(arguments: argparse.Namespace, method: str) -> dict:
    config = get_config()
    config.host.name, config.variant = method.split("+")
    config.objective, config.compute.path = arguments.objective, arguments.path
    if arguments.set != "movie":
        config.data.name = arguments.set
    return config.to_dict()


def _load(name: str, settings: dict) -> Dataset:
    if name != "movie":
        return load_configured(settings["data"])
    return random_dataset("movie-shape", 15_908, 2_528, 111_091, width=64)


def _measure(settings: dict, dataset: Dataset, arguments: argparse.Namespace, ceilings: measure.Ceilings) -> dict:
    """One row of the table."""
    algorithm, data = make_algorithm(settings, dataset), jax.device_put(make_client_data(dataset))
    holder = [jax.jit(algorithm.init)(jax.random.key(0))]
    run = jax.jit(algorithm.run, static_argnames="num_rounds", donate_argnames="state")
    program, compiled = compile_ahead(run, holder[0], data, num_rounds=ROUNDS)
    wanted = arguments.sides.split(",")
    clients = min(arguments.clients, dataset.num_users)
    sides, count = {}, {}
    if "loop" in wanted:
        sides["loop"], count["loop"] = make_loop(algorithm, dataset, data, holder[0], clients), clients
    if "numpy" in wanted and numpy_client.covers(settings):
        sides["numpy"] = numpy_client.make_loop(settings, algorithm, dataset, data, holder[0], clients)
        count["numpy"] = clients
    if "private" in wanted:
        sides["private"], count["private"] = make_private(settings, dataset, data), ROUNDS * dataset.num_users
    if "dense" in wanted:
        sides["dense"], count["dense"] = make_dense(settings, algorithm, dataset, data, holder[0]), dataset.num_users
    sides["round"], count["round"] = lambda: advance(program, holder, data), ROUNDS * dataset.num_users
    seconds = measure.interleaved(sides, arguments.repeats)
    rate = {name: count[name] / timing.median for name, timing in seconds.items()}
    least = least_seconds(settings, algorithm, dataset, holder[0], data, ceilings)
    timing = seconds["round"]
    row = {"ms a round": 1e3 * timing.median / ROUNDS, "from": 1e3 * timing.low / ROUNDS}
    row |= {"to": 1e3 * timing.high / ROUNDS, "processor ms": 1e3 * timing.processor / ROUNDS}
    row |= {"updates/s": rate["round"]}
    for name in sides:
        if name != "round":
            row |= {f"{name}/s": rate[name], f"times {name}": rate["round"] / rate[name]}
    memory = program.memory_analysis()
    bytes_used = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    return row | {
        "share": least / (timing.median / ROUNDS),
        "program GB": bytes_used / 1e9,
        "compile s": compiled,
    }


def advance(program: Callable, holder: list, data: ClientData) -> FedState:
    """Some more rounds of the state in `holder`, which is donated."""
    holder[0], _ = program(holder[0], data)
    return holder[0]


def make_private(settings: dict, dataset: Dataset, data: ClientData) -> Callable[[], FedState]:
    """Rounds under clip and noise, with a state of their own."""
    aggregation = settings["aggregation"] | {"transforms": "clip,noise", "noise_multiplier": 1.0}
    algorithm = make_algorithm(settings | {"aggregation": aggregation}, dataset)
    holder = [jax.jit(algorithm.init)(jax.random.key(0))]
    run = jax.jit(algorithm.run, static_argnames="num_rounds", donate_argnames="state")
    program, _ = compile_ahead(run, holder[0], data, num_rounds=ROUNDS)
    return lambda: advance(program, holder, data)


def make_loop(
    algorithm: Algorithm, dataset: Dataset, data: ClientData, state: FedState, clients: int
) -> Callable[[], list]:
    """Some clients of one round as calls of one jitted client after another (its draw included)."""
    jitted = jax.jit(algorithm.client_round)
    broadcast = jax.jit(algorithm.model.publish)(state.public.params, data.content)
    key = sampling.stream(state.key, sampling.CLIENT, 0)
    round_ = jnp.zeros((), jnp.int32)
    inputs = []
    for bucket, slot in some_slots(data, clients):
        local = jax.tree.map(lambda x: x[0], gather_clients(state.private, bucket.user[slot : slot + 1], None))
        inputs.append((local, bucket.history[slot], jax.random.fold_in(key, bucket.user[slot])))
    return lambda: [jitted(broadcast, *one, key, round_) for one in inputs]


def some_slots(data: ClientData, clients: int) -> list:
    """`clients` slots as (bucket, slot), evenly spread over all clients in the order of history lengths."""
    slots = [(bucket, slot) for bucket in data.buckets for slot in range(bucket.user.size)]
    return [slots[k] for k in np.linspace(0, len(slots) - 1, clients).round().astype(int)]


def make_dense(
    settings: dict, algorithm: Algorithm, dataset: Dataset, data: ClientData, state: FedState
) -> Callable[[], FedState]:
    """One round in which every client of a chunk of 32 carries whole tables."""
    plan = [BucketPlan(min(32, b.user.size), "uploads", touched_rows=False) for b in data.buckets]
    sizes = {"num_users": dataset.num_users, "num_items": dataset.num_items, "clients_per_round": dataset.num_users}
    optimizer = OPTIMIZERS[settings["server"]["optimizer"]](settings["server"]["lr"])
    round_ = jax.jit(make_round(algorithm.model, algorithm.local, optimizer, plan, **sizes))
    state = jax.tree.map(jnp.copy, state)  # the rounds beside it are given theirs
    return lambda: round_(state, data)[0]


def least_seconds(
    settings: dict,
    algorithm: Algorithm,
    dataset: Dataset,
    state: FedState,
    data: ClientData,
    ceilings: measure.Ceilings,
) -> float:
    """Seconds that a round's least operations and bytes take at the ceilings, whichever are more."""

    def server(params, content, scale):
        broadcast, pull_back = jax.vjp(lambda p: algorithm.model.publish(p, content), params)
        return pull_back(jax.tree.map(lambda x: x * scale, broadcast))

    analysis = compile_ahead(jax.jit(server), state.public.params, data.content, 1.0)[0].cost_analysis()
    local, num_rows = algorithm.local, len(dataset.train_item)
    row_width = algorithm.cost.bytes_per_row // 4
    head = state.public.params["host"]["head"]
    row_width += sum(head[name]["kernel"].size for name in ("layer_1", "layer_2") if name in head)
    per_step = dataset.num_users * dataset.num_items
    if not local.objective.all_items:
        per_step = num_rows * (1 + settings["client"]["negatives"])
    private = sum(
        x.size for x in jax.tree.leaves({k: v for k, v in state.private.params.items() if k != "item_table"})
    )
    operations = analysis["flops"] + 6 * per_step * local.steps * row_width + 6 * private
    return max(operations / ceilings.flops, 8 * private / ceilings.bytes)


if __name__ == "__main__":
    main()
