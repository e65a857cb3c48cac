"""Imputed features say nothing of an item to whatever goes by likeness: all of them are one row."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from problems import settings
from score_view_problem import DATASET, SHARED_ONLY

from fedvlr_jax.baselines import BASELINES
from fedvlr_jax.data.controls import random_features, shuffle_features
from fedvlr_jax.data.facts import fingerprint
from fedvlr_jax.data.features import centred_rows, unit_rows
from fedvlr_jax.federated.score_views import VIEWS
from fedvlr_jax.training.priors import configured_prior
from fedvlr_jax.training.score_views import ConfiguredViews

IMPUTED = np.arange(DATASET.num_items) % 3 == 0
MASKED = dataclasses.replace(DATASET, missing_V=IMPUTED, missing_C=~IMPUTED & (np.arange(DATASET.num_items) % 4 == 0))


def with_other_rows(dataset):
    """Imputed rows hold something else."""
    rng = np.random.default_rng(5)
    changed = {}
    for letter in "VC":
        x = getattr(dataset, letter)
        other = unit_rows(rng.normal(size=x.shape))
        changed[letter] = np.where(getattr(dataset, f"missing_{letter}")[:, None], other, x)
    return dataclasses.replace(dataset, **changed)


def score_views(dataset):
    return np.array(ConfiguredViews(settings(**SHARED_ONLY), dataset).of(dataset).z_uiv)


def prior_of(choose):
    tree = settings(host__name="fedprior", variant="base", host__choose_prior=choose, prior__content=0.1)
    return lambda dataset: np.array(configured_prior(tree, dataset).of(dataset).score_ui)


def baseline(name, **hyper):
    return lambda dataset: BASELINES[name].fit(dataset, **hyper)


SCORERS = {
    "score views": score_views,
    "prior": prior_of(False),
    "chosen prior": prior_of(True),
    "fed_prior": baseline("fed_prior", reach=0.5),
    "content_knn": baseline("content_knn", visual=0.5, text=0.5, neighbours=10),
    "content_ease": baseline("content_ease", visual=0.1, text=0.3, l2=20.0),
}


@pytest.mark.parametrize("name", SCORERS)
def test_what_stands_in_an_imputed_row_changes_no_score(name):
    score = SCORERS[name]
    found = score(MASKED)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, score(with_other_rows(MASKED)))
    assert (found != score(DATASET)).any()


def test_an_item_without_features_is_like_none():
    z_uiv = score_views(dataclasses.replace(MASKED, C=None, missing_C=None))
    for name in ("visual", "visual targets"):
        imputed_ui = z_uiv[..., list(VIEWS).index(name)][:, IMPUTED]
        for row_i in imputed_ui:
            assert len(np.unique(row_i[row_i != 0])) <= 1  # all one score; zero is an item of the history


@pytest.mark.parametrize(("name", "static"), [("mgcn", {}), ("freedom", {}), ("pgl", {"kind": "local"})])
def test_item_graphs_of_learners_have_no_edge_at_an_imputed_item(name, static):
    """Else all imputed items, thousands maybe, are each other's nearest, and the graph has all pairs of them."""
    found = BASELINES[name].prepare(MASKED, **static).neighbours
    for letter, modality in {"V": "visual", "C": "text"}.items():
        forward = found[modality].forward
        is_edge_wg = np.asarray(forward.weight_wg) > 0
        ends = {*np.asarray(forward.source_wg)[is_edge_wg], *np.asarray(forward.target_g)[is_edge_wg.any(axis=0)]}
        assert ends == set(np.flatnonzero(~getattr(MASKED, f"missing_{letter}")))


def test_centred_rows_leave_zeros_alone():
    rows = np.array([[1.0, 3.0], [0.0, 0.0], [3.0, 5.0]])
    np.testing.assert_array_equal(centred_rows(rows), [[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]])
    np.testing.assert_array_equal(centred_rows(0 * rows), 0 * rows)


def test_controls_keep_which_rows_are_imputed():
    shuffled, drawn = shuffle_features(MASKED, 0), random_features(MASKED, 0)
    for letter in "VC":
        before, after = (
            {row.tobytes() for row in getattr(one, letter)[getattr(one, f"missing_{letter}")]}
            for one in (MASKED, shuffled)
        )
        assert before == after
        assert getattr(drawn, f"missing_{letter}") is None


def test_a_mask_is_part_of_what_a_data_set_is():
    assert fingerprint(MASKED) != fingerprint(DATASET)
    assert set(fingerprint(DATASET)) == set(fingerprint(MASKED)) - {"missing_V", "missing_C"}
