"""Metrics of whole lists against every order of equal scores, in one block of items and in several."""

from __future__ import annotations

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from list_oracle import expected_lists, gini_of
from problems import SMALL, tiny_dataset
from ranking_oracle import one_bucket, random_dataset

import fedvlr_jax
from fedvlr_jax.evaluation.list_metrics import gini, history_calibration, list_metric_names, summarise_lists
from fedvlr_jax.evaluation.lists import item_facts, list_all, list_chunk
from fedvlr_jax.evaluation.metrics import CUTOFFS
from fedvlr_jax.evaluation.ranking import rank_all
from fedvlr_jax.evaluation.top import top_items
from fedvlr_jax.io.tables import result_table
from fedvlr_jax.types import BlockScore, Bucket

DATASET = random_dataset(3, 3, 7, density=0.15)
BUCKET = one_bucket(DATASET)[0]
SCORES = {
    "ties": np.array([[0, 1, 1, 0, 2, 1, 1], [3, 3, 3, 3, 0, 0, 1], [1, 2, 3, 4, 5, 6, 7]], np.float32),
    "constant": np.zeros((3, 7), np.float32),
    "untied": np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32),
    "not finite": np.array(
        [[np.nan, 1, np.inf, -np.inf, 2, 1, -5], [0, -0.0, 0, 1e-40, 1, 1, 1], [np.nan] * 7], np.float32
    ),
}
LENGTHS = (1, 2, 4)


def table(params, chunk):
    return jnp.asarray(params).at[chunk.user].get(mode="fill", fill_value=0)


def block_table(size: int) -> BlockScore:
    def score(params, ready, first):
        return jax.lax.dynamic_slice_in_dim(ready, first, size, axis=1)

    return BlockScore(table, score, DATASET.num_items, size)


@functools.partial(jax.jit, static_argnames=("size",))
def lists_of(params, facts, size=0):
    score = block_table(size) if size else table
    return list_chunk(score, params, BUCKET, facts, num_users=DATASET.num_users, cutoffs=LENGTHS)


@pytest.mark.parametrize("size", [0, 3])
@pytest.mark.parametrize("name", SCORES)
def test_lists_are_the_mean_over_all_orders_of_tied_items(name, size):
    found = jax.device_get(lists_of(SCORES[name], item_facts(DATASET), size=size))
    for k, length in enumerate(LENGTHS):
        expected = expected_lists(SCORES[name], DATASET, length)
        for metric, value_uk in found.values.items():
            np.testing.assert_allclose(value_uk[:, k], expected[metric], rtol=2e-6, atol=1e-6, err_msg=metric)
        np.testing.assert_allclose(found.exposure_ki[k], expected["exposure"], rtol=1e-6, atol=1e-7)
        assert gini(found.exposure_ki[k]) == pytest.approx(expected["Gini"], abs=1e-6)
        assert -np.expm1(found.missed_ki[k]).mean() == pytest.approx(expected["Coverage"], abs=1e-6)


@pytest.mark.slow
def test_an_empty_slot_exposes_nothing():
    more = Bucket(np.append(BUCKET.user, 3), np.vstack([BUCKET.history, BUCKET.history[:1]]))
    alone = lists_of(SCORES["constant"], item_facts(DATASET))
    found = list_chunk(table, SCORES["constant"], more, item_facts(DATASET), num_users=3, cutoffs=LENGTHS)
    np.testing.assert_allclose(found.exposure_ki, alone.exposure_ki, rtol=1e-6)
    np.testing.assert_allclose(found.missed_ki, alone.missed_ki, rtol=1e-6)


# ---- all users together


WHOLE = random_dataset(1, 40, 90, density=0.15)
WHOLE_SCORES = np.round(np.random.default_rng(2).normal(size=(40, 90)), 1).astype(np.float32)


def all_lists(dataset, score_ui=WHOLE_SCORES, chunk=16):
    facts = item_facts(dataset)
    return jax.jit(lambda p: list_all(table, p, one_bucket(dataset), facts, num_users=40, chunk=chunk))(score_ui)


@pytest.fixture(scope="module")
def lists():
    return jax.device_get(all_lists(WHOLE))


def test_lists_do_not_depend_on_the_chunks(lists):
    found = jax.device_get(all_lists(WHOLE, chunk=40))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, lists)


def test_the_summary_has_a_number_for_every_metric_and_is_json(lists):
    summary = summarise_lists(lists, WHOLE)
    names = list_metric_names(summary, *CUTOFFS)
    assert len(names) == 6 * len(CUTOFFS)
    assert set(summary) == {*names, "calibration"}
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["Novelty@10"] == pytest.approx(lists.values["Novelty"][:, 0].mean(), rel=1e-6)
    assert sum(lists.exposure_ki[0]) == pytest.approx(40 * 10, rel=1e-5)
    assert 0 < summary["Gini@50"] < summary["Gini@10"] < 1
    assert summary["Coverage@10"] < summary["Coverage@50"] <= 1


@pytest.mark.parametrize("missing", ["V", "C", "VC"])
def test_a_modality_that_is_missing_has_no_diversity_and_changes_nothing_else(lists, missing):
    dataset = dataclasses.replace(WHOLE, **dict.fromkeys(missing))
    summary, whole = summarise_lists(jax.device_get(all_lists(dataset)), dataset), summarise_lists(lists, WHOLE)
    gone = {"V": "VisualDiversity", "C": "TextDiversity"}
    assert {name.split("@")[0] for name in set(whole) - set(summary)} == {gone[letter] for letter in missing}
    for name in set(summary) - {"calibration"}:
        assert summary[name] == pytest.approx(whole[name], rel=1e-5), name


