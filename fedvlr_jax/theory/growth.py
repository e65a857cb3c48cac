"""Operations, bytes, memory and time of a round while one size grows at a time.

Two programs are measured apart, as the paper counts them: the server's (publish the views, pull the aggregated
cotangent back) and the cohort's (n_s clients, A local steps each); then the whole round of the library.

XLA's cost analysis counts the body of a loop once, whatever its length, so operations and bytes are those of a
program whose local steps are written out, before optimisation: afterwards XLA computes some of them again in every
step that uses them. Memory and time are those of the compiled program with its loop. The round's chunks stay a loop,
so its operations are not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.algorithm import Algorithm, make_algorithm
from fedvlr_jax.compiling import compile_ahead
from fedvlr_jax.data.buckets import make_client_data
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.federated import sampling
from fedvlr_jax.federated.client import draw_batch, make_local_update
from fedvlr_jax.federated.private_state import gather_clients
from fedvlr_jax.models.model import Broadcast
from fedvlr_jax.theory.exponents import Expected, Exponent, over_points, over_runs
from fedvlr_jax.types import Bucket, ClientData, Dataset, FedState, PrivateState

SIZES = {"G": "|G|", "I": "|I|", "d": "d", "n_s": "n_s", "A": "A", "U": "|U|"}
"""What grows, by its field in the config, with its symbol."""

# The paper's claims: (program, measure) -> exponent in each size. Operations of the server: O(|G||I|d). Operations of
# the clients: O(n_s A P), with P linear in |G| and, for its d x d matrix, quadratic in d. Memory: server O(|I|d),
# one client O(|G||I|d + K).
CLAIMS: dict[tuple[str, str], dict[str, float]] = {
    ("server", "operations"): {"G": 1, "I": 1, "d": 1, "n_s": 0, "A": 0, "U": 0},
    ("clients", "operations"): {"n_s": 1, "A": 1, "I": 0, "U": 0},
    ("server", "memory"): {"G": 0, "I": 1, "d": 1, "n_s": 0, "A": 0, "U": 0},
    ("one client", "memory"): {"G": 1, "I": 1, "d": 1, "n_s": 0, "U": 0},
    ("server", "seconds"): {"G": 1, "I": 1, "d": 1, "n_s": 0, "A": 0, "U": 0},
    ("clients", "seconds"): {"n_s": 1, "A": 1, "I": 0, "U": 0},
}


class Cost(NamedTuple):
    """What one program costs.

    Attributes:
      operations: floating-point operations by XLA's cost analysis; None where a loop would hide some.
      bytes: bytes that the operations read and write, each for itself, from the same: fusing makes them fewer.
      memory: bytes of arguments, results and temporary arrays at the peak, from XLA's memory analysis.
      seconds: [repeats], wall times after warm-up; empty where nothing was timed.
    """

    operations: float | None
    bytes: float | None
    memory: float
    seconds: np.ndarray


class GrowthPoint(NamedTuple):
    """One measured size: which one grows, its value, and the costs by program."""

    size: str
    value: int
    costs: dict[str, Cost]


def measure_growth(
    settings: Mapping[str, Any], report: Callable[[str], None] = lambda line: None
) -> Iterator[GrowthPoint]:
    """Measures all points of ``settings["growth"]``, one size growing from the common base point.

    Raises:
      ConfigError: a size that does not exist, or fewer than three values of one.
    """
    growth = settings["growth"]
    for size, values in growth["grow"].items():
        if size not in SIZES:
            raise ConfigError(f"growth.grow: expected {', '.join(SIZES)}, found {size!r}")
        if len(set(values)) < 3:
            raise ConfigError(f"growth.grow.{size}: expected at least three values to fit, found {values}")
        for point in (dict(growth["base"]) | {size: value} for value in values):
            if point["n_s"] > point["U"]:
                raise ConfigError(f"growth: expected n_s of at most |U| = {point['U']}, found {point['n_s']}")
    for size, values in growth["grow"].items():
        programs = [compile_point(settings, dict(growth["base"]) | {size: value}) for value in values]
        seconds = _time_in_turn(programs, growth["repeats"])
        for value, compiled, times in zip(values, programs, seconds, strict=True):
            yield GrowthPoint(size, value, {name: _cost(run, times[name]) for name, run in compiled.items()})
        report(f"{SIZES[size]} = {', '.join(map(str, values))}: measured")


class Compiled(NamedTuple):
    """A compiled program, XLA's counts of what it computes, its arguments, and whether it is timed."""

    program: Any
    counts: Mapping[str, float]
    arguments: tuple
    timed: bool = True


def compile_point(settings: Mapping[str, Any], point: Mapping[str, int]) -> dict[str, Compiled]:
    """The programs of one point: server, clients, one client, round."""
    growth = settings["growth"]
    dataset = random_dataset(point["U"], point["I"], growth["length"], growth["features"])
    algorithm = make_algorithm(_at(settings, point), dataset)
    data = jax.device_put(make_client_data(dataset))
    state = jax.jit(algorithm.init)(jax.random.key(0))
    broadcast = jax.jit(algorithm.model.publish)(state.public.params, data.content)
    clients, written_out = (_clients_program(algorithm, point["I"], unroll) for unroll in (False, True))
    cohort, one = (_clients(state, data, n) for n in (point["n_s"], 1))

    def compiled(program: Callable, counted: Callable | None, *arguments: Any, timed: bool = True) -> Compiled:
        counts = {} if counted is None else jax.jit(counted).lower(*arguments).cost_analysis()
        return Compiled(compile_ahead(jax.jit(program), *arguments)[0], counts, arguments, timed)

    def round_(state: FedState, data: ClientData) -> FedState:
        return algorithm.run(state, data, 1)[0]

    server = _server_program(algorithm)

    return {
        "server": compiled(server, server, state.public.params, data.content, broadcast),
        "clients": compiled(clients, written_out, broadcast, *cohort),
        "one client": compiled(clients, written_out, broadcast, *one, timed=False),
        "round": compiled(round_, None, state, data),
    }


