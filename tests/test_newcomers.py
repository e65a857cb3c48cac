"""Posted histories and items known by their features alone, through the public API."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from problems import tiny_dataset

import fedvlr_jax
from fedvlr_jax.assembly import configured_host
from fedvlr_jax.data.posted import posted, read_histories
from fedvlr_jax.errors import ConfigError, DataError
from fedvlr_jax.federated.prior_choice import choose_prior
from fedvlr_jax.inference.new_items import with_new_items
from fedvlr_jax.settings import default_settings, override
from fedvlr_jax.training import priors
from fedvlr_jax.training.experiment import before_rounds

DATASET = tiny_dataset()
SMALL = {
    "variant": "fedvlr",
    "fusion.operators": "sum,mlp",
    "objective": "bce",
    "rounds": 4,
    "eval": {"every": 4, "patience": 0},
    "fusion.dim": 4,
    "client.steps": 2,
    "server.lr": 0.05,
}


@pytest.fixture(scope="module")
def fitted():
    """Without item identity, so that an item is its features."""
    return fedvlr_jax.fit(DATASET, SMALL | {"fusion.modalities": "V,C"})


# ---- posted histories


def test_a_posted_history_becomes_rows_with_ages_and_unknown_ids_are_kept_apart():
    dataset = dataclasses.replace(DATASET, train_age=np.zeros(len(DATASET.train_item), np.int32))
    made = posted(dataset, {"a": [9, 3, "x", 9, 7], "b": ["5"]})
    assert made.ignored == (("x",), ())
    assert made.dataset.user_ids.tolist() == ["a", "b"]
    assert made.dataset.train_user.tolist() == [0, 0, 0, 1]
    assert made.dataset.train_item.tolist() == [3, 7, 9, 5]
    assert made.dataset.train_age.tolist() == [2, 0, 1, 0]  # 9 counts where it came last
    assert posted(DATASET, {"a": [1]}).dataset.train_age is None


def test_histories_of_pandas_are_by_their_index():
    pd = pytest.importorskip("pandas")
    made = posted(DATASET, pd.Series({"a": [9, 3], "b": pd.Series(["5"])}))
    assert made.dataset.user_ids.tolist() == ["a", "b"]
    assert made.dataset.train_item.tolist() == [3, 9, 5]
    with pytest.raises(DataError, match="histories: expected one by the id of each user, found a DataFrame"):
        posted(DATASET, pd.DataFrame({"user": [1, 1], "item": [3, 4]}))
    with pytest.raises(DataError, match="histories: expected every user once, found a again"):
        posted(DATASET, pd.Series([[3], [4]], index=["a", "a"]))


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        ({"a": "12"}, "field history of user a: expected a list or an array, found '12'"),  # not items 1 and 2
        ({"a": 12}, "field history of user a: expected a list or an array, found 12"),
        ({"a": np.array([[1, 2]])}, r"field history of user a: expected one value a row, found an array of shape"),
        ({1: [3], "1": [4]}, "histories: expected every user once, found 1 again"),
        ([[3, 4]], "histories: expected one by the id of each user, found a list"),
    ],
)
def test_what_is_no_list_by_user_is_refused(histories, message):
    with pytest.raises(DataError, match=message):
        posted(DATASET, histories)


def test_histories_of_a_file_are_in_the_order_of_time(tmp_path):
    file = tmp_path / "new.csv"
    file.write_text("item,user,timestamp\n3,a,20\n4,b,1\n5,a,7\n\n6,a,7\n")
    assert read_histories(file) == {"b": ["4"], "a": ["5", "6", "3"]}
    file.write_text("user,item\na,3\na,1\n")
    assert read_histories(file) == {"a": ["3", "1"]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1: expected the columns user, item and perhaps timestamp, found no user"),
        ("user,thing\na,3\n", "line 1: expected the columns user, item and perhaps timestamp, found no item"),
        ("user,item\na,3,4\n", "line 2: expected 2 fields, found 3"),
        ("user,item,user\na,3,b\n", "line 1: expected one column user, found 2"),
        ("user,item\na,3\n ,4\n", "line 3, field user: expected an id, found none"),
        ("user,item\na,\n", "line 2, field item: expected an id, found none"),
        ("user,item,timestamp\na,3,soon\n", "line 2, field timestamp: expected a number, found 'soon'"),
    ],
)
def test_a_file_of_histories_that_has_to_be_mended(tmp_path, content, message):
    file = tmp_path / "new.csv"
    file.write_text(content)
    with pytest.raises(DataError, match=message):
        read_histories(file)
    with pytest.raises(DataError, match="no-such"):
        read_histories(tmp_path / "no-such.csv")


@pytest.mark.slow
def test_new_users_do_not_depend_on_each_others_histories(fitted):
    both = fedvlr_jax.recommend_new(fitted, {"a": [1, 5, 9], "b": [2, 3]}, k=3)
    other = fedvlr_jax.recommend_new(fitted, {"a": [1, 5, 9], "b": [30, 31, 8, 9]}, k=3)
    assert both["user"].tolist() == ["a"] * 3 + ["b"] * 3
    assert both["item"][:3].tolist() == other["item"][:3].tolist()
    np.testing.assert_allclose(both["score"][:3], other["score"][:3], rtol=1e-5)
    with pytest.raises(DataError, match="history of user c: expected an item of tiny, found none among 1 ids"):
        fedvlr_jax.recommend_new(fitted, {"c": ["x"]})
    with pytest.raises(DataError, match="histories: expected at least one user, found none"):
        fedvlr_jax.recommend_new(fitted, {})


# ---- new items


@pytest.mark.slow
def test_a_new_item_with_the_features_of_another_has_its_score(fitted):
    grown = fedvlr_jax.add_items(fitted, 3 * DATASET.V[[7, 20]], DATASET.C[[7, 20]], ids=["new 7", "new 20"])
    rows = fedvlr_jax.recommend(grown, k=42)
    score = {(user, item): value for user, _, item, value in rows.tolist()}
    pairs = [(user, old) for user in range(13) for old in ("7", "20") if (user, old) in score]
    assert len(pairs) >= 20
    for user, old in pairs:
        assert score[user, f"new {old}"] == pytest.approx(score[user, old], rel=1e-4, abs=1e-5)
    before = {(user, str(item)): value for user, _, item, value in fedvlr_jax.recommend(fitted, k=40).tolist()}
    assert all(score[key] == pytest.approx(value, rel=1e-4, abs=1e-5) for key, value in before.items())
    assert "new 7" in fedvlr_jax.recommend_new(grown, {"guest": [1, 2]}, k=42)["item"].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("host", ["fedncf", "fedrap", "pfedrec", "fedprior", "fedblend"])
def test_every_host_takes_new_items(host):
    """A row that does not exist is the mean over the items with train rows, of D and of a host's own tables."""
    fitted = fedvlr_jax.fit(DATASET, SMALL | {"host.name": host})
    grown = fedvlr_jax.add_items(fitted, DATASET.V[:1], DATASET.C[:1])
    seen = np.unique(DATASET.train_item)
    for name, table in {"D": grown.state.public.params["variant"].get("D")}.items():
        if table is not None:
            old = np.asarray(fitted.state.public.params["variant"][name])
            np.testing.assert_allclose(np.asarray(table)[-1], old[seen].mean(axis=0), rtol=1e-4, atol=1e-6)
    rows = fedvlr_jax.recommend(grown, k=41)
    assert 40 in rows["item"].tolist()  # numbers stay numbers
    assert np.isfinite(rows["score"]).all()


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({}, "expected features of as many items"),
        ({"visual": DATASET.V[:2], "textual": DATASET.C[:1]}, "expected features of as many items"),
        ({"visual": DATASET.V[:1]}, r"expected finite C \[n, 5\]"),
        ({"visual": DATASET.V[:1], "textual": 0 * DATASET.C[:1]}, "without rows of zeros"),
        ({"visual": DATASET.V[:1], "textual": DATASET.C[:1], "ids": ["3"]}, "ids that no item has"),
        ({"visual": DATASET.V[:1], "textual": DATASET.C[:1], "ids": "x"}, "field ids: expected a list or an array"),
        ({"visual": DATASET.V[:2], "textual": DATASET.C[:2], "titles": ["one"]}, "expected 2 titles, found 1"),
    ],
)
def test_new_items_that_do_not_fit(fitted, features, message):
    with pytest.raises(DataError, match=message):
        fedvlr_jax.add_items(fitted, **features)


