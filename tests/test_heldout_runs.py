"""Several held-out rows a user from raw files to results: runs, reports, and private states in other places."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from benchmark_records import make_method
from problems import settings, tiny_dataset
from ranking_oracle import random_dataset
from test_heldout_ranking import by_a_loop, with_several
from test_prepare_real import prepare_real, real
from toy_algorithm import toy_experiment

import fedvlr_jax
from fedvlr_jax.benchmark.contrasts import make_contrasts
from fedvlr_jax.benchmark.records import FEDERATED, MethodRuns
from fedvlr_jax.benchmark.report import write_report
from fedvlr_jax.benchmark.table import make_rows
from fedvlr_jax.data.facts import count_ratings, fingerprint
from fedvlr_jax.data.messages import DataWarning
from fedvlr_jax.evaluation.metrics import user_values
from fedvlr_jax.io.tables import result_table
from fedvlr_jax.training import results
from fedvlr_jax.training.experiment import make_experiment
from fedvlr_jax.training.job import evaluate_job, run_job
from fedvlr_jax.training.loop import train
from fedvlr_jax.types import Dataset

SMALL = {"rounds": 10, "eval__every": 5, "eval__patience": 0, "server__lr": 0.02}


def test_a_run_ranks_every_row_and_its_result_has_the_metrics_of_sets(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "LEAST_USERS", 2)
    dataset = with_several(tiny_dataset())
    experiment = toy_experiment(dataset, **SMALL, baselines=False)
    done = run_job(experiment, tmp_path, command=[])
    D, theta = (np.asarray(x) for x in experiment.algorithm.snapshot(done.trained.state, None))
    greater_th, tied_th = by_a_loop(dataset, (theta @ D.T).astype(np.float32))
    assert np.mean(done.trained.ranks.greater == greater_th) > 0.99  # another order of summation
    np.testing.assert_array_equal(done.trained.ranks.tied, tied_th)
    assert done.result["test"]["MAP@50"] == user_values(done.trained.ranks, "MAP@50").mean()
    assert {"HR@50", "NDCG@50", "Recall@50", "Precision@50", "MAP@50"} == set(done.result["intervals"])
    assert "MAP@50" in result_table(done.result, [])
    with np.load(tmp_path / "ranks.npz") as stored:
        assert len(stored["user"]) == count_ratings(dataset) - len(dataset.train_item)
    again = evaluate_job(experiment, tmp_path, num_best=0)
    assert all(again[name] == done.result[name] for name in ("valid", "test"))


def test_the_split_of_rows_over_users_is_part_of_what_identifies_a_data_set():
    dataset = with_several(tiny_dataset())
    assert "held_user" in fingerprint(dataset)
    assert "held_user" not in fingerprint(tiny_dataset())  # as in the checkpoints that there are


def ranked(method: MethodRuns, dataset: Dataset) -> MethodRuns:
    """The method with ranks of random scores, which agree with each other where a user has several rows."""
    found = []
    for seed, ranks in enumerate(method.ranks):
        score_ui = np.random.default_rng(seed).normal(size=(dataset.num_users, dataset.num_items))
        greater_th, tied_th = by_a_loop(dataset, score_ui.astype(np.float32))
        found.append(ranks._replace(greater=greater_th, tied=tied_th))
    return method._replace(ranks=tuple(found))


@pytest.mark.slow
def test_a_benchmark_has_one_value_a_user(tmp_path):
    dataset = with_several(random_dataset(0, 60, 90, density=0.15))
    methods = [
        make_method(dataset, "fcf+fedvlr", FEDERATED, seeds=(0, 1), skill=0.7),
        make_method(dataset, "fcf+base", FEDERATED, seeds=(0, 1), skill=0.4),
        make_method(dataset, "popularity", skill=0.3),
    ]
    methods = [ranked(method, dataset) for method in methods]
    rows = {row.method.name: row for row in make_rows(methods, dataset)}
    tested = len(set(dataset.held_user[dataset.test_item >= 0].tolist()))
    for name in ("NDCG@50", "MAP@10", "Recall@50"):
        values_su = np.stack([user_values(ranks, name) for ranks in methods[0].ranks])
        assert values_su.shape == (2, tested)
        assert rows["fcf+fedvlr"].scores[name].mean == pytest.approx(values_su.mean())
    (contrast,) = [c for c in make_contrasts(methods) if c.against == "fcf+base"]
    assert contrast.result.better + contrast.result.worse <= 1
    text = write_report(methods, dataset, tmp_path, {})
    assert "## Several rows a user" in text
    assert "MAP@20" in text


@pytest.mark.slow
@pytest.mark.parametrize("item_chunk", [0, 7])
def test_private_states_in_a_store_have_the_same_ranks(tmp_path, item_chunk):
    dataset = with_several(tiny_dataset())
    case = {"rounds": 2, "eval__every": 2, "eval__patience": 0, "eval__item_chunk": item_chunk}
    found = []
    for store in ("device", "memory"):
        folder = tmp_path / store
        folder.mkdir()
        found.append(train(make_experiment(settings(**case, compute__store=store), dataset), folder).ranks)
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize(("by", "ratings"), [("ratio", 99287), ("global-time", 82347)])
def test_a_real_set_from_raw_files_to_a_result(tmp_path, by, ratings):
    """A global time leaves 193 users without a train row, who are dropped with their rows."""
    prepare_real("recbole", real("ml-100k"), tmp_path / "ML100K", {"split.by": by})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        dataset = fedvlr_jax.load_dataset("ML100K", tmp_path)
    assert np.bincount(dataset.held_user).max() > 10
    assert count_ratings(dataset) == ratings
    changes = {"host.name": "fcf", "variant": "base", "rounds": 10, "eval.every": 5}
    test = fedvlr_jax.fit(dataset, changes).metrics["test"]
    assert 0 < test["MAP@50"] < test["NDCG@50"] < test["HR@50"] < 1
    assert test["Recall@50"] <= test["HR@50"]  # own rows compete in the one and are left out in the other
