"""The server of a federation in its folder, and the processes of one machine: what ends is resumed or ended."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import time

import jax
import pytest
from federations import DATASET, SILOS, LocalTransport, federation_settings, make_silo

from fedvlr_jax.commands.client import users_of
from fedvlr_jax.data import fingerprint
from fedvlr_jax.deploy.coordinator import Timing
from fedvlr_jax.deploy.flower.app import write_app, write_connection
from fedvlr_jax.deploy.flower.loopback import shares
from fedvlr_jax.deploy.flower.processes import Processes
from fedvlr_jax.deploy.messages import RANK, TRAIN
from fedvlr_jax.deploy.server_run import prepare_server, run_server
from fedvlr_jax.deploy.silo import silo_key
from fedvlr_jax.deploy.silo_programs import sizes_of
from fedvlr_jax.deploy.states import silo_secret
from fedvlr_jax.errors import CheckpointError, ConfigError
from fedvlr_jax.io.checkpoint import Checkpoints
from fedvlr_jax.io.files import read_arrays, write_json
from fedvlr_jax.io.lock import hold
from fedvlr_jax.io.writers import MetricWriter, read_metrics
from fedvlr_jax.privacy.accounting import guarantee_of


class Killed(Exception):
    pass


@pytest.mark.slow
def test_a_server_that_was_killed_goes_on_after_its_last_round(tmp_path):
    tree = federation_settings(host__name="fcf", variant="base", rounds=3, eval__every=2)
    silos = {node: make_silo(tree, tmp_path / str(node), users, f"silo{node}") for node, users in SILOS.items()}

    def killed(node, question, content):
        if question.kind == TRAIN and question.fields["round"] == 1 and node == 11:
            raise Killed  # in the middle of the second round: other silos have trained
        return [content]

    whole, broken, lines = tmp_path / "whole", tmp_path / "broken", []
    for workdir in (whole, broken):
        workdir.mkdir()
        prepare_server(workdir, tree, Timing(start_users=DATASET.num_users), DATASET)
    assert set(read_arrays(whole / "catalogue.npz")) == {"V", "C"}  # and nothing of the users
    with pytest.raises(Killed):
        run_server(broken, LocalTransport(silos, killed), lines.append)
    assert [line["round"] for line in read_metrics(broken / "metrics.jsonl")] == [1]
    found = run_server(broken, LocalTransport(silos), lines.append)
    assert "going on after round 1" in lines
    expected = run_server(whole, LocalTransport(silos), lines.append)  # the same silos, from their first states
    clocks = {"seconds": 0}
    assert found | clocks == expected | clocks == json.loads((whole / "result.json").read_text()) | clocks
    rounds = [read_metrics(workdir / "metrics.jsonl") for workdir in (broken, whole)]
    assert [line | clocks for line in rounds[0]] == [line | clocks for line in rounds[1]]
    assert [line["valid"] is not None for line in rounds[0]] == [False, True, True]
    assert found["test"]["HR@50"] == 1.0  # of 24 items

    before = (whole / "config.json").read_bytes()
    with pytest.raises(CheckpointError, match="seed: checkpoint 0, now 1\nchoose another --workdir, or delete"):
        prepare_server(whole, tree | {"seed": 1}, Timing(), DATASET)
    assert (whole / "config.json").read_bytes() == before
    with hold(whole), pytest.raises(ConfigError, match="in use"):
        prepare_server(whole, tree, Timing(), DATASET)
    write_json(whole / "config.json", tree | {"seed": 1})
    with pytest.raises(CheckpointError, match="seed: checkpoint 0, now 1"):
        run_server(whole, LocalTransport(silos), lines.append)
    (whole / "federation.json").unlink()
    with pytest.raises(CheckpointError, match=r"no federation\.json there"):
        run_server(whole, LocalTransport(silos), lines.append)


def test_a_federation_goes_on_with_the_features_that_it_began_with(monkeypatch, tmp_path):
    tree = federation_settings(host__name="fcf", variant="base")
    sizes = sizes_of(DATASET)._asdict()
    other = dataclasses.replace(DATASET, C=DATASET.C[::-1].copy())
    monkeypatch.setattr(Checkpoints, "record", lambda self: {"settings": tree, "data": sizes})
    prepare_server(tmp_path, tree, Timing(), DATASET)  # an earlier version noted sizes alone
    digests = {name: fingerprint(DATASET)[name] for name in ("V", "C")}
    monkeypatch.setattr(Checkpoints, "record", lambda self: {"settings": tree, "data": sizes | digests})
    prepare_server(tmp_path, tree, Timing(), DATASET)
    with pytest.raises(CheckpointError, match=r"another configuration or data set:\n  data C: checkpoint '\w+', now"):
        prepare_server(tmp_path, tree, Timing(), other)
    assert (read_arrays(tmp_path / "catalogue.npz")["C"] == DATASET.C).all()


def killed_at(monkeypatch, owner, name, number, after=False):
    """Kills the server before the call of this number from now on, or after it."""
    whole, calls = getattr(owner, name), []

    def spy(*arguments, **options):
        calls.append(name)
        if len(calls) == number and not after:
            raise Killed
        found = whole(*arguments, **options)
        if len(calls) == number:
            raise Killed
        return found

    monkeypatch.setattr(owner, name, spy)


@pytest.mark.parametrize(
    ("owner", "name", "after"),
    [
        (Checkpoints, "save", False),
        (Checkpoints, "save", True),
        (Checkpoints, "amend", False),
        (Checkpoints, "amend", True),
        (MetricWriter, "evaluation", True),
    ],
)
def test_nobody_sees_two_models_of_a_round_wherever_the_server_is_killed(
    tmp_path, monkeypatch, small_silos, owner, name, after
):
    """After the kill a silo is late: the round that comes again has the same noise, but other uploads in it."""
    tree, silos = small_silos
    (tmp_path / "run").mkdir()
    prepare_server(tmp_path / "run", tree, Timing(start_users=4), DATASET)
    seen, late = {}, []

    def watch(node, question, content):
        number = question.fields.get("round")
        if question.kind == TRAIN and late and number == 1 and node == 22:
            return []
        if question.kind in (TRAIN, RANK):  # both show the model after `number` rounds
            seen.setdefault(number, set()).add(question.arrays["rows/views"].tobytes())
        return [content]

    with monkeypatch.context() as patch:
        killed_at(patch, owner, name, 2, after)
        with pytest.raises(Killed):
            run_server(tmp_path / "run", LocalTransport(silos, watch), [].append)
    late.append(22)
    result = run_server(tmp_path / "run", LocalTransport(silos, watch), [].append)
    assert {number: len(models) for number, models in seen.items()} == {0: 1, 1: 1, 2: 1, 3: 1}
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert all(line["valid"] for line in lines)
    value = [line["valid"]["NDCG@50"] for line in lines]
    assert (result["best_round"], result["best_value"]) == (1 + value.index(max(value)), max(value))
    assert result["client_updates"] == sum(line["num_counted"] for line in lines)
    assert result["bytes_down"] == sum(line["bytes_down"] for line in lines)
    with Checkpoints(tmp_path / "run" / "checkpoints", read_only=True) as checkpoints:
        record = checkpoints.require_record()
        assert (record["best_round"], record["best_value"]) == (result["best_round"], result["best_value"])
        assert checkpoints.record_of(record["best_round"])["round"] == record["best_round"]


@pytest.fixture(scope="module")
def small_silos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    noise = {"aggregation__transforms": "clip,noise", "aggregation__noise_multiplier": 1.0}
    tree = federation_settings(host__name="fcf", variant="base", rounds=3, eval__every=1, **noise)
    tree["server"]["clients_per_round"] = 0
    return tree, {node: make_silo(tree, folder / str(node), users, f"silo{node}") for node, users in SILOS.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {"aggregation__transforms": "clip,noise", "server__sampling": "poisson"},
        {"aggregation__transforms": "clip,local_noise"},
    ],
)
def test_a_federation_says_what_its_noise_is_worth_as_a_simulation_does(tmp_path, changes):
    private = {"privacy__target_epsilon": 8.0, "privacy__delta": 1e-3, "rounds": 2, "eval__every": 2}
    tree = federation_settings(host__name="fcf", variant="base", **private, **changes)
    silos = {node: make_silo(tree, tmp_path / str(node), users, f"silo{node}") for node, users in SILOS.items()}
    (tmp_path / "run").mkdir()
    prepare_server(tmp_path / "run", tree, Timing(start_users=6), DATASET)
    lines = []
    result = run_server(tmp_path / "run", LocalTransport(silos), lines.append)
    guarantee = guarantee_of(tree, DATASET.num_users)
    assert result["privacy"] == guarantee.describe(2)
    assert 7.9 < result["privacy"]["epsilon"] <= 8.0
    epsilons = [line["epsilon"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert epsilons == [guarantee.epsilon(1), guarantee.epsilon(2)]
    assert f"epsilon {epsilons[1]:.4g}; " in lines[-1]


def test_all_processes_end_with_the_program_that_started_them(tmp_path):
    def is_running(pid):
        with contextlib.suppress(OSError):
            return " Z " not in pathlib.Path(f"/proc/{pid}/stat").read_text()
        return False

    started: list[int] = []
    stubborn = "trap '' TERM; sleep 60 & echo child $!; wait"

    def interrupted(processes):
        processes.grace = 0.2
        started[:] = [processes.start("a", ["sleep", "60"]).pid, processes.start("b", ["sh", "-c", stubborn]).pid]
        while not (found := re.search(r"child (\d+)", processes.log("b").read_text())):
            time.sleep(0.01)
        started.append(int(found[1]))
        assert all(map(is_running, started))
        assert processes.first_ended() is None
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Processes(tmp_path / "logs", os.environ) as processes:
        interrupted(processes)
    assert len(started) == 3
    end = time.monotonic() + 10.0
    while any(map(is_running, started)):  # a killed process takes a moment to be gone
        assert time.monotonic() < end
        time.sleep(0.01)


def test_users_are_shared_and_named(tmp_path):
    assert shares(10, 4) == ["0:2", "2:5", "5:8", "8:10"]
    assert list(users_of("2:5", 10)) == [2, 3, 4]
    assert list(users_of(":", 3)) == [0, 1, 2]
    for text in ("5:2", "2", "-1:3", "0:11", "a:b", "3:3"):
        with pytest.raises(ConfigError, match="expected FIRST:END with 0 <= FIRST < END <= 10"):
            users_of(text, 10)


def test_a_silo_draws_its_secret_once(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    secrets = [silo_secret(tmp_path / name) for name in "aab"]
    assert secrets[0] == secrets[1]
    assert secrets[0].name != secrets[2].name
    assert all(0 <= secret.seed < 2**64 for secret in secrets)
    data = [jax.random.key_data(f(7)) for f in (silo_key, jax.random.key)]
    assert data[0].tolist() == data[1].tolist()  # a seed is that of a simulation


def test_what_flower_reads_is_written(tmp_path):
    import tomllib

    write_app(tmp_path / "app", tmp_path / 'a "folder"')
    described = tomllib.loads((tmp_path / "app" / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert described["config"]["workdir"] == str(tmp_path / 'a "folder"')
    write_connection(tmp_path / "home", "there:1", certificate="ca.pem")
    found = tomllib.loads((tmp_path / "home" / "config.toml").read_text())["superlink"]
    assert found == {"default": "local", "local": {"address": "there:1", "root-certificates": "ca.pem"}}
