"""Private states in a store: the numbers of the device, resuming to the bit, and no checkpoint lost to a bad disk."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import os

import jax
import numpy as np
import pytest
from problems import relative_difference, settings, spread, tiny_dataset

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.client_store import segments
from fedvlr_jax.errors import CheckpointError, ConfigError
from fedvlr_jax.inference.recommend import recommend
from fedvlr_jax.io.checkpoint import Checkpoints
from fedvlr_jax.training import loop
from fedvlr_jax.training.device_backend import DeviceBackend
from fedvlr_jax.training.experiment import make_experiment
from fedvlr_jax.training.job import delete_run, evaluate_job, run_job
from fedvlr_jax.training.loop import train
from fedvlr_jax.training.store_backend import StoreBackend

DATASET = tiny_dataset()
EVERYBODY = np.arange(DATASET.num_users)
PLAIN = {"variant": "base", "compute__path": "picked", "server__clients_per_round": 5, "compute__bucket_worth": 0}
RUN = PLAIN | {
    "seed": 1,
    "rounds": 6,
    "eval__every": 2,
    "eval__patience": 0,
    "checkpoint__seconds": 0.0,
    "baselines": False,
}
CLOCKS = ("seconds_train", "seconds_eval", "seconds_compile")


def experiment(store: str, dataset=DATASET, **overrides):
    return make_experiment(settings(compute__store=store, **overrides), dataset)


def after(programs, num_rounds: tuple[int, ...]):
    """The state after stretches of so many rounds, and the info of the last stretch."""
    state = programs.init(3)
    programs.prepare(1)
    for number in num_rounds:
        state, info = programs.advance(state, number)
    return state, info


def private_of(programs: StoreBackend):
    return programs._store.gather(EVERYBODY)


@pytest.fixture(scope="module")
def on_the_device():
    programs = DeviceBackend(experiment("device", **PLAIN), eval_chunk=4)
    state, info = after(programs, (2, 3))
    return state, info, programs.rank(state, hide_test=False)


def require_equal(programs: StoreBackend, device: tuple) -> None:
    """The same state, info and ranks after two and three rounds as on the device."""
    state, info = after(programs, (2, 3))
    found = (state.public, private_of(programs), info)
    for a, b in zip(found, (device[0].public, device[0].private, device[1]), strict=True):
        assert relative_difference(a, b) <= 1e-6
    jax.tree.map(np.testing.assert_array_equal, programs.rank(state, hide_test=False), device[2])


@pytest.mark.slow
@pytest.mark.parametrize("store", spread(["memory", "disk"], ["disk"]))
def test_a_store_gives_the_numbers_of_the_device(tmp_path, monkeypatch, on_the_device, store):
    monkeypatch.setattr("fedvlr_jax.training.store_backend.DIRTY_BYTES", 100)  # everything goes through segment files
    programs = StoreBackend(experiment(store, **PLAIN), tmp_path, eval_chunk=4)
    require_equal(programs, on_the_device)
    assert bool(list(tmp_path.iterdir())) == (store == "disk")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "clients"),
    [
        ({"variant": "fedvlr"}, 5),
        ({"variant": "fedvlr", "objective": "softmax"}, 0),
        ({"host__name": "fedrap", "variant": "base"}, 0),
        ({"host__name": "fedrap", "variant": "mlp", "compute__path": "uploads", "client__optimizer": "adam"}, 5),
        ({"host__name": "pfedrec", "variant": "vbpr"}, 5),
        ({"host__name": "fedncf", "variant": "base", "compute__path": "gathered", "server__optimizer": "adam"}, 5),
    ],
)
def test_every_kind_of_model_gives_the_numbers_of_the_device(tmp_path, overrides, clients):
    overrides = overrides | {"server__clients_per_round": clients}
    programs = DeviceBackend(experiment("device", **overrides), eval_chunk=4)
    state, info = after(programs, (2, 3))
    device = state, info, programs.rank(state, hide_test=False)
    require_equal(StoreBackend(experiment("disk", **overrides), tmp_path, eval_chunk=4), device)


@pytest.mark.slow
def test_an_evaluation_block_by_block_gives_the_ranks_of_one_block(tmp_path, monkeypatch, on_the_device):
    monkeypatch.setattr("fedvlr_jax.training.store_backend.BLOCK_CLIENTS", 2)
    programs = StoreBackend(experiment("disk", **PLAIN), tmp_path, eval_chunk=2)
    state, _ = after(programs, (5,))
    jax.tree.map(np.testing.assert_array_equal, programs.rank(state, hide_test=False), on_the_device[2])
    assert (programs.rank(state, hide_test=True).item[1] == -1).all()


def test_a_store_recommends_what_the_device_does(tmp_path, monkeypatch):
    monkeypatch.setattr("fedvlr_jax.training.store_backend.BLOCK_CLIENTS", 4)  # several parts
    options = {"num_users": DATASET.num_users, "num_items": DATASET.num_items, "k": 3, "chunk": 2}
    found = {}
    for store, make in (("device", DeviceBackend), ("disk", lambda *a, **k: StoreBackend(a[0], tmp_path, **k))):
        made = experiment(store, **PLAIN)
        programs = make(made, eval_chunk=4)
        state, _ = after(programs, (2,))
        found[store] = recommend(made.algorithm, programs.parts(state), made.clients, **options)
    np.testing.assert_array_equal(found["disk"][0], found["device"][0])
    np.testing.assert_allclose(found["disk"][1], found["device"][1], rtol=1e-5)
    assert (found["disk"][0] >= 0).all()


def test_only_the_cohort_is_read_and_written(tmp_path, monkeypatch):
    programs = StoreBackend(experiment("disk", **PLAIN), tmp_path, eval_chunk=4)
    state = programs.init(3)
    read, written = [], []
    gather, scatter = programs._store.gather, programs._store.scatter
    monkeypatch.setattr(programs._store, "gather", lambda ids: read.append(ids.tolist()) or gather(ids))
    monkeypatch.setattr(
        programs._store, "scatter", lambda ids, tree: written.append(ids.tolist()) or scatter(ids, tree)
    )
    programs.advance(state, 4)
    cohorts = [programs.draw(state.key, number).tolist() for number in range(4)]
    assert written == cohorts
    before = [set(), *map(set, cohorts)]
    assert read == [[u for u in ids if u not in held] for ids, held in zip(cohorts, before, strict=False)]
    assert any(set(a) & set(b) for a, b in itertools.pairwise(cohorts))


# ---- runs


class Crash(Exception):
    """Stands for a kill: nothing runs after it."""


def outcome(trained):
    """Everything that has to be equal to the bit, without clocks."""
    progress = {name: value for name, value in dataclasses.asdict(trained.progress).items() if name not in CLOCKS}
    leaves = jax.tree.leaves(
        (trained.state.public, [(part.private, b) for part, b in trained.parts()], trained.ranks)
    )
    return progress, [np.asarray(x).tobytes() for x in leaves]


@pytest.fixture(scope="module", autouse=True)
def commits_rewrite():
    """Lets a commit rewrite a store when it holds two states of one client, so that old files become useless."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedvlr_jax.client_store.store.MAX_WASTE", 1.0)
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    trained = train(experiment("disk", **RUN), workdir)
    assert trained.progress.best_round < trained.progress.round  # two checkpoints, two sets of segments
    return outcome(trained), workdir, trained


