"""Metrics against the mean over all orders of tied items, scikit-learn, and hand-made rows."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from ranking_oracle import rank_of, ranks_over_all_orders
from sklearn.metrics import ndcg_score

from fedvlr_jax.evaluation import metrics
from fedvlr_jax.types import Ranks

GAIN = {"HR": lambda r: 1.0, "NDCG": lambda r: 1 / math.log2(r + 1), "MRR": lambda r: 1 / r}


@pytest.mark.parametrize("name", GAIN)
@pytest.mark.parametrize("seed", range(6))
def test_metrics_are_the_mean_over_all_orders_of_tied_items(name, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 3, 6)
    for target in range(6):
        ranks = ranks_over_all_orders(scores, target)
        greater, tied = rank_of(scores, [], target)
        for k in (1, 2, 3, 5, 6, 9):
            expected = np.mean([GAIN[name](r) if r <= k else 0.0 for r in ranks])
            found = metrics.METRICS[name](np.array([greater]), np.array([tied]), k)
            np.testing.assert_allclose(found, [expected], rtol=1e-13, atol=0)


@pytest.mark.parametrize("k", [1, 5, 10, 50])
def test_ndcg_equals_scikit_learn(k):
    rng = np.random.default_rng(k)
    for _ in range(50):
        scores, target = rng.integers(0, 8, 40).astype(np.float32), rng.integers(40)
        expected = ndcg_score(np.eye(40)[[target]], scores[None], k=k)
        greater, tied = rank_of(scores, [], target)
        np.testing.assert_allclose(metrics.ndcg(np.array([greater]), np.array([tied]), k), [expected], rtol=1e-12)


@pytest.mark.parametrize(
    ("greater", "tied", "hit", "gain", "reciprocal"),
    [
        (0, 1, 1.0, 1.0, 1.0),
        (1, 1, 1.0, 1 / math.log2(3), 1 / 2),
        (2, 1, 0.0, 0.0, 0.0),  # just behind the cut-off of 2
        (1, 4, 1 / 4, 1 / math.log2(3) / 4, 1 / 8),  # one of four ranks is inside
        (0, 4, 2 / 4, (1 + 1 / math.log2(3)) / 4, 3 / 8),
        (
            0,
            2**31 - 1,
            2 / (2**31 - 1),
            (1 + 1 / math.log2(3)) / (2**31 - 1),
            1.5 / (2**31 - 1),
        ),  # no overflow
        (2**31 - 2, 2, 0.0, 0.0, 0.0),
    ],
)
def test_metrics_at_the_cut_off(greater, tied, hit, gain, reciprocal):
    row = np.array([greater], np.int32), np.array([tied], np.int32)
    assert metrics.hit_rate(*row, 2) == pytest.approx([hit], rel=1e-14)
    assert metrics.ndcg(*row, 2) == pytest.approx([gain], rel=1e-14)
    assert metrics.mrr(*row, 2) == pytest.approx([reciprocal], rel=1e-14)


RANKS = Ranks(
    item=np.array([[0, 1, 3, -1], [3, 3, -1, 0]], np.int32),
    greater=np.array([[0, 10, 19, 0], [2, 0, 0, 50]], np.int32),
    tied=np.array([[1, 1, 2, 1], [1, 60, 1, 1]], np.int32),
    constant=np.array([False, True, False, False]),
    nonfinite=np.array([0, 7, 1, 0], np.int32),
)
WARM = np.array([True, True, True, False])


def test_summary_of_hand_made_ranks():
    summary = metrics.summarise(RANKS, WARM)
    assert summary["valid"]["HR@10"] == pytest.approx(1 / 3, rel=1e-15)  # a mean is not rounded
    assert summary["valid"]["HR@20"] == pytest.approx((1 + 1 + 1 / 2) / 3, rel=1e-15)
    assert summary["valid_warm"]["MRR@20"] == pytest.approx((1 + 1 / 11) / 2, rel=1e-15)
    assert summary["valid_cold"]["HR@50"] == 1.0
    assert summary["test"]["HR@50"] == pytest.approx((1 + 50 / 60 + 0) / 3, rel=1e-15)
    assert summary["test_warm"]["NDCG@50"] == 0.0
    assert summary["test_cold"]["NDCG@10"] == pytest.approx(
        (1 / 2 + sum(1 / math.log2(r + 1) for r in range(1, 11)) / 60) / 2, rel=1e-14
    )
    assert summary["tie_rate"] == pytest.approx(1 / 3)
    assert summary["constant_score_rate"] == 1 / 4
    assert summary["nonfinite_users"] == 2
    assert set(summary["test"]) == {f"{name}@{k}" for name in GAIN for k in (10, 20, 50)}


def test_a_user_without_a_row_is_in_no_group():
    summary = metrics.summarise(RANKS, np.array([False, True, True, True]))
    assert summary["valid_cold"]["HR@50"] == 1.0  # user 0 alone, not user 3 as well
    assert summary["valid_warm"]["HR@10"] == summary["valid_warm"]["MRR@10"] == 0.0
    assert summary["test_cold"]["HR@50"] == 0.0


def test_a_group_without_rows_has_no_metrics_and_the_summary_is_json():
    summary = metrics.summarise(RANKS._replace(item=np.full((2, 4), -1)), WARM)
    assert set(summary["test"].values()) == set(summary["valid_cold"].values()) == {None}
    assert summary["tie_rate"] is None
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_row_values_are_those_of_the_users_with_a_row():
    np.testing.assert_allclose(metrics.row_values(RANKS, "HR@50"), [1, 50 / 60, 0], rtol=1e-15)
    np.testing.assert_allclose(metrics.row_values(RANKS, "MRR@10", split=metrics.VALID), [1, 0, 0])


def test_warm_items_occur_in_train():
    np.testing.assert_array_equal(metrics.warm_items(np.array([2, 0, 2]), 4), [True, False, True, False])
