"""Baselines on the real data sets: known numbers, and the ties that the models have."""

from __future__ import annotations

import numpy as np
import pytest
from ranking_oracle import load_real, one_bucket

from fedvlr_jax.baselines import BASELINES, select
from fedvlr_jax.data.buckets import make_buckets


@pytest.fixture(scope="module")
def ku(ku_folder):
    return load_real(ku_folder)


@pytest.fixture(scope="module")
def ml(ml_folder):
    return load_real(ml_folder)


# Test HR@50 and NDCG@50 in percent, tie-exact.
KNOWN_KU = [
    ("popularity", {}, 19.20, 5.50),
    ("item_knn", {"neighbours": 50}, 45.20, 19.40),
    ("ease", {"l2": 10.0}, 49.95, 20.24),
    ("content_knn", {"visual": 0.5, "text": 0.5, "neighbours": 200}, 15.20, 4.73),
    ("content_ease", {"visual": 0.0, "text": 0.01, "l2": 50.0}, 49.51, 19.96),
    ("fed_content_ease", {"visual": 0.0, "text": 0.01, "l2": 50.0}, 49.51, 19.96),
    ("constant", {}, 9.29, 2.40),
    ("cold_first", {}, 54.34, 18.81),
]
KNOWN_ML = [
    ("popularity", {}, 11.07, 3.51),
    ("item_knn", {"neighbours": 50}, 25.25, 6.91),
    ("ease", {"l2": 100.0}, 26.39, 7.60),
    ("ease", {"l2": 500.0}, 27.05, 7.48),
    ("content_knn", {"visual": 0.25, "text": 0.75, "neighbours": 50}, 11.15, 3.27),
    ("content_ease", {"visual": 0.0, "text": 0.3, "l2": 200.0}, 27.21, 7.93),
    ("content_ease", {"visual": 0.03, "text": 0.1, "l2": 200.0}, 27.70, 8.09),
    ("fed_content_ease", {"visual": 0.0, "text": 0.3, "l2": 200.0}, 27.21, 7.93),
]


def check_known(monkeypatch, dataset, name, hyper, hit, gain):
    monkeypatch.setitem(BASELINES, name, BASELINES[name]._replace(grid=(hyper,)))
    test = select(dataset, make_buckets(dataset), name).summary["test"]
    np.testing.assert_allclose([100 * test["HR@50"], 100 * test["NDCG@50"]], [hit, gain], atol=0.006)


@pytest.mark.parametrize(("name", "hyper", "hit", "gain"), KNOWN_KU)
def test_known_numbers_on_ku(monkeypatch, ku, name, hyper, hit, gain):
    check_known(monkeypatch, ku, name, hyper, hit, gain)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "hyper", "hit", "gain"), KNOWN_ML)
def test_known_numbers_on_ml(monkeypatch, ml, name, hyper, hit, gain):
    check_known(monkeypatch, ml, name, hyper, hit, gain)


def test_ease_keeps_the_ties_of_the_float64_model(ku):
    """Rounding must not break exact ties: items that only ever occur together stay tied."""
    assert select(ku, one_bucket(ku), "ease").summary["tie_rate"] == pytest.approx(112 / 204)
