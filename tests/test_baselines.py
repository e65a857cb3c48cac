"""Baselines against naive float64 oracles, exact ties, and selection on validation only.

Those that read features, those that are computed federated, and known numbers have files beside this one.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest
from ranking_oracle import load_real, one_bucket, random_dataset

from fedvlr_jax import baselines
from fedvlr_jax.baselines import BASELINES, run_baselines, select
from fedvlr_jax.baselines.base import Baseline, score_table
from fedvlr_jax.data.buckets import merge_buckets
from fedvlr_jax.errors import ConfigError, DataError
from fedvlr_jax.evaluation.metrics import row_values, summarise, warm_items
from fedvlr_jax.types import Bucket, Dataset

CLOSED_FORMS = [name for name, baseline in BASELINES.items() if isinstance(baseline, Baseline)]
PRINTED = [name for name, baseline in BASELINES.items() if baseline.printed]
SHAPES = [(9, 14), (30, 12)]  # fewer users than items, and more


def scores(name: str, dataset: Dataset, **hyper) -> np.ndarray:
    """float32 [u, i], scored in one chunk."""
    baseline = BASELINES[name]
    return np.asarray(jax.jit(baseline.score)(baseline.fit(dataset, **hyper), one_bucket(dataset)[0]))


def some_points(name: str) -> tuple[dict, ...]:
    """About five points of a grid, from all over it."""
    grid = BASELINES[name].grid
    return grid[:: max(len(grid) // 5, 1)]


def train_sets(dataset: Dataset) -> list[set[int]]:
    """For each item the users who have it in train."""
    pairs = list(zip(dataset.train_user.tolist(), dataset.train_item.tolist(), strict=True))
    return [{u for u, i in pairs if i == item} for item in range(dataset.num_items)]


def popularity_oracle(dataset):
    return np.array([[len(users) for users in train_sets(dataset)]] * dataset.num_users, np.float64)


def cold_first_oracle(dataset):
    return np.array([[len(users) or dataset.num_users + 1 for users in train_sets(dataset)]] * dataset.num_users)


def item_knn_oracle(dataset, neighbours):
    users_i = train_sets(dataset)
    score_ui = np.zeros((dataset.num_users, dataset.num_items))
    for i, own in enumerate(users_i):
        cosine = {
            h: len(own & other) / np.sqrt(len(own) * len(other))
            for h, other in enumerate(users_i)
            if h != i and own and other
        }
        kth = sorted([*cosine.values(), *[0.0] * neighbours], reverse=True)[neighbours - 1]
        for h, value in cosine.items():
            if value > kth - 1e-12:
                score_ui[sorted(users_i[h]), i] += value
    return score_ui


def ease_oracle(dataset, l2):
    """Column j of B is the ridge regression of item j on all other items."""
    matrix_ui = np.array([[u in users for users in train_sets(dataset)] for u in range(dataset.num_users)], float)
    score_ui = np.zeros_like(matrix_ui)
    for j in range(dataset.num_items):
        others_ui = np.delete(matrix_ui, j, axis=1)
        penalty = np.sqrt(l2) * np.eye(dataset.num_items - 1)
        rows, right = np.vstack([others_ui, penalty]), np.append(matrix_ui[:, j], np.zeros(dataset.num_items - 1))
        score_ui[:, j] = others_ui @ np.linalg.lstsq(rows, right, rcond=None)[0]
    return score_ui


CASES = [
    ("popularity", {}, popularity_oracle),
    *[("item_knn", {"neighbours": k}, item_knn_oracle) for k in (1, 3, 100)],
    *[("ease", {"l2": l2}, ease_oracle) for l2 in (0.5, 20.0)],
    ("constant", {}, lambda dataset: np.zeros((dataset.num_users, dataset.num_items))),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "hyper", "oracle"), CASES)
def test_scores_equal_a_naive_float64_version(name, hyper, oracle, shape):
    dataset = random_dataset(1, *shape)
    found = scores(name, dataset, **hyper)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, oracle(dataset, **hyper), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_cold_first_orders_unseen_items_first_and_then_by_popularity(shape):
    dataset = random_dataset(1, *shape)
    found, expected = scores("cold_first", dataset), cold_first_oracle(dataset)
    np.testing.assert_array_equal(found[0][:, None] > found[0][None], expected[0][:, None] > expected[0][None])


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_a_permutation_of_item_ids_permutes_the_scores(name):
    """A model that chose neighbours by item id where similarities are tied would fail."""
    dataset = random_dataset(2, 12, 20)
    new_id = np.random.default_rng(3).permutation(20)
    old_id = np.argsort(new_id)
    renamed = dataclasses.replace(
        dataset, train_item=new_id[dataset.train_item].astype(np.int32), V=dataset.V[old_id], C=dataset.C[old_id]
    )
    for hyper in some_points(name):
        after = scores(name, renamed, **hyper)[:, new_id]
        np.testing.assert_allclose(after, scores(name, dataset, **hyper), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_equal_neighbours_are_all_kept_and_empty_slots_are_harmless(name):
    """Items 0, 1 and 2 have the same users and features: no score may tell them apart, whichever k."""
    features = np.eye(5, dtype=np.float32)[[0, 0, 0, 1, 2]]
    pairs = np.array([[0, 0], [0, 1], [0, 2], [0, 3], [1, 0], [1, 1], [1, 2], [2, 3]])
    empty = np.full(3, -1)
    dataset = Dataset(
        name="x",
        num_users=3,
        num_items=5,
        train_user=pairs[:, 0],
        train_item=pairs[:, 1],
        valid_item=empty,
        test_item=empty,
        V=features,
        C=features,
    )
    for hyper in [{"neighbours": 1}, {"neighbours": 2}] if name == "item_knn" else some_points(name):
        params = BASELINES[name].fit(dataset, **hyper)
        chunk = Bucket(user=np.array([2, 3]), history=np.array([[3, 5], [5, 5]]))  # user 3: an empty slot
        row = np.asarray(BASELINES[name].score(params, chunk))[0]
        np.testing.assert_allclose(row[:3], row[0], rtol=1e-6)


@pytest.fixture(scope="module")
def ku(ku_folder):
    return load_real(ku_folder)


def test_test_labels_change_no_choice():
    """The chosen hyper-parameters stay, whatever the test items are; choosing by test would move some."""
    rng = np.random.default_rng(0)
    moved = 0
    for seed in range(4):
        dataset = random_dataset(seed, 40, 25, density=0.2)
        before = select(dataset, one_bucket(dataset), "ease")
        taken_ui = np.zeros((40, 25), bool)
        taken_ui[dataset.train_user, dataset.train_item] = True
        taken_ui[np.arange(40), dataset.valid_item] = True
        other = np.array([rng.choice(np.flatnonzero(~row)) for row in taken_ui], np.int32)
        after = select(dataclasses.replace(dataset, test_item=other), one_bucket(dataset), "ease")
        assert after.hyper == before.hyper
        assert after.summary["valid"] == before.summary["valid"]
        assert after.summary["test"] != before.summary["test"]
        swapped = dataclasses.replace(dataset, valid_item=other, test_item=dataset.valid_item)
        moved += select(swapped, one_bucket(dataset), "ease").hyper != before.hyper
    assert moved > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["item_knn", "ease", "content_knn", "content_ease"])
def test_rounding_breaks_no_tie_whatever_the_order_of_items(monkeypatch, ku, name):
    """Other item ids give sums another order and the factor other pivots; exact ties must not notice."""
    monkeypatch.setitem(BASELINES, name, BASELINES[name]._replace(grid=some_points(name)))
    new_id = np.random.default_rng(0).permutation(ku.num_items).astype(np.int32)
    order = np.lexsort((new_id[ku.train_item], ku.train_user))
    old_id = np.argsort(new_id)
    renamed = dataclasses.replace(
        ku,
        train_item=new_id[ku.train_item][order],
        valid_item=new_id[ku.valid_item],
        test_item=new_id[ku.test_item],
        V=ku.V[old_id],
        C=ku.C[old_id],
    )
    before, after = select(ku, one_bucket(ku), name), select(renamed, one_bucket(renamed), name)
    assert after.hyper == before.hyper
    np.testing.assert_array_equal(after.ranks.greater, before.ranks.greater)
    np.testing.assert_array_equal(after.ranks.tied, before.ranks.tied)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 3e7])
def test_a_table_of_scores_holds_equal_sums_as_equal_numbers(scale):
    """Every item sums the same numbers in another order; float32 alone would tell sums close to zero apart."""
    rng = np.random.default_rng(0)
    part_p = scale * rng.uniform(-1, 1, 200)
    zero_p = np.concatenate([part_p, -part_p])
    sums = [[np.cumsum(rng.permutation(x_p))[-1] for _ in range(500)] for x_p in (part_p, zero_p)]
    score_ui = np.array([*sums, scale * np.linspace(-1, 1, 500)])
    score_ui[:, 0] = scale  # the largest of each row
    assert len(np.unique(score_ui[1].astype(np.float32))) > 10
    table_ui = np.asarray(score_table(score_ui))
    assert table_ui.dtype == np.float32
    np.testing.assert_allclose(np.unique(table_ui[0, 1:]), [part_p.sum()], rtol=1e-6)
    np.testing.assert_array_equal(np.unique(table_ui[1, 1:]), [0])
    assert len(np.unique(table_ui[2])) == 499
    assert not np.asarray(score_table(np.zeros((2, 3)))).any()


def test_select_keeps_the_best_validation_result(monkeypatch, ku):
    every = []
    for hyper in BASELINES["ease"].grid:
        monkeypatch.setitem(BASELINES, "one", BASELINES["ease"]._replace(grid=(hyper,)))
        every.append(select(ku, one_bucket(ku), "one"))
    best = select(ku, one_bucket(ku), "ease")
    assert best.summary["valid"]["NDCG@50"] == max(one.summary["valid"]["NDCG@50"] for one in every)
    assert best.hyper == {"l2": 50.0}
    assert best.summary == summarise(best.ranks, warm_items(ku.train_item, ku.num_items))
    assert row_values(best.ranks, "HR@50").mean() == pytest.approx(best.summary["test"]["HR@50"])


def test_the_first_of_equally_good_hyper_parameters_is_kept(monkeypatch):
    fit = lambda dataset, scale: BASELINES["popularity"].fit(dataset) * scale  # noqa: E731
    grid = ({"scale": 1.0}, {"scale": 2.0})
    monkeypatch.setitem(BASELINES, "scaled", Baseline(fit, BASELINES["popularity"].score, grid))
    dataset = random_dataset(0, 9, 14)
    assert select(dataset, one_bucket(dataset), "scaled").hyper == {"scale": 1.0}


def test_run_baselines_gives_one_row_each():
    dataset = random_dataset(4, 40, 25)
    rows = run_baselines(dataset, one_bucket(dataset))
    assert [row.name for row in rows] == PRINTED
    constant = rows[PRINTED.index("constant")]
    assert (constant.summary["constant_score_rate"], constant.summary["tie_rate"]) == (1.0, 1.0)
    (row,) = run_baselines(dataset, one_bucket(dataset), names=["item_knn"])
    assert row == rows[1]
    without = dataclasses.replace(dataset, V=None, C=None)
    plain = [name for name in PRINTED if name != "content_knn"]
    assert [row.name for row in run_baselines(without, one_bucket(dataset))] == plain


def test_a_new_row_of_the_table_is_printed(monkeypatch):
    monkeypatch.setitem(BASELINES, "new", BASELINES["popularity"])
    dataset = random_dataset(4, 40, 25)
    popularity, *_, new = run_baselines(dataset, one_bucket(dataset))
    assert (popularity.name, new.name, new.summary) == ("popularity", "new", popularity.summary)


@pytest.mark.parametrize("merge", [0, 1 << 24])
def test_a_split_into_buckets_and_chunks_changes_nothing(monkeypatch, merge):
    dataset = random_dataset(5, 23, 30)
    (bucket,) = one_bucket(dataset)
    buckets = (
        Bucket(bucket.user[17:], np.pad(bucket.history[17:], ((0, 0), (0, 3)), constant_values=30)),
        Bucket(bucket.user[:17], bucket.history[:17]),
    )
    whole = select(dataset, (bucket,), "item_knn")
    monkeypatch.setattr(baselines, "_CHUNK", 5)
    monkeypatch.setattr(baselines, "merge_buckets", functools.partial(merge_buckets, most=merge))
    parts = select(dataset, buckets, "item_knn")
    assert parts.hyper == whole.hyper
    jax.tree.map(np.testing.assert_array_equal, parts.ranks, whole.ranks)


def test_an_unknown_baseline_and_missing_validation_rows_are_refused():
    dataset = random_dataset(0, 9, 14)
    with pytest.raises(ConfigError, match="unknown baseline 'slim': expected one of popularity, item_knn, ease"):
        select(dataset, one_bucket(dataset), "slim")
    without = dataclasses.replace(dataset, valid_item=np.full(9, -1, np.int32))
    with pytest.raises(DataError, match="random has no validation row, but ease is chosen by validation"):
        select(without, one_bucket(dataset), "ease")
    assert select(without, one_bucket(dataset), "popularity").summary["valid"]["HR@10"] is None