def test_features_of_a_modality_that_the_set_lacks_are_refused():
    lacking = dataclasses.replace(DATASET, V=None)
    with pytest.raises(DataError, match="new items: expected no V, which the data set lacks, found some"):
        with_new_items(lacking, {"V": DATASET.V[:1], "C": DATASET.C[:1]})


def test_ids_and_titles_of_new_items_keep_their_kind():
    features = {"V": DATASET.V[:2], "C": DATASET.C[:2]}
    made = with_new_items(DATASET, features, titles=np.array([None, "two"], object))
    assert made.item_ids.dtype == np.int64
    assert made.item_ids[-2:].tolist() == [40, 41]
    assert made.item_titles[-2:].tolist() == ["", "two"]
    assert with_new_items(DATASET, features, ids=[77, "x"]).item_ids.tolist()[-3:] == ["39", "77", "x"]
    named = dataclasses.replace(DATASET, item_ids=np.array([f"i{k}" for k in range(40)]))
    assert with_new_items(named, features).item_ids[-3:].tolist() == ["i39", "40", "41"]


def test_frames_of_new_items_are_read_by_their_index():
    pd = pytest.importorskip("pandas")
    frames = {
        "V": pd.DataFrame(DATASET.V[:2], index=["a", "b"]),
        "C": pd.DataFrame(DATASET.C[[1, 0]], index=["b", "a"]),
    }
    made = with_new_items(DATASET, frames, ids=["b", "a"])
    np.testing.assert_allclose(made.V[-2:], DATASET.V[[1, 0]], rtol=1e-6)
    np.testing.assert_allclose(made.C[-2:], DATASET.C[[1, 0]], rtol=1e-6)
    with pytest.raises(DataError, match="expected ids of items as index, or 0 to 1 where rows are in their order"):
        with_new_items(DATASET, frames)
    with pytest.raises(DataError, match="expected 'c' in the index, found it nowhere"):
        with_new_items(DATASET, frames, ids=["a", "c"])