def random_dataset(users: int, items: int, length: int, width: int) -> Dataset:
    """Histories of one length at random, random features: costs depend on sizes only."""
    rng = np.random.default_rng(0)
    chosen = np.sort(np.argsort(rng.random((users, items)), axis=1)[:, : length + 2], axis=1).astype(np.int32)
    V, C = (rng.normal(size=(items, width)).astype(np.float32) / np.sqrt(width) for _ in "VC")
    return Dataset(
        name="random",
        num_users=users,
        num_items=items,
        train_user=np.repeat(np.arange(users, dtype=np.int32), length),
        train_item=chosen[:, :length].ravel(),
        valid_item=chosen[:, length],
        test_item=chosen[:, length + 1],
        V=V,
        C=C,
    )


def fit_growth(points: Sequence[GrowthPoint]) -> list[Exponent]:
    """Exponents of every program and measure in every size; intervals over repeats (times) or points (all else)."""
    found = []
    for size in dict.fromkeys(point.size for point in points):
        chosen = [point for point in points if point.size == size]
        x_k = np.array([point.value for point in chosen])
        for program in chosen[0].costs:
            costs = [point.costs[program] for point in chosen]
            for measure in ("operations", "bytes", "memory"):
                values = [getattr(cost, measure) for cost in costs]
                if None in values:
                    continue
                name = f"{program}, {measure} against {SIZES[size]}"
                found.append(over_points(name, _expected(program, measure, size), x_k, np.array(values)))
            if costs[0].seconds.size:
                seconds_ek = np.stack([cost.seconds for cost in costs], axis=1)
                name = f"{program}, seconds against {SIZES[size]}"
                found.append(over_runs(name, _expected(program, "seconds", size), x_k, seconds_ek))
    return found


def _expected(program: str, measure: str, size: str) -> Expected:
    claim = CLAIMS.get((program, measure), {}).get(size)
    return None if claim is None else (claim, claim)


def _at(settings: Mapping[str, Any], point: Mapping[str, int]) -> dict[str, Any]:
    """The settings of a point; |G| operators of one kind, so that every one costs the same."""
    kind = settings["growth"]["operator"]
    return dict(settings) | {
        "fusion": dict(settings["fusion"])
        | {"dim": point["d"], "operators": ",".join(f"{kind}#{g}" for g in range(point["G"]))},
        "client": dict(settings["client"]) | {"steps": point["A"]},
        "server": dict(settings["server"]) | {"clients_per_round": point["n_s"]},
    }


def _server_program(algorithm: Algorithm) -> Callable:
    """Publish the views, pull a cotangent of their shape back."""

    def server(public, content, cotangent):
        broadcast, pull_back = jax.vjp(lambda p: algorithm.model.publish(p, content), public)
        return broadcast, pull_back(cotangent)

    return server


def _clients(state: FedState, data: ClientData, cohort: int) -> tuple[PrivateState, Bucket]:
    """The private states and the histories of the first `cohort` clients: what the devices themselves hold."""
    bucket = jax.tree.map(lambda x: x[:cohort], data.buckets[0])
    return gather_clients(state.private, bucket.user, None), bucket


def _clients_program(algorithm: Algorithm, num_items: int, unroll: bool) -> Callable:
    """The clients' local updates, side by side, with their uploads of touched rows."""
    settings = algorithm.local._replace(unroll=unroll)
    update = make_local_update(algorithm.model, settings)

    def clients(broadcast: Broadcast, local: PrivateState, bucket: Bucket) -> tuple:
        keys = sampling.entity_keys(jax.random.key(0), bucket.user)
        work = jax.vmap(lambda h, k: draw_batch(settings, num_items, h, k, touched_rows=True))(bucket.history, keys)
        trained, upload, _ = jax.vmap(update, in_axes=(None, 0, 0, None))(broadcast, local, work, jnp.zeros((), int))
        return trained.params, upload

    return clients


def _time_in_turn(points: Sequence[dict[str, Compiled]], repeats: int) -> list[dict[str, np.ndarray]]:
    """Seconds [repeats] of every timed program of every point, after one call of each.

    Every repeat visits all points, so that other work on the machine touches all of them alike; a repeat is the
    least of three runs.
    """
    seconds: list[dict[str, list[float]]] = [{name: [] for name in programs} for programs in points]
    for repeat in range(repeats + 1):
        for programs, found in zip(points, seconds, strict=True):
            for name, compiled in programs.items():
                if compiled.timed:
                    least = min(_time(compiled) for _ in range(3 if repeat else 1))
                    found[name] += [least] if repeat else []
    return [{name: np.array(values) for name, values in found.items()} for found in seconds]


def _time(compiled: Compiled) -> float:
    start = time.perf_counter()
    jax.block_until_ready(compiled.program(*compiled.arguments))
    return time.perf_counter() - start


def _cost(compiled: Compiled, seconds: np.ndarray) -> Cost:
    counts, memory = compiled.counts, compiled.program.memory_analysis()
    peak = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return Cost(counts.get("flops"), counts.get("bytes accessed"), peak, seconds)
