"""A federation of real processes over Flower against a simulation, with processes killed in the middle of rounds."""

from __future__ import annotations

import contextlib
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import TINY
from problems import relative_difference

pytest.importorskip("flwr", reason='a federation of processes needs flwr: pip install "fedvlr_jax[flower]"')

from commands import ROOT

from configs import base
from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.data import load_configured
from fedvlr_jax.data.buckets import make_histories
from fedvlr_jax.deploy.coordinator import ServerState, Timing
from fedvlr_jax.deploy.export import flat
from fedvlr_jax.deploy.flower.loopback import loopback, shares
from fedvlr_jax.deploy.server_run import prepare_server
from fedvlr_jax.deploy.states import States
from fedvlr_jax.federated import sampling
from fedvlr_jax.io.checkpoint import Checkpoints
from fedvlr_jax.io.writers import read_metrics
from fedvlr_jax.settings import override
from fedvlr_jax.types import Bucket, ClientData, FedState, content_of

SILOS, ROUNDS, COHORT = 3, 5, 8
FIELDS = TINY | {"rounds": ROUNDS, "eval.every": ROUNDS, "server.clients_per_round": COHORT}


def settings():
    return override(base.get_config().to_dict(), FIELDS)


def wait_for(condition, seconds=300.0):
    """Waits until a condition holds; the whole test is bounded by such waits."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "the federation did not get there in time"
        time.sleep(0.1)
    return found


def simulated(algorithm, dataset, lines):
    """The state after rounds with the clients that counted in them."""
    histories, users = make_histories(dataset), np.arange(dataset.num_users)
    history = histories.padded(users, int(histories.length_u.max()))
    state, run = algorithm.init(jax.random.key(0)), jax.jit(algorithm.run_cohort)
    for number, line in enumerate(lines):
        words = algorithm.cohort_words(state.key, jnp.int32(number))
        cohort = set(sampling.cohort_ids(np.asarray(words), COHORT).tolist())
        assert set(line["missed"]) <= cohort
        at = np.array(sorted(cohort - set(line["missed"])), np.int32)
        bucket = Bucket(at, history[at], np.arange(len(at), dtype=np.int32))
        private = jax.tree.map(lambda x, at=at: x[at], state.private)
        data = ClientData((bucket,), content_of(dataset))
        moved, _ = run(FedState(public=state.public, private=private, key=state.key), data)
        whole = jax.tree.map(lambda x, new, at=at: x.at[at].set(new), state.private, moved.private)
        state = FedState(public=moved.public, private=whole, key=state.key)
    return state


def require_states_of_a_simulation(workdir, algorithm, dataset, lines, num_silos):
    """Public and private states after the last round, of checkpoints and of the folders of silos."""
    expected = simulated(algorithm, dataset, lines)
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        like = ServerState(algorithm.init_public(jax.random.key(0)), jnp.zeros(dataset.num_users, jnp.int32))
        state = checkpoints.restore(len(lines), like)
    assert relative_difference(flat(state.public), flat(expected.public)) <= 1e-6
    kept = [States(workdir / "silos" / str(number)) for number in range(num_silos)]
    for user in range(dataset.num_users):
        (silo,) = [k for k, users in enumerate(shares(dataset.num_users, num_silos)) if in_share(user, users)]
        if (counted := int(state.counted_u[user])) >= 0:
            own = flat(jax.tree.map(lambda x, u=user: x[u], expected.private))
            assert relative_difference(dict(kept[silo].get(user, counted)), own) <= 1e-6


@contextlib.contextmanager
def submitted(workdir, words, num_users, num_silos):
    """A federation of processes, every silo with its share of the users, whose training has been asked for."""
    with loopback(workdir, num_silos) as federation:
        federation.start_superlink()
        for number, users in enumerate(shares(num_users, num_silos)):
            federation.start_client(number, [*words, f"--users={users}"])
            federation.start_node(number)
        federation.submit()
        yield federation


@pytest.mark.slow
def test_processes_that_are_killed_and_started_again_end_where_a_simulation_does(tmp_path):
    tree = settings()
    dataset = load_configured(tree["data"], tree["seed"])
    algorithm = make_algorithm(tree, dataset)
    prepare_server(tmp_path, tree, Timing(round_seconds=40.0, start_users=dataset.num_users), dataset)
    words = [f"--config={ROOT}/configs/quickstart.py", *(f"--config.{k}={v}" for k, v in FIELDS.items()), "--seed=0"]
    metrics = tmp_path / "metrics.jsonl"

    def rounds_done(number):
        return lambda: len(read_metrics(metrics)) >= number

    with submitted(tmp_path, words, dataset.num_users, SILOS) as federation:
        wait_for(rounds_done(1))
        federation.processes.kill("node1")  # in the middle of the second round
        federation.start_node(1)
        wait_for(rounds_done(2))
        federation.processes.kill("client2")
        federation.start_client(2, [*words, f"--users={shares(dataset.num_users, SILOS)[2]}"])
        wait_for(rounds_done(3))
        federation.processes.kill("superlink")
        federation.processes.kill("run")
        federation.start_superlink()
        federation.submit()
        result = wait_for(
            lambda: (tmp_path / "result.json").is_file() and json.loads((tmp_path / "result.json").read_text())
        )

    lines = read_metrics(metrics)
    assert [line["round"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[1]["missed"]  # the node was gone
    require_states_of_a_simulation(tmp_path, algorithm, dataset, lines, SILOS)
    assert result["rounds"] == ROUNDS
    assert 0 <= result["valid"]["NDCG@50"] <= 1


@pytest.mark.slow
def test_secret_sums_of_processes_are_those_of_a_simulation_also_without_a_silo(tmp_path):
    fields = FIELDS | {
        "rounds": 3,
        "secure.sum": True,
        "aggregation.transforms": "clip",
        "aggregation.clip_norm": 0.1,
    }
    tree = override(base.get_config().to_dict(), fields)
    dataset = load_configured(tree["data"], tree["seed"])
    prepare_server(tmp_path, tree, Timing(round_seconds=40.0, start_users=dataset.num_users), dataset)
    words = [f"--config={ROOT}/configs/quickstart.py", *(f"--config.{k}={v}" for k, v in fields.items()), "--seed=0"]
    num_silos = 4
    with submitted(tmp_path, words, dataset.num_users, num_silos) as federation:
        wait_for(lambda: read_metrics(tmp_path / "metrics.jsonl"))
        federation.processes.kill("client3")  # at any of the four questions of the second round, or before it
        result = wait_for((tmp_path / "result.json").is_file)
    assert result
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert not lines[0]["missed"]
    assert lines[2]["missed"]
    assert all(line["num_counted"] for line in lines)
    require_states_of_a_simulation(tmp_path, make_algorithm(tree, dataset), dataset, lines, num_silos)


def in_share(user, users):
    first, _, end = users.partition(":")
    return int(first) <= user < int(end)
