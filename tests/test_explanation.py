"""Explanations of users: own ids, the items that they are recommended, and contributions that mean something."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from problems import tiny_dataset
from test_api import ITEMS, SMALL, USERS, named

import fedvlr_jax
from fedvlr_jax.analysis import explanation
from fedvlr_jax.analysis.explanation import explain, make_explainer, with_pictures
from fedvlr_jax.errors import DataError
from fedvlr_jax.io.pictures import MOST_BYTES, picture_address
from fedvlr_jax.report.pages import render
from fedvlr_jax.types import Bucket

TITLES = {"i03": "Tea & <b>cake</b>"}
ROUTED = SMALL | {
    "variant": "fedvlr",
    "fusion.operators": "sum,mlp",
    "rounds": 4,
    "eval": {"every": 4, "patience": 0},
}


@pytest.fixture(scope="module")
def fitted():
    dataset = tiny_dataset()
    return fedvlr_jax.fit(named(visual=dataset.V, textual=dataset.C, item_titles=TITLES), ROUTED)


@pytest.fixture(scope="module")
def explained(fitted):
    return explain(make_explainer(fitted.experiment, fitted.state, k=4), USERS)


@pytest.mark.slow
def test_the_best_items_are_the_recommended_ones_and_their_parts_sum_to_the_scores(fitted, explained):
    rows = fedvlr_jax.recommend(fitted, k=4)
    found = [(user["user"], item["rank"], item["item"]) for user in explained["users"] for item in user["items"]]
    assert found == [(user, rank, item) for user, rank, item, _ in rows.tolist()]
    for user in explained["users"]:
        assert user["parts"][:2] == ["sum", "mlp"]
        for item in user["items"]:
            assert sum(item["parts"].values()) == pytest.approx(item["score"], rel=1e-3, abs=1e-4)
    json.dumps(explained)


@pytest.mark.slow
def test_weights_stand_beside_those_of_the_average_user(explained):
    weights = {view: [] for view in ("sum", "mlp")}
    for user in explained["users"]:
        assert sum(row["user"] for row in user["weights"]) == pytest.approx(1, abs=1e-5)
        for row in user["weights"]:
            weights[row["view"]].append((row["user"], row["average"]))
    for rows in weights.values():
        own, average = np.array(rows).T
        np.testing.assert_allclose(average, own.mean(), rtol=1e-5)


@pytest.mark.slow
def test_a_left_out_item_is_charged_with_what_a_new_user_loses_without_it(fitted, explained):
    """Against histories that were shortened by hand."""
    experiment, user = fitted.experiment, 4
    algorithm, dataset = experiment.algorithm, fitted.dataset
    history = dataset.train_item[dataset.train_user == user]
    params = algorithm.snapshot(fitted.state, experiment.clients.content)
    score = jax.jit(algorithm.new_score)

    def alone(items):
        padded = np.pad(items, (0, 16 - len(items)), constant_values=dataset.num_items)[None].astype(np.int32)
        return np.asarray(score(params, Bucket(np.array([user], np.int32), padded)))[0]

    whole_i, best = alone(history), explained["users"][user]["items"][0]
    causes = {row["item"]: row["contribution"] for row in best["history"]}
    assert len(causes) == len(history) > 1
    at = ITEMS.index(best["item"])
    for item in history.tolist():
        lost = whole_i[at] - alone(history[history != item])[at]
        assert causes[ITEMS[item]] == pytest.approx(lost, rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_of_a_long_history_the_newest_are_left_out(fitted, monkeypatch):
    monkeypatch.setattr(explanation, "MOST_LEFT_OUT", 2)
    ages = np.concatenate([np.arange(n)[::-1] for n in np.bincount(fitted.dataset.train_user)]).astype(np.int32)
    experiment = fitted.experiment._replace(dataset=dataclasses.replace(fitted.dataset, train_age=ages))
    (found,) = explain(make_explainer(experiment, fitted.state, k=2), ["u04"])["users"]
    newest = [item["item"] for item in found["history"][:2]]
    assert newest == [ITEMS[item] for item in fitted.dataset.train_item[fitted.dataset.train_user == 4][:-3:-1]]
    for item in found["items"]:
        assert {row["item"] for row in item["history"]} == set(newest)


@pytest.mark.slow
def test_an_unknown_user_is_refused_with_the_nearest_id(fitted):
    explainer = make_explainer(fitted.experiment, fitted.state, k=1)
    with pytest.raises(DataError, match="--user: expected an id of a user of tiny, found 'u3'; did you mean u03"):
        explain(explainer, ["u3"])


@pytest.mark.slow
def test_a_page_shows_titles_as_text_and_needs_no_network(explained, tmp_path):
    (tmp_path / "i03.png").write_bytes(b"small")
    (tmp_path / "i04.png").write_bytes(bytes(MOST_BYTES + 1))
    assert picture_address(tmp_path, "i03") == "data:image/png;base64,c21hbGw="
    assert picture_address(tmp_path, "i04") is None
    assert picture_address(tmp_path, "../i03") is None
    shown = with_pictures(explained, lambda item: picture_address(tmp_path, item))
    page = render("explain.html", title="why", explained=shown)
    assert "Tea &amp; &lt;b&gt;cake" in page
    assert "data:image/png;base64,c21hbGw=" in page
    assert "<b>cake" not in page
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "https://" not in page
    assert len(page) < 2_000_000
