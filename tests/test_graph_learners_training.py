"""MGCN and PGL trained: against popularity on the synthetic set, and known results on KU."""

from __future__ import annotations

import numpy as np
import pytest
from ranking_oracle import load_real, one_bucket

from fedvlr_jax.baselines import select
from fedvlr_jax.baselines.learner import Learner
from fedvlr_jax.baselines.learning import fit_learner
from fedvlr_jax.baselines.mgcn import mgcn
from fedvlr_jax.baselines.pgl import pgl
from fedvlr_jax.data.synthetic import generate
from fedvlr_jax.evaluation.metrics import summarise, warm_items
from fedvlr_jax.types import Dataset


def result_on_test(learner: Learner, dataset: Dataset, point: dict, **budget) -> tuple[float, float]:
    """Test HR@50 and NDCG@50 in percent at the best epoch on validation."""
    (fitted,) = fit_learner(learner, dataset, one_bucket(dataset), [point], [0], **budget)
    test = summarise(fitted.ranks, warm_items(dataset.train_item, dataset.num_items))["test"]
    return 100 * test["HR@50"], 100 * test["NDCG@50"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("learner", "point"),
    [
        (mgcn, {"lr": 5e-3, "reg": 1e-4, "contrast": 0.01}),
        (pgl, {"kind": "local", "lr": 5e-3, "contrast": 0.1}),
        (pgl, {"kind": "global", "lr": 5e-3, "contrast": 0.1}),
    ],
)
def test_training_beats_popularity_on_the_synthetic_set(learner, point):
    dataset = generate(0)
    popularity = select(dataset, one_bucket(dataset), "popularity").summary["test"]
    hit, gain = result_on_test(learner, dataset, point, epochs=60)
    assert hit > 150 * popularity["HR@50"]
    assert gain > 150 * popularity["NDCG@50"]


@pytest.mark.slow
@pytest.mark.parametrize("negatives", ["catalogue", "train"])
def test_mgcn_passes_the_published_result_on_ku(ku_folder, negatives):
    """The published code has 36.8/15.0, with negatives from train items. So does this one after 50 epochs with
    that code's rate, whichever the negatives; with its own, trained to the best epoch on validation, it gets further.
    """
    dataset = load_real(ku_folder)
    early = result_on_test(mgcn, dataset, {"lr": 1e-3, "reg": 1e-4, "contrast": 0.01}, epochs=50, negatives=negatives)
    np.testing.assert_allclose(early[0], 36.8, atol=1.5)
    np.testing.assert_allclose(early[1], 15.0, atol=0.7)
    longer = {"epochs": 60, "negatives": negatives}
    hit, gain = result_on_test(mgcn, dataset, {"lr": 5e-3, "reg": 1e-4, "contrast": 0.01}, **longer)
    assert hit > 42
    assert gain > 17.5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "global"])
def test_pgl_reaches_known_numbers_on_ku(ku_folder, kind):
    hit, gain = result_on_test(pgl, load_real(ku_folder), {"kind": kind, "lr": 5e-3, "contrast": 0.1}, epochs=60)
    assert hit > 45
    assert gain > 18
