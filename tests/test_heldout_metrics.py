"""Metrics of several held-out rows a user against every order in which tied items can be listed."""

from __future__ import annotations

import itertools
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from ranking_oracle import rank_of

from fedvlr_jax.evaluation import metrics
from fedvlr_jax.evaluation.groups import Grouping, group_means
from fedvlr_jax.training.results import rank_arrays, ranks_of
from fedvlr_jax.types import Ranks

GAIN = {"HR": lambda r: 1.0, "NDCG": lambda r: 1 / math.log2(r + 1), "MRR": lambda r: 1 / r}
CUTOFFS = (1, 2, 3, 6)
ORDERS = np.array(list(itertools.permutations(range(6))))


def lists(scores):
    """The ranked list under every order of tied items, all equally likely: [orders, items]."""
    value = np.asarray(scores)[ORDERS]
    return np.take_along_axis(ORDERS, np.argsort(-value, axis=1, kind="stable"), axis=1)


def alone(scores, relevant, k, gain) -> float:
    """The mean over rows of a metric with one relevant item, the other relevant items struck from the list."""
    total = 0.0
    for ranked in lists(scores):
        for item in relevant:
            rank = [i for i in ranked.tolist() if i == item or i not in relevant].index(item) + 1
            total += gain(rank) if rank <= k else 0.0
    return total / len(ORDERS) / len(relevant)


def of_set(scores, relevant, k) -> tuple[float, float, float]:
    """Expected Recall@k, Precision@k and AP@k by their definitions."""
    relevant_or = np.isin(lists(scores), list(relevant))[:, :k]
    precision_or = np.cumsum(relevant_or, axis=1) / np.arange(1, k + 1)[: relevant_or.shape[1]]
    recall = relevant_or.sum(axis=1) / len(relevant)
    share = relevant_or.sum(axis=1).mean() / k
    return (
        float(recall.mean()),
        float(share),
        float((precision_or * relevant_or).sum(axis=1).mean() / min(k, len(relevant))),
    )


def ranks_of_users(users: list[tuple[list[int], list[int]]]) -> Ranks:
    """The test ranks of users (scores, relevant items), none of whom has a history."""
    rows = [(u, item, *rank_of(scores, [], item)) for u, (scores, items) in enumerate(users) for item in items]
    user, item, greater, tied = np.array(rows, np.int32).reshape(-1, 4).T
    none = np.zeros(len(users), np.int32)
    stored = {"user": user, "split": np.full_like(user, 2), "item": item, "greater": greater, "tied": tied}
    return ranks_of(stored | {"constant": none > 0, "nonfinite": none})


SCORES = st.lists(st.integers(0, 2), min_size=6, max_size=6)
ITEMS = st.sets(st.integers(0, 5), min_size=1, max_size=5).map(sorted)


@hypothesis.given(SCORES, ITEMS, st.sampled_from(CUTOFFS))
@hypothesis.settings(deadline=None, max_examples=25, derandomize=True, database=None)
def test_metrics_are_the_mean_over_all_orders_of_tied_items(scores, relevant, k):
    # A second user has two rows, so that these have several even where the first has one.
    ranks = ranks_of_users([(scores, relevant), ([0, 1, 2, 3, 4, 5], [4, 5])])
    for name, gain in GAIN.items():
        found = metrics.user_values(ranks, f"{name}@{k}")[0]
        assert found == pytest.approx(alone(scores, relevant, k, gain), rel=1e-12, abs=1e-15)
    found = [metrics.user_values(ranks, f"{name}@{k}")[0] for name in ("Recall", "Precision", "MAP")]
    assert found == pytest.approx(of_set(scores, relevant, k), rel=1e-12, abs=1e-15)