@pytest.mark.slow
def test_a_run_ends_like_a_run_on_the_device(undisturbed, tmp_path):
    stored, device = undisturbed[2], train(experiment("device", **RUN), tmp_path)
    assert stored.progress.best_round == device.progress.best_round
    assert stored.progress.best_value == pytest.approx(device.progress.best_value)
    jax.tree.map(np.testing.assert_array_equal, stored.ranks, device.ranks)
    ((_, whole),) = device.parts()  # so few clients are looked at in one part
    users, rows = [], []
    for part, bucket in stored.parts():
        count = (bucket.user < DATASET.num_users).sum()
        users.append(bucket.user[:count])
        rows.append(jax.tree.map(lambda x, count=count: x[:count], part.private))
    np.testing.assert_array_equal(np.concatenate(users), whole.user)
    mine = jax.tree.map(lambda *x: np.concatenate(x), *rows)
    assert relative_difference(mine, jax.tree.map(lambda x: x[whole.user], device.state.private)) <= 1e-6


def crash_after(monkeypatch, count: int) -> None:
    report, calls = loop._report, []

    def crash(*args):
        report(*args)
        calls.append(1)
        if len(calls) == count:
            raise Crash

    monkeypatch.setattr(loop, "_report", crash)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("store", "count", "seconds"),
    spread([("disk", 2, 0.0), ("disk", 3, 1e9), ("memory", 3, 0.0)], [("disk", 2, 0.0)]),
)
def test_a_crash_changes_nothing(undisturbed, tmp_path, monkeypatch, store, count, seconds):
    run = experiment(store, **RUN | {"checkpoint__seconds": seconds})
    with monkeypatch.context() as patch:
        crash_after(patch, count)
        with pytest.raises(Crash):
            train(run, tmp_path)
    assert outcome(train(run, tmp_path)) == undisturbed[0]


