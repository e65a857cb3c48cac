"""What a finished run says, against naive formulas and scipy."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
from problems import tiny_dataset
from scipy import stats
from toy_algorithm import toy_algorithm, toy_experiment

from fedvlr_jax.io.tables import cost_table, result_table
from fedvlr_jax.training import results
from fedvlr_jax.training.results import make_result, rank_arrays, rank_correlations
from fedvlr_jax.training.schedule import RunProgress
from fedvlr_jax.types import Ranks

DATASET = tiny_dataset()
TALLY = RunProgress(round=20, best_round=10, best_value=0.1, client_updates=500, seconds_train=2.0, num_dropped=3)


def make_ranks(seed: int = 0) -> Ranks:
    """Random ranks; user 0 has no validation item, user 1 no test item."""
    rng = np.random.default_rng(seed)
    item_tu = np.stack([DATASET.valid_item, DATASET.test_item])
    item_tu[0, 0] = item_tu[1, 1] = -1
    shape = item_tu.shape
    return Ranks(
        item=item_tu,
        greater=rng.integers(0, 30, shape).astype(np.int32),
        tied=rng.integers(1, 3, shape).astype(np.int32),
        constant=np.zeros(shape[1], bool),
        nonfinite=np.zeros(shape[1], np.int32),
    )


def result_of(ranks: Ranks, learned_um=None, dataset=DATASET) -> dict:
    experiment = toy_experiment()
    return make_result(experiment.settings, dataset, experiment.algorithm.cost, TALLY, ranks, learned_um)


def baseline(name: str, ndcg: float, **hyper) -> dict:
    group = {f"{metric}@{k}": ndcg for metric in ("HR", "NDCG", "MRR") for k in (10, 20, 50)}
    names = ("valid", "test", "test_warm", "test_cold")
    return {"name": name, "hyper": hyper, "summary": dict.fromkeys(names, group)}


def test_rank_arrays_have_one_row_for_every_held_out_item():
    ranks = make_ranks()
    rows = set()
    for t, split in ((0, 1), (1, 2)):
        for u in range(DATASET.num_users):
            if ranks.item[t, u] >= 0:
                rows.add((u, split, ranks.item[t, u], ranks.greater[t, u], ranks.tied[t, u]))
    arrays = rank_arrays(ranks)
    assert list(arrays) == ["user", "split", "item", "greater", "tied"]
    assert set(zip(*(array.tolist() for array in arrays.values()), strict=True)) == rows
    assert len(arrays["user"]) == 2 * DATASET.num_users - 2
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.int32)}


def test_the_result_counts_seconds_updates_and_drops():
    result = result_of(make_ranks())
    assert result["client_updates_per_second"] == 250.0
    assert (result["rounds"], result["best_round"], result["num_dropped"]) == (20, 10, 3)


def test_a_result_has_intervals_where_there_are_users_enough(monkeypatch):
    tested = DATASET.num_users - 1
    monkeypatch.setattr(results, "LEAST_USERS", tested)
    result = result_of(make_ranks())
    low, high = result["intervals"]["HR@50"]
    assert low <= result["test"]["HR@50"] <= high
    monkeypatch.setattr(results, "LEAST_USERS", tested + 1)  # one user has no test row
    assert result_of(make_ranks())["intervals"] == {}
    monkeypatch.undo()
    assert results.LEAST_USERS == 20


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlations_are_spearmans(ties):
    rng = np.random.default_rng(1)
    learned_um, planted_um = rng.normal(size=(40, 3)), rng.normal(size=(40, 3))
    learned_um[:, 0] += planted_um[:, 0]
    if ties:
        learned_um, planted_um = learned_um.round(), planted_um.round()
    found = rank_correlations(learned_um, planted_um)
    expected = [stats.spearmanr(learned_um[:, m], planted_um[:, m]).statistic for m in range(3)]
    np.testing.assert_allclose([found["id"], found["visual"], found["text"]], expected, atol=1e-12)
    assert found["mean"] == pytest.approx(np.mean(expected))


def test_a_modality_that_everybody_likes_alike_has_no_correlation():
    rng = np.random.default_rng(2)
    learned_um, planted_um = rng.normal(size=(40, 3)), rng.normal(size=(40, 3))
    learned_um[:, 1], learned_um[3, 2] = 0.5, np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = rank_correlations(learned_um, planted_um)
    assert found["visual"] is None
    assert found["text"] is None
    assert found["mean"] == found["id"]


def test_a_model_of_one_modality_has_no_preferences():
    rng = np.random.default_rng(3)
    learned_um = np.zeros((40, 3))
    learned_um[:, 0] = rng.random(40) < 0.7  # of users whose own items lose, and of others
    assert set(rank_correlations(learned_um, rng.normal(size=(40, 3))).values()) == {None}


def test_planted_data_adds_the_correlation():
    planted = dataclasses.replace(DATASET, planted=np.random.default_rng(0).dirichlet([1, 1, 1], DATASET.num_users))
    result = result_of(make_ranks(), learned_um=planted.planted, dataset=planted)
    assert result["planted_rank_correlation"]["mean"] == pytest.approx(1.0)
    assert "planted preferences over users: id 1.00, visual 1.00" in result_table(result, [])


def test_the_table_holds_baselines_and_says_what_is_below_popularity():
    result = result_of(make_ranks())
    good, bad = baseline("popularity", 0.99), baseline("popularity", 0.0)
    table = result_table(result, [good, baseline("ease", 0.5, l2=10.0)])
    assert "ease(l2=10)" in table
    assert "99.00" in table
    assert "BELOW POPULARITY" in table
    assert "BELOW POPULARITY" not in result_table(result, [bad])
    assert "BELOW POPULARITY" not in result_table(result, [])


def test_a_group_without_rows_is_a_dash():
    ranks = make_ranks()
    result = result_of(ranks._replace(item=np.stack([ranks.item[0], np.full_like(ranks.item[1], -1)])))
    row = result_table(result, []).splitlines()[3]
    assert row.split()[3:11] == ["-"] * 8
    assert result["intervals"] == {}


def test_the_cost_table_shows_shapes_and_totals():
    table = cost_table(DATASET, toy_algorithm(DATASET, 0.1, 0).cost, {"chunk": 256, "item_chunk": 0})
    for part in ("tiny: 13 users, 40 items", "40x4", "160", "640", "estimated memory"):
        assert part in table
