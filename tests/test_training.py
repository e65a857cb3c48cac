"""The loop: evaluated rounds, selection on validation, early stopping, and resuming to the bit."""

from __future__ import annotations

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest
from problems import spread
from toy_algorithm import DATASET, toy_experiment

from fedvlr_jax.errors import CheckpointError, ConfigError, TrainingError
from fedvlr_jax.io.checkpoint import Checkpoints
from fedvlr_jax.io.interrupt import Interrupt, Interrupted
from fedvlr_jax.training import loop
from fedvlr_jax.training.device_backend import DeviceBackend
from fedvlr_jax.training.loop import rank_best, train
from fedvlr_jax.training.schedule import RunProgress, make_plan

CLOCKS = {"seconds_train", "seconds_eval", "seconds_compile", "client_updates_per_second"}
SMALL = {"rounds": 25, "eval__every": 10, "eval__patience": 0, "server__lr": 0.02}


class Crash(Exception):
    """Stands for a kill: nothing runs after it."""


def tree_bits(tree):
    leaves = [jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in tree]
    return [np.asarray(x).tobytes() for x in leaves]


def outcome(trained):
    """Everything that has to be equal to the bit, without clocks."""
    progress = {name: value for name, value in dataclasses.asdict(trained.progress).items() if name not in CLOCKS}
    return progress, tree_bits(jax.tree.leaves(trained.state)), tree_bits(jax.tree.leaves(trained.ranks))


def lines(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in CLOCKS} for row in rows]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Outcome and metric lines of one run that nothing disturbs."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    trained = train(toy_experiment(**SMALL), workdir)
    return outcome(trained), lines(workdir), trained


def test_evaluates_every_so_many_rounds_and_the_last(undisturbed):
    (progress, _, _), rows, _ = undisturbed
    assert [row["round"] for row in rows] == [10, 20, 25]
    assert progress["round"] == 25
    assert progress["client_updates"] == 25 * DATASET.num_users
    assert all(row["valid"]["NDCG@50"] is not None for row in rows)


def test_the_best_round_has_the_best_validation_value(undisturbed):
    (progress, _, _), rows, _ = undisturbed
    values = {row["round"]: row["valid"]["NDCG@50"] for row in rows}
    assert progress["best_round"] == max(values, key=values.get)
    assert progress["best_value"] == values[progress["best_round"]]


def test_rounds_in_stretches_equal_rounds_one_by_one(undisturbed):
    (progress, _, _), _, trained = undisturbed
    experiment = toy_experiment(**SMALL)
    state = experiment.algorithm.init(jax.random.key(0))
    one = jax.jit(experiment.algorithm.run, static_argnums=2)
    for _ in range(progress["best_round"]):
        state, _ = one(state, experiment.clients, 1)
    np.testing.assert_allclose(state.public.params["D"], trained.state.public.params["D"], rtol=1e-4, atol=1e-5)
    assert int(state.public.round) == int(trained.state.public.round) == progress["best_round"]