@pytest.mark.slow
def test_only_segments_of_the_latest_and_the_best_round_are_kept(undisturbed):
    _, workdir, _ = undisturbed
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        kept = {entry["name"] for record in checkpoints.records() for entry in record["store"]["segments"]}
    assert {path.name for path in (workdir / "store").iterdir()} == kept


def test_a_finished_run_is_evaluated_again_without_writing(undisturbed, tmp_path):
    run = experiment("disk", **RUN)
    result = run_job(run, tmp_path, command=["train"]).result
    before = sorted(tmp_path.rglob("*"))
    again = evaluate_job(run, tmp_path)
    assert again["test"] == result["test"]
    assert sorted(tmp_path.rglob("*")) == before
    delete_run(tmp_path)
    assert not (tmp_path / "store").exists()


def test_a_full_disk_stops_the_run_and_keeps_the_last_checkpoint(undisturbed, tmp_path, monkeypatch):
    run, calls = experiment("disk", **RUN), []
    write = segments._pack_header

    def full(*args):
        calls.append(1)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(segments, "_pack_header", full)
        with pytest.raises(CheckpointError, match=r"expected room for \d+ client states .* found: No space left"):
            train(run, tmp_path)
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.record()["round"] == 2
    assert outcome(train(run, tmp_path)) == undisturbed[0]


def test_a_disk_that_fills_up_in_the_background_stops_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr("fedvlr_jax.training.store_backend.DIRTY_BYTES", 0)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(segments, "_pack_header", full)
    with pytest.raises(CheckpointError, match="No space left"):
        train(experiment("disk", **RUN), tmp_path)


def test_a_damaged_store_is_refused_by_the_name_of_its_file(tmp_path):
    run = experiment("disk", **RUN | {"rounds": 2})
    train(run, tmp_path)
    (path,) = (tmp_path / "store").iterdir()
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=rf"{path.name} is damaged: expected bytes \d+, found \d+"):
        train(experiment("disk", **RUN), tmp_path)


def test_another_place_of_states_is_another_run(tmp_path):
    train(experiment("memory", **RUN | {"rounds": 2}), tmp_path)
    with pytest.raises(CheckpointError, match=r"compute\.store: checkpoint 'memory', now 'device'"):
        train(experiment("device", **RUN), tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"compute__store": "tape"}, "compute.store: expected one of device, memory, disk, found 'tape'"),
        ({"compute__store": "disk", "compute__devices": 2}, "compute.devices: expected 1 with compute.store disk"),
        ({"compute__store": "memory", "compute__devices": 0}, "expected 1 with compute.store memory, found 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        make_algorithm(settings(**overrides), DATASET)