def test_a_perfect_model_has_one_of_everything_but_recall_in_a_list_that_is_too_short():
    ranks = ranks_of_users([([5, 4, 3, 0, 0, 0], [0, 1, 2]), ([0, 0, 0, 0, 0, 1], [5])])
    for name in ("HR", "NDCG", "MRR", "MAP", "Recall"):
        np.testing.assert_allclose(metrics.user_values(ranks, f"{name}@3"), [1, 1], rtol=1e-15)
    np.testing.assert_allclose(metrics.user_values(ranks, "Recall@2"), [2 / 3, 1], rtol=1e-15)
    np.testing.assert_allclose(metrics.user_values(ranks, "MAP@2"), [1, 1], rtol=1e-15)


def test_a_user_counts_once_however_many_rows_it_has():
    """By hand: HR@1 of a user with three rows is 1/3 (one row first, without its own other rows), of the other 1."""
    ranks = ranks_of_users([([9, 5, 1, 0, 4, 7], [0, 2, 3]), ([1, 0, 0, 0, 0, 0], [0])])
    np.testing.assert_allclose(metrics.user_values(ranks, "HR@1"), [1 / 3, 1])
    warm_i = np.array([False, True, True, True, True, True])
    summary = metrics.summarise(ranks, warm_i)
    assert summary["test"]["HR@10"] == 1.0
    assert summary["test"]["MRR@10"] == pytest.approx(((1 + 1 / 4 + 1 / 4) / 3 + 1) / 2, rel=1e-15)
    assert summary["test_warm"]["MRR@10"] == pytest.approx(1 / 4, rel=1e-15)  # user 0 alone
    assert summary["test_cold"]["MRR@10"] == 1.0
    assert {"Recall@10", "MAP@50"} < set(summary["test"])
    assert set(summary["valid"].values()) == {None}


def test_one_row_a_user_has_no_metrics_of_sets_which_would_be_those_of_one_item():
    users = [([2, 1, 1, 0, 0, 0], [item]) for item in range(6)]
    ranks = ranks_of_users(users)
    assert ranks.user is None
    assert not {"Recall@10", "MAP@10"} & set(metrics.summarise(ranks, np.ones(6, bool))["test"])
    for one, of_one in (("Recall", "HR"), ("MAP", "MRR")):
        for k in CUTOFFS:
            np.testing.assert_allclose(
                metrics.user_values(ranks, f"{one}@{k}"), metrics.user_values(ranks, f"{of_one}@{k}"), rtol=1e-14
            )


def test_groups_have_means_over_the_rows_that_a_user_has_in_them():
    values_sh = np.array([[1.0, 0.0, 0.5, 1.0], [1.0, 1.0, 0.5, 0.0]])
    grouping = Grouping(("a", "b", "none"), np.array([0, 0, 1, 0]), np.array([3, 3, 3, 7]))
    a, b, none = group_means(values_sh, grouping)
    assert (a.rows, a.mean) == (3, np.mean([[0.5, 1.0], [1.0, 0.0]]))
    assert (b.rows, b.mean) == (1, 0.5)
    assert (none.rows, none.mean) == (0, None)


def test_ranks_survive_their_file():
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(5, dtype=np.int32), [1, 3, 1, 2, 1])
    item_th = np.array([[4, 1, 2, -1, -1, 0, 1, 2], [5, 3, 4, 6, 1, -1, -1, -1]], np.int32)
    shape = item_th.shape
    ranks = Ranks(
        item_th, rng.integers(0, 9, shape), rng.integers(1, 4, shape), rng.random(5) > 0.5, np.arange(5), user
    )
    arrays = rank_arrays(ranks)
    assert arrays["user"].tolist() == [0, 1, 1, 3, 3, 4, 0, 1, 1, 1, 2]
    again = ranks_of(arrays | {"constant": ranks.constant, "nonfinite": ranks.nonfinite})
    np.testing.assert_array_equal(again.user, user)
    for name in ("greater", "tied"):
        np.testing.assert_array_equal(getattr(again, name)[item_th >= 0], getattr(ranks, name)[item_th >= 0])
    np.testing.assert_array_equal(again.item, item_th)