def formed_with_and_without_new_items(**changes):
    """What was agreed on before the rounds, for the tiny data set and for one with two more items."""
    chosen = override(default_settings(), {name.replace("__", "."): x for name, x in changes.items()})
    grown = with_new_items(with_new_items(DATASET, {"V": DATASET.V[:1], "C": DATASET.C[:1]}), NEW)
    host = configured_host(chosen, DATASET.num_items)
    return [before_rounds(chosen, dataset, host).formed(dataset) for dataset in (DATASET, grown)]


NEW = {"V": -DATASET.V[3:4], "C": DATASET.C[5:6]}


def test_new_items_choose_no_other_settings_of_the_prior(monkeypatch):
    asked = []

    def choose(dataset, features, start):
        asked.append(dataset.num_items)
        return choose_prior(dataset, features, start)

    monkeypatch.setattr(priors, "choose_prior", choose)
    before, after = formed_with_and_without_new_items(host__name="fedprior", host__choose_prior=True)
    assert set(asked) == {40}
    assert after.settings == before.settings
    assert after.weight_ii.shape == (42, 42)


def test_new_items_choose_no_other_views_and_no_other_coordinates():
    """The weights that were learned stay the weights that they were."""
    before, after = formed_with_and_without_new_items(host__name="fedblend")
    assert after.formed.choice == before.formed.choice
    np.testing.assert_array_equal(after.basis.turn_kk, before.basis.turn_kk)
    np.testing.assert_array_equal(after.basis.start_k, before.basis.start_k)
    guest = posted(after.dataset, {"guest": [1, 5, 40, 9, 41, 7]}).dataset
    assert after.of(guest).z_uiv.shape[:2] == (1, 42)


def test_new_items_form_no_second_sum_with_noise():
    """Another catalogue draws other noise for the same histories, and the budget is for one sum."""
    budget = {"privacy__target_epsilon": 8.0, "privacy__delta": 1e-2, "privacy__prior_share": 0.9}
    noised = budget | {"aggregation__transforms": "clip,noise", "rounds": 2}
    before, after = formed_with_and_without_new_items(host__name="fedprior", **noised)
    assert after.mixture == before.mixture
    own = [name for name in before.maps if name in ("co-occurrence", "popularity")]
    assert own
    for name in own:
        np.testing.assert_array_equal(after.maps[name][:40, :40], before.maps[name])
        assert not after.maps[name][:, 40:].any()


def test_training_on_a_catalogue_that_grew_is_training_anew(tmp_path):
    grown = with_new_items(DATASET, NEW)
    assert grown.fewer_items is DATASET
    assert with_new_items(grown, NEW, ids=["more"]).fewer_items is DATASET
    fitted = fedvlr_jax.train(grown, SMALL | {"rounds": 1, "eval.every": 1}, tmp_path)
    assert fitted.dataset.fewer_items is None
    assert fedvlr_jax.restore(tmp_path, grown).dataset.fewer_items is None


def test_new_items_need_the_states_on_one_device(fitted):
    settings = {**fitted.settings, "compute": {**fitted.settings["compute"], "store": "memory"}}
    other = dataclasses.replace(fitted, experiment=fitted.experiment._replace(settings=settings))
    with pytest.raises(ConfigError, match=r"new items: expected compute\.store device"):
        fedvlr_jax.add_items(other, DATASET.V[:1], DATASET.C[:1])