def test_a_catalogue_shorter_than_the_list_is_shown_whole():
    facts = item_facts(DATASET)
    found = jax.device_get(list_all(table, SCORES["ties"], (BUCKET,), facts, num_users=3, chunk=2))
    candidates_u = DATASET.num_items - np.bincount(DATASET.train_user)
    np.testing.assert_allclose(found.exposure_ki.sum(axis=1), [candidates_u.sum()] * 3)
    assert summarise_lists(found, DATASET)["Coverage@50"] == 1.0


def test_somebody_who_has_everything_has_no_list_and_counts_nowhere():
    history = np.vstack([np.arange(7), BUCKET.history[1:, :1].repeat(7, axis=1)]).astype(np.int32)
    found = list_all(
        table, SCORES["ties"], (Bucket(BUCKET.user, history),), item_facts(DATASET), num_users=3, chunk=3
    )
    summary = summarise_lists(jax.device_get(found), DATASET)
    assert np.isnan(found.values["Popularity"][0]).all()
    assert all(math.isfinite(summary[name]) for name in list_metric_names(summary, *CUTOFFS))


# ---- Gini and calibration


def test_gini_is_the_mean_absolute_difference_of_all_pairs():
    amount_i = np.random.default_rng(0).gamma(0.5, size=30)
    assert gini(amount_i) == pytest.approx(gini_of(amount_i), rel=1e-12)
    assert gini(np.ones(5)) == pytest.approx(0)
    assert gini(np.eye(5)[2]) == pytest.approx(1 - 1 / 5)
    assert gini(np.zeros(5)) is None


def test_calibration_compares_the_list_of_a_group_with_its_histories():
    popularity_u = np.linspace(0.1, 0.5, 40)
    popularity_u[7] = np.nan
    rows = history_calibration(popularity_u, WHOLE)
    counts = np.bincount(WHOLE.train_item, minlength=90) / 40
    for low, high, row in zip((0, 11), (10, 20), rows, strict=False):
        users = [u for u in range(40) if low <= (WHOLE.train_user == u).sum() <= high and u != 7]
        history = np.mean([counts[WHOLE.train_item[WHOLE.train_user == u]].mean() for u in users])
        assert (row["group"], row["users"]) == (f"{low}-{high}", len(users))
        assert row["history"] == pytest.approx(history, rel=1e-12)
        assert row["list"] == pytest.approx(popularity_u[users].mean(), rel=1e-12)
        assert row["lift"] == pytest.approx(row["list"] / row["history"] - 1, rel=1e-12)
    assert sum(row["users"] for row in rows) == 39


# ---- in runs


@pytest.fixture(scope="module")
def fitted():
    changes = {key.replace("__", "."): value for key, value in SMALL.items()}
    overrides = changes | {"host.name": "fcf", "variant": "base", "rounds": 2, "eval.lists": True, "eval.chunk": 5}
    return fedvlr_jax.fit(tiny_dataset(), overrides)


def scores_of(fitted):
    clients, algorithm = fitted.experiment.clients, fitted.experiment.algorithm
    params = algorithm.snapshot(fitted.state, clients.content)
    score_ui = np.zeros((fitted.dataset.num_users, fitted.dataset.num_items), np.float32)
    for bucket in clients.buckets:
        score_ui[np.asarray(bucket.user)] = algorithm.score(params, bucket)
    return score_ui


@pytest.mark.slow
def test_a_run_judges_the_lists_of_its_best_round(fitted):
    dataset = fitted.dataset
    judged = jax.jit(lambda p: list_all(table, p, one_bucket(dataset), item_facts(dataset), num_users=13, chunk=13))
    expected = summarise_lists(jax.device_get(judged(scores_of(fitted))), dataset)
    assert fitted.metrics["lists"].keys() == expected.keys()
    for name in set(expected) - {"calibration"}:
        assert fitted.metrics["lists"][name] == pytest.approx(expected[name], rel=1e-4), name
    text = result_table(fitted.metrics, [])
    assert "VisualDiversity" in text
    assert "Novelty (bits)" in text
    assert f"{100 * expected['Coverage@10']:.2f}" in text


def test_best_items_have_the_ranks_of_evaluation_with_ties_too():
    buckets, item_tu = one_bucket(WHOLE), np.stack([WHOLE.valid_item, WHOLE.test_item])
    ranks = jax.device_get(rank_all(table, WHOLE_SCORES, buckets, jnp.asarray(item_tu), chunk=40))
    items, scores = jax.device_get(top_items(table, WHOLE_SCORES, buckets[0], num_items=90, k=90))
    assert (ranks.tied > 1).mean() > 0.5
    for t, user in np.ndindex(2, 40):
        (place,) = np.flatnonzero(items[user] == item_tu[t, user])
        assert ranks.greater[t, user] == (scores[user] > scores[user, place]).sum()
        assert ranks.tied[t, user] == (scores[user] == scores[user, place]).sum()
        assert ranks.greater[t, user] <= place < ranks.greater[t, user] + ranks.tied[t, user]


@pytest.mark.slow
def test_recommendations_have_the_ranks_of_evaluation(fitted):
    """A row whose item is listed stands within its tie group, behind all that evaluation counts as better."""
    dataset, ranks = fitted.dataset, fitted.trained.ranks
    rows = fedvlr_jax.recommend(fitted, k=dataset.num_items)
    for t, item_u in enumerate((dataset.valid_item, dataset.test_item)):
        for user, item in enumerate(item_u.tolist()):
            own = rows[rows["user"] == user]
            (row,) = own[own["item"] == item]
            assert ranks.greater[t, user] == (own["score"] > row["score"]).sum()
            assert ranks.tied[t, user] == (own["score"] == row["score"]).sum()
            assert ranks.greater[t, user] < row["rank"] <= ranks.greater[t, user] + ranks.tied[t, user]