@pytest.mark.parametrize(
    "error",
    [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nlong trace")],
)
def test_running_out_of_memory_names_the_largest_arrays_and_what_helps(monkeypatch, tmp_path, error):
    def advance(self, state, num_rounds):
        raise error

    monkeypatch.setattr(DeviceBackend, "advance", advance)
    with pytest.raises(TrainingError) as found:
        train(toy_experiment(**SMALL), tmp_path)
    message = str(found.value)
    assert "public/D [" in message
    assert "private/theta [" in message
    assert "scores of an evaluation [" in message
    assert "--config.compute.chunk" in message
    assert "long trace" not in message


def test_another_error_of_the_runtime_stays_what_it_is(monkeypatch, tmp_path):
    def advance(self, state, num_rounds):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(DeviceBackend, "advance", advance)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        train(toy_experiment(**SMALL), tmp_path)


def test_the_clocks_run(undisturbed):
    progress = undisturbed[2].progress
    assert min(progress.seconds_train, progress.seconds_eval, progress.seconds_compile) > 0
    assert progress.updates_per_second == pytest.approx(progress.client_updates / progress.seconds_train)


@pytest.mark.slow
@pytest.mark.parametrize(("after", "seconds"), spread([(1, 0.0), (2, 0.0), (2, 1e9), (3, 1e9)], [(2, 0.0), (3, 1e9)]))
def test_a_crash_after_any_evaluation_changes_nothing(undisturbed, tmp_path, monkeypatch, after, seconds):
    experiment, calls = toy_experiment(**SMALL, checkpoint__seconds=seconds), []
    report = loop._report

    def crash(*args):
        report(*args)
        calls.append(1)
        if len(calls) == after:
            raise Crash

    monkeypatch.setattr(loop, "_report", crash)
    with pytest.raises(Crash):
        train(experiment, tmp_path)
    assert outcome(train(experiment, tmp_path)) == undisturbed[0]
    assert lines(tmp_path) == undisturbed[1]


@pytest.mark.parametrize(
    ("save", "when"), spread(itertools.product([1, 2, 3], ["before", "after"]), [(2, "before"), (3, "after")])
)
def test_a_crash_around_any_save_changes_nothing(undisturbed, tmp_path, monkeypatch, save, when):
    experiment, calls = toy_experiment(**SMALL), []
    write = Checkpoints.save

    def crash(self, state, record):
        calls.append(1)
        if len(calls) == save and when == "before":
            raise Crash
        write(self, state, record)
        if len(calls) == save:
            raise Crash

    monkeypatch.setattr(Checkpoints, "save", crash)
    try:
        train(experiment, tmp_path)
    except Crash:
        pass
    else:
        assert save == 3  # a run whose last round is the best one needs two saves only
    monkeypatch.setattr(Checkpoints, "save", write)
    assert outcome(train(experiment, tmp_path)) == undisturbed[0]
    assert lines(tmp_path) == undisturbed[1]


class SignalLater(Interrupt):
    """An interrupt whose signal has arrived when it is asked for the n-th time."""

    def __init__(self, asked: int):
        self.asked = asked

    @property
    def signum(self):
        self.asked -= 1
        return 15 if self.asked < 0 else None


@pytest.mark.parametrize("evaluations", spread([0, 1, 2], [1]))
def test_a_signal_saves_and_the_run_goes_on_to_the_bit(undisturbed, tmp_path, evaluations):
    experiment = toy_experiment(**SMALL, checkpoint__seconds=1e9)
    with pytest.raises(Interrupted, match=f"after round {10 * evaluations} of 25") as stop:
        train(experiment, tmp_path, interrupt=SignalLater(evaluations))
    assert stop.value.signum == 15
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.record()["round"] == 10 * evaluations
    assert outcome(train(experiment, tmp_path)) == undisturbed[0]
    assert lines(tmp_path) == undisturbed[1]


def test_clocks_and_counts_go_on_after_a_restart(tmp_path):
    experiment = toy_experiment(**SMALL)
    with pytest.raises(Interrupted):
        train(experiment, tmp_path, interrupt=SignalLater(2))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        before = checkpoints.record()
    after = train(experiment, tmp_path).progress
    assert after.client_updates == 25 * DATASET.num_users
    assert all(getattr(after, name) > before[name] for name in ("seconds_train", "seconds_eval", "seconds_compile"))


def test_a_finished_run_trains_nothing_more(undisturbed, tmp_path):
    experiment = toy_experiment(**SMALL)
    train(experiment, tmp_path)

    def never(*_):
        raise AssertionError("a finished run must not train")

    experiment.algorithm.run = never
    assert outcome(train(experiment, tmp_path)) == undisturbed[0]
    assert outcome(rank_best(experiment, tmp_path)) == undisturbed[0]


@pytest.mark.slow
def test_more_rounds_go_on_where_the_run_ended(tmp_path):
    train(toy_experiment(**SMALL | {"rounds": 20}), tmp_path)
    train(toy_experiment(**SMALL | {"rounds": 40}), tmp_path)
    assert [row["round"] for row in lines(tmp_path)] == [10, 20, 30, 40]


def test_early_stopping_after_patience_evaluations_without_improvement(tmp_path):
    trained = train(toy_experiment(rounds=100, eval__every=2, eval__patience=3, server__lr=0.0), tmp_path)
    assert (trained.progress.best_round, trained.progress.round) == (2, 8)
    assert trained.progress.evaluations_since_best == 3


@pytest.mark.parametrize(
    ("values", "best_round", "since"),
    [
        ([0.1, 0.2, 0.3], 3, 0),
        ([0.3, 0.2, 0.1], 1, 2),
        ([0.2, 0.2, 0.2], 1, 2),  # equal is no improvement
        ([0.1, 0.3, 0.2], 2, 1),
        ([None, None], 2, 0),  # nothing to choose by: the latest
    ],
)
def test_only_strict_improvement_moves_the_best_round(values, best_round, since):
    progress = RunProgress()
    for value in values:
        progress = dataclasses.replace(progress, round=progress.round + 1).evaluated(value, 0.5)
    assert (progress.best_round, progress.evaluations_since_best) == (best_round, since)
    assert progress.seconds_eval == pytest.approx(0.5 * len(values))


def test_test_labels_choose_nothing(undisturbed, tmp_path):
    rng = np.random.default_rng(3)
    other = dataclasses.replace(DATASET, test_item=rng.permutation(DATASET.test_item))
    trained = train(toy_experiment(other, **SMALL), tmp_path)
    assert lines(tmp_path) == undisturbed[1]
    assert outcome(trained)[:2] == undisturbed[0][:2]
    assert outcome(trained)[2] != undisturbed[0][2]


def test_test_items_are_not_even_handed_over_while_training(undisturbed, tmp_path, monkeypatch):
    seen, rank = [], DeviceBackend.rank
    monkeypatch.setattr(DeviceBackend, "rank", lambda *args, **named: seen.append(rank(*args, **named)) or seen[-1])
    train(toy_experiment(**SMALL), tmp_path)
    *while_training, at_the_end = seen
    assert len(while_training) == 3
    assert all((ranks.item[1] == -1).all() and (ranks.item[0] >= 0).all() for ranks in while_training)
    np.testing.assert_array_equal(at_the_end.item[1], DATASET.test_item)


def test_a_round_without_any_finite_client_stops_and_keeps_the_checkpoints(tmp_path):
    experiment = toy_experiment(**SMALL, checkpoint__seconds=1e9, dead_round=14)
    with pytest.raises(TrainingError, match=r"round 14: .* every client is not finite"):
        train(experiment, tmp_path)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.record()["round"] == 10


def test_no_validation_rows_leave_the_last_round_as_the_best(tmp_path):
    blind = dataclasses.replace(DATASET, valid_item=np.full_like(DATASET.valid_item, -1))
    trained = train(toy_experiment(blind, **SMALL), tmp_path)
    assert (trained.progress.best_round, trained.progress.best_value) == (25, None)


@pytest.fixture(scope="module")
def trained_workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained")
    train(toy_experiment(**SMALL | {"rounds": 10}), workdir)
    return workdir


V = DATASET.V.copy()
V[0, 0] += 1e-3


@pytest.mark.parametrize(
    ("overrides", "dataset", "line"),
    [
        ({"server__lr": 0.5}, DATASET, r"server.lr: checkpoint 0.02, now 0.5"),
        ({"seed": 4}, DATASET, "seed: checkpoint 0, now 4"),
        ({"eval__every": 5}, DATASET, "eval.every: checkpoint 10, now 5"),
        ({"host__name": "fedavg"}, DATASET, "host.name: checkpoint 'fcf', now 'fedavg'"),
        ({}, dataclasses.replace(DATASET, V=V), r"data V: checkpoint '[0-9a-f]{64}', now '[0-9a-f]{64}'\n"),
        ({}, dataclasses.replace(DATASET, C=None), r"data C: checkpoint '[0-9a-f]{64}', now None\n"),
    ],
)
def test_a_checkpoint_of_other_settings_or_data_is_refused_and_stays(trained_workdir, overrides, dataset, line):
    before = sorted(path.name for path in trained_workdir.rglob("*"))
    with pytest.raises(CheckpointError, match=line):
        train(toy_experiment(dataset, **SMALL | {"rounds": 10} | overrides), trained_workdir)
    assert sorted(path.name for path in trained_workdir.rglob("*")) == before


def test_settings_that_compute_nothing_may_change(tmp_path):
    train(toy_experiment(**SMALL | {"rounds": 10}), tmp_path)
    free = {"eval__patience": 3, "checkpoint__seconds": 1.0, "data__dir": "elsewhere", "baselines": False}
    train(toy_experiment(**SMALL | {"rounds": 20} | free), tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("rounds", 0), ("eval__every", 0), ("eval__patience", -1), ("eval__chunk", 0), ("seed", -1)],
)
def test_a_setting_out_of_range_is_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=f"{field.replace('__', '.')}: expected at least .*, found {value}"):
        make_plan(toy_experiment(**{field: value}).settings)
