"""Runs of a grid as arguments of one program: the same as each alone, and as a plain training run."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from problems import client_data, settings, tiny_dataset
from score_view_problem import DATASET as TIMED
from score_view_problem import SHARED_ONLY

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.benchmark.group import Run, train_group
from fedvlr_jax.benchmark.programs import MethodPrograms
from fedvlr_jax.data.buckets import make_client_data
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.fields import with_fields
from fedvlr_jax.training.experiment import Experiment, make_experiment
from fedvlr_jax.training.job import lists_of
from fedvlr_jax.training.loop import train, train_in_memory
from fedvlr_jax.training.schedule import make_plan
from fedvlr_jax.training.score_views import ConfiguredViews

DATASET = tiny_dataset()
CLIENTS = make_client_data(DATASET, min_length=16)
TREE = settings(host__name="fcf", variant="base", rounds=12, eval__every=3, eval__patience=0, server__lr=1.0)
RUNS = [
    Run({"client.lr": lr, "client.l2": l2}, seed)
    for lr, l2, seed in ((0.3, 0.0, 0), (0.3, 0.0, 1), (2.0, 0.01, 0), (0.05, 0.0, 3))
]


@pytest.fixture(scope="module")
def programs():
    return MethodPrograms(TREE, DATASET, CLIENTS)


def trained(programs, runs, tree=TREE, **options):
    return train_group(programs, make_plan(tree), runs, megabytes_per_round=0.5, **options)


def values(outcome):
    ranks = [x.tolist() for x in outcome.ranks if x is not None]
    return (outcome.progress.best_round, [p.valid for p in outcome.curve], *ranks)


@pytest.mark.slow
def test_a_group_gives_each_run_what_it_gets_alone(programs):
    together = trained(programs, RUNS)
    alone = [trained(programs, [run])[0] for run in RUNS]
    assert list(map(values, together)) == list(map(values, alone))
    assert len({str(values(outcome)[1]) for outcome in together}) == len(RUNS)  # the points and seeds do matter


@pytest.mark.slow
def test_lists_of_a_group_are_those_of_each_run(tmp_path):
    tree = with_fields(TREE, {"eval.lists": True, "rounds": 3})
    outcomes = trained(MethodPrograms(tree, DATASET, CLIENTS), RUNS[:2], tree)
    for outcome, run in zip(outcomes, RUNS, strict=False):
        of_run = with_fields(tree, {**run.point, "seed": run.seed})
        experiment = Experiment(of_run, DATASET, CLIENTS, make_algorithm(of_run, DATASET))
        expected = lists_of(experiment, train_in_memory(experiment))
        for name in set(expected) - {"calibration"}:
            assert outcome.lists[name] == pytest.approx(expected[name], rel=1e-5), name
    assert outcomes[0].lists != outcomes[1].lists


@pytest.mark.slow
@pytest.mark.parametrize("k", [0, 2])
def test_a_run_equals_the_training_command_with_the_same_settings(programs, tmp_path, k):
    run = RUNS[k]
    tree = with_fields(TREE, {**run.point, "seed": run.seed})
    plain = train(Experiment(tree, DATASET, CLIENTS, make_algorithm(tree, DATASET)), tmp_path)
    (outcome,) = trained(programs, [run])
    assert (outcome.progress.best_round, outcome.progress.best_value) == (
        plain.progress.best_round,
        plain.progress.best_value,
    )
    for ours, theirs in zip(outcome.ranks, plain.ranks, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_a_host_with_a_prior_ranks_as_in_the_training_command(tmp_path):
    tree = settings(host__name="fedprior", variant="base", rounds=4, eval__every=2, server__lr=1.0)
    plain = train(make_experiment(tree, DATASET), tmp_path)
    programs = MethodPrograms(tree, DATASET, make_client_data(DATASET))
    light, heavy = trained(programs, [Run({"host.model_weight": w}, tree["seed"]) for w in (0.3, 3.0)], tree)
    assert plain.progress.best_value == light.progress.best_value
    np.testing.assert_array_equal(light.ranks.greater, plain.ranks.greater)
    assert light.curve[0].megabytes > 2 * 0.5  # the secure sum comes before the first round
    assert values(light) != values(heavy)


def test_points_and_seeds_share_one_compiled_program(programs):
    trained(programs, RUNS[:1])
    before = programs.seconds
    trained(programs, [Run({"client.lr": 0.7, "client.l2": 0.1}, 9)])
    assert programs.seconds == before


@pytest.mark.slow
def test_features_of_a_control_go_through_the_same_program():
    tree = settings(host__name="fcf", variant="vbpr", rounds=4, eval__every=2, server__lr=1.0)
    programs = MethodPrograms(tree, DATASET, CLIENTS)
    others = [dataclasses.replace(DATASET, V=DATASET.V[::-1]), DATASET]
    runs = [Run({}, 0), Run({}, 0)]
    real = trained(programs, runs[:1], tree)
    before = programs.seconds
    changed = trained(programs, runs[:1], tree, datasets=others[:1])
    assert programs.seconds == before
    both = trained(programs, runs, tree, datasets=others)
    assert [values(x) for x in both] == [values(changed[0]), values(real[0])]
    assert values(changed[0]) != values(real[0])


def test_a_run_stops_by_its_own_patience_and_a_diverged_one_fails_alone(programs):
    tree = with_fields(TREE, {"eval.patience": 1, "rounds": 30})
    runs = [Run({"client.lr": 0.3, "client.l2": 0.0}, 0), Run({"client.lr": 1e38, "client.l2": 0.0}, 0)]
    good, bad = trained(programs, runs, tree)
    assert good.failure == ""
    assert good.progress.best_round <= good.curve[-1].round < 30
    assert values(trained(programs, runs[:1], tree)[0]) == values(good)
    assert "not finite" in bad.failure
    assert bad.ranks is None


def test_test_labels_choose_nothing(programs):
    changed = dataclasses.replace(DATASET, test_item=np.roll(DATASET.test_item, 3))
    other = MethodPrograms(TREE, changed, CLIENTS)
    for ours, theirs in zip(trained(programs, RUNS[:2]), trained(other, RUNS[:2]), strict=True):
        assert values(ours)[:2] == values(theirs)[:2]
        np.testing.assert_array_equal(ours.ranks.greater[0], theirs.ranks.greater[0])


def test_curves_count_rounds_and_megabytes(programs):
    (outcome,) = trained(programs, RUNS[:1])
    assert [(p.round, p.megabytes) for p in outcome.curve] == [(3, 1.5), (6, 3.0), (9, 4.5), (12, 6.0)]
    assert outcome.progress.client_updates == 12 * DATASET.num_users


def test_fields_that_do_not_exist_are_refused():
    with pytest.raises(KeyError, match=r"client\.rate"):
        with_fields(TREE, {"client.rate": 1})
    with pytest.raises(KeyError, match=r"seed\.x"):
        with_fields(TREE, {"seed.x": 1})
    changed = with_fields(TREE, {"client.lr": 7.0})
    assert (changed["client"]["lr"], TREE["client"]["lr"]) == (7.0, 0.3)
    assert jax.tree.structure(changed) == jax.tree.structure(TREE)


@pytest.mark.parametrize(("field", "found", "expected"), [("store", "disk", "device"), ("devices", 8, "1")])
def test_clients_that_lie_in_several_places_are_refused(field, found, expected):
    tree = TREE | {"compute": TREE["compute"] | {field: found}}
    message = rf"compute\.{field}: expected {expected} in a benchmark or a sweep, found {found}"
    with pytest.raises(ConfigError, match=message):
        MethodPrograms(tree, DATASET, CLIENTS)


@pytest.mark.parametrize("side_by_side", [False, True])
def test_runs_train_whatever_each_decided_about_the_order_of_time(side_by_side, monkeypatch):
    """Drawn items or features of a control may decide otherwise for one seed than for the next one."""
    tree = settings(**(SHARED_ONLY | {"host__choose_order": True}), rounds=2, eval__every=1)
    programs = MethodPrograms(tree, TIMED, client_data(TIMED))
    formed = [
        ConfiguredViews(with_fields(tree, {"host.order": order, "host.choose_order": False}), TIMED).of(TIMED)
        for order in (True, False)
    ]
    monkeypatch.setattr(programs, "_prior_of", lambda dataset, seed: formed[seed])
    runs = [Run({}, 0), Run({}, 1)]
    groups = [runs] if side_by_side else [[run] for run in runs]
    found = [outcome for group in groups for outcome in trained(programs, group, tree)]
    assert [outcome.failure for outcome in found] == ["", ""]
    assert values(found[0]) != values(found[1])
    before = programs.seconds
    assert values(trained(programs, runs[:1], tree)[0]) == values(found[0])
    assert programs.seconds == before
