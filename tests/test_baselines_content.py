"""Baselines that read item features: naive float64 oracles, missing modalities, the shared grid of ridge models."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ranking_oracle import one_bucket, random_dataset

from fedvlr_jax.baselines import BASELINES, select
from fedvlr_jax.baselines.ridge import gram_factor, ridge_scores
from fedvlr_jax.errors import DataError
from fedvlr_jax.types import Dataset

SHAPES = [(9, 14), (30, 12)]  # fewer users than items, and more


def matrix_of(dataset: Dataset) -> np.ndarray:
    matrix_ui = np.zeros((dataset.num_users, dataset.num_items))
    for u, i in zip(dataset.train_user, dataset.train_item, strict=True):
        matrix_ui[u, i] = 1
    return matrix_ui


def centred(feature_if: np.ndarray) -> np.ndarray:
    return np.asarray(feature_if, np.float64) - np.asarray(feature_if, np.float64).mean(axis=0)


def content_knn_oracle(dataset: Dataset, visual: float, text: float, neighbours: int) -> np.ndarray:
    """Loops over pairs of items; random features have no ties."""

    def similarity(h: int, i: int) -> float:
        total = 0.0
        for weight, feature_if in ((visual, dataset.V), (text, dataset.C)):
            if weight:
                x_if = centred(feature_if)
                total += weight * (x_if[h] @ x_if[i]) / np.sqrt((x_if[h] @ x_if[h]) * (x_if[i] @ x_if[i]))
        return total

    matrix_ui, score_ui = matrix_of(dataset), np.zeros((dataset.num_users, dataset.num_items))
    for i in range(dataset.num_items):
        near = sorted(((similarity(h, i), h) for h in range(dataset.num_items) if h != i), reverse=True)
        for value, h in near[:neighbours]:
            score_ui[:, i] += max(value, 0) * matrix_ui[:, h]
    return score_ui


def ease_oracle(dataset: Dataset, visual: float, text: float, l2: float) -> np.ndarray:
    """Column j of B is the ridge regression of column j of [R; sqrt(a_v) V^T; sqrt(a_c) C^T] on all other columns."""
    matrix_ui, n = matrix_of(dataset), dataset.num_items
    sides = [np.sqrt(l2 * ratio) * centred(x).T for ratio, x in ((visual, dataset.V), (text, dataset.C)) if ratio]
    rows_xi = np.vstack([matrix_ui, *sides])
    score_ui = np.zeros_like(matrix_ui)
    for j in range(n):
        others_xi = np.vstack([np.delete(rows_xi, j, axis=1), np.sqrt(l2) * np.eye(n - 1)])
        weight_i = np.linalg.lstsq(others_xi, np.append(rows_xi[:, j], np.zeros(n - 1)), rcond=None)[0]
        score_ui[:, j] = np.delete(matrix_ui, j, axis=1) @ weight_i
    return score_ui


CASES = [
    *[("content_knn", (v, 1 - v, k), content_knn_oracle) for v, k in ((0.0, 2), (0.25, 4), (1.0, 1), (0.5, 100))],
    *[
        (name, (*strength, l2), ease_oracle)
        for name in ("content_ease", "fed_content_ease")
        for strength, l2 in (((0.3, 0.0), 0.5), ((0.0, 2.0), 5.0), ((0.7, 0.1), 20.0))
    ],
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("name", "values", "oracle"), CASES)
def test_scores_equal_a_naive_float64_version(name, values, oracle, shape):
    dataset = random_dataset(1, *shape)
    hyper = dict(zip(BASELINES[name].grid[0], values, strict=True))
    found = np.asarray(BASELINES[name].fit(dataset, **hyper))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, oracle(dataset, *values), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", ["item_knn", "content_knn", "content_ease"])
def test_points_fitted_together_equal_points_fitted_alone(name):
    dataset = random_dataset(2, 9, 14)
    whole = BASELINES[name].grid
    grid = (*whole[3::9], *whole[::9])  # not in the order in which most is shared
    together = list(BASELINES[name].fit_grid(dataset, grid))
    assert [hyper for hyper, _ in together] == list(grid)
    for hyper, table_ui in together:
        np.testing.assert_allclose(table_ui, BASELINES[name].fit(dataset, **hyper), rtol=1e-6, atol=1e-7)


def test_the_grid_of_content_ease_holds_every_single_modality_but_not_ease():
    pairs = {(hyper["visual"] > 0, hyper["text"] > 0) for hyper in BASELINES["content_ease"].grid}
    assert pairs == {(True, False), (False, True), (True, True)}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gram_factor_has_the_rank_of_the_histories(shape):
    matrix_ui = matrix_of(random_dataset(3, *shape))
    matrix_ui[-1] = matrix_ui[0]
    factor_ri = gram_factor(matrix_ui.T @ matrix_ui)
    assert factor_ri.shape == (np.linalg.matrix_rank(matrix_ui), shape[1])
    np.testing.assert_allclose(factor_ri.T @ factor_ri, matrix_ui.T @ matrix_ui, atol=1e-12)


def test_histories_of_one_item_show_the_weights():
    """R = I gives B: a zero diagonal, and the scores of any history by a product."""
    dataset = random_dataset(3, 9, 14)
    matrix_ui = matrix_of(dataset)
    factor_ri, grid = gram_factor(matrix_ui.T @ matrix_ui), ({"l2": 3.0},)
    ((_, weight_ii),) = ridge_scores(factor_ri, np.eye(14), {}, grid)
    np.testing.assert_allclose(weight_ii.diagonal(), 0, atol=1e-12)
    assert np.abs(weight_ii).max() > 0.01
    ((_, score_ui),) = ridge_scores(factor_ri, matrix_ui, {}, grid)
    np.testing.assert_allclose(score_ui, matrix_ui @ weight_ii, atol=1e-12)


@pytest.mark.parametrize("name", ["content_knn", "content_ease", "fed_content_ease"])
@pytest.mark.parametrize(("field", "lacking", "other"), [("V", "visual", "text"), ("C", "text", "visual")])
def test_a_set_without_one_modality_uses_the_other(name, field, lacking, other):
    dataset = random_dataset(0, 20, 14)
    without = dataclasses.replace(dataset, **{field: None})
    alone = BASELINES[name]._replace(grid=tuple(point for point in BASELINES[name].grid if not point[lacking]))
    fitted = list(BASELINES[name].fit_grid(without, BASELINES[name].grid))
    assert [hyper for hyper, _ in fitted] == list(alone.grid)
    for (_, found), (_, expected) in zip(fitted, alone.fit_grid(dataset, alone.grid), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert select(without, one_bucket(without), name).hyper[other] > 0
    point = next(point for point in BASELINES[name].grid if point[lacking])
    with pytest.raises(DataError, match=f"random has no {lacking} features, which every point of the grid needs"):
        BASELINES[name].fit(without, **point)


@pytest.mark.parametrize("name", ["content_knn", "content_ease", "fed_content_ease"])
def test_a_set_without_features_is_refused(name):
    dataset = dataclasses.replace(random_dataset(0, 20, 14), V=None, C=None)
    with pytest.raises(DataError, match="random has neither visual nor textual features"):
        select(dataset, one_bucket(dataset), name)
    assert BASELINES[name].needs_features


def test_equally_near_items_are_all_neighbours():
    """All turns of a vector are equally near to a constant one; only the order of the added products differs."""
    dataset, rng = random_dataset(0, 40, 101, density=0.4), np.random.default_rng(1)
    near_d, far_d = 1 + 0.3 * rng.normal(size=50), -1 + 0.3 * rng.normal(size=50)
    turns = [np.roll(x_d, k) for x_d in (near_d, far_d) for k in range(50)]
    V = np.stack([*turns, np.full(50, 2.0)])  # item 100 is constant
    found = BASELINES["content_knn"].fit(dataclasses.replace(dataset, V=V), visual=1.0, text=0.0, neighbours=1)
    count_u = matrix_of(dataset)[:, :50].sum(axis=1)
    x_d = near_d - V.mean()
    np.testing.assert_allclose(found[:, 100], count_u * x_d.sum() / np.linalg.norm(x_d) / np.sqrt(50), rtol=1e-6)


def test_an_item_with_mean_features_is_similar_to_none():
    dataset = random_dataset(0, 20, 14)
    V = np.asarray(dataset.V, np.float64).copy()
    V[3] = np.delete(V, 3, axis=0).mean(axis=0)
    table_ui = BASELINES["content_knn"].fit(dataclasses.replace(dataset, V=V), visual=1.0, text=0.0, neighbours=3)
    assert np.isfinite(table_ui).all()
    equal = dataclasses.replace(dataset, V=np.ones((14, 2), np.float32))
    assert not np.asarray(BASELINES["content_knn"].fit(equal, visual=1.0, text=0.0, neighbours=3)).any()
