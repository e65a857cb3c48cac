"""Choosing a data set by name and settings; its hash and its sizes."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import warnings

import numpy as np
import pytest
from data_folders import write_folder

from fedvlr_jax.data import (
    DataError,
    DataWarning,
    check_sizes,
    data_root,
    fingerprint,
    load,
    load_configured,
    random_features,
    shuffle_features,
    synthetic,
)
from fedvlr_jax.errors import ConfigError

SMALL = {"num_users": 12, "num_items": 40, "num_interactions": 90}
SETTINGS = {"name": "synthetic", "dir": "", "source": "folder", "features": "real", "expect": {}, "synthetic": SMALL}
SETTINGS |= {"split": "rows", "newcomers": {"share": 0.1, "seed": 0}}


def test_the_root_is_the_setting_else_the_environment_else_data(monkeypatch):
    monkeypatch.setenv("FEDVLR_DATA", "/sets")
    assert data_root("/mine") == pathlib.Path("/mine")
    assert data_root("") == data_root(None) == pathlib.Path("/sets")
    monkeypatch.setenv("FEDVLR_DATA", "")
    assert data_root("") == pathlib.Path("data")
    assert data_root("~/sets") == pathlib.Path.home() / "sets"


@pytest.mark.parametrize("source", ["folder", "tfds"])
def test_a_folder_by_its_name(tmp_path, source):
    write_folder(tmp_path / "tiny")
    assert load("tiny", tmp_path, source=source).name == "tiny"
    with pytest.raises(DataError, match=r"other: expected a folder [\s\S]*--config.data.name=synthetic"):
        load("other", tmp_path, source=source)


def test_a_folder_is_found_in_any_case_unless_two_names_fit(tmp_path):
    write_folder(tmp_path / "KU")
    assert load("ku", tmp_path).name == load("KU", tmp_path).name == "KU"
    write_folder(tmp_path / "kU")
    with pytest.raises(DataError, match="ku"):
        load("ku", tmp_path)


def test_the_generator_by_its_name(tmp_path):
    found = load("synthetic", tmp_path / "absent", synthetic=SMALL, seed=5)
    assert fingerprint(found) == fingerprint(synthetic.generate(5, **SMALL))
    assert fingerprint(load("synthetic", tmp_path, synthetic=SMALL | {"seed": 5}, seed=0)) == fingerprint(found)
    assert load("synthetic", tmp_path).num_users == 204


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "KU", "source": "web"}, r"data\.source: expected one of folder, tfds, found 'web'"),
        ({"name": "synthetic", "source": "tfds"}, r"data\.source: expected folder for the generated set"),
        ({"name": "synthetic", "synthetic": {"users": 3}}, r"data\.synthetic: expected one of seed, .*found 'users'"),
        ({"name": ""}, r"data\.name: expected synthetic or the name of a folder below the data root, found ''"),
        ({"name": "../KU"}, r"data\.name: expected .* found '\.\./KU'"),
        ({"name": ".."}, r"data\.name: expected .* found '\.\.'"),
    ],
)
def test_bad_settings(tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        load(root=tmp_path, **arguments)


def test_the_settings_of_a_run(tmp_path):
    write_folder(tmp_path / "tiny")
    found = load_configured(SETTINGS | {"name": "tiny", "dir": str(tmp_path)})
    assert fingerprint(found) == fingerprint(load("tiny", tmp_path))
    with pytest.raises(ConfigError, match=r"data\.features: expected one of real, shuffled, random, found 'none'"):
        load_configured(SETTINGS | {"features": "none"})


@pytest.mark.parametrize(("features", "control"), [("shuffled", shuffle_features), ("random", random_features)])
def test_the_controls_of_a_run(features, control):
    found = load_configured(SETTINGS | {"features": features}, seed=2)
    assert fingerprint(found) == fingerprint(control(load_configured(SETTINGS, seed=2), 2))


def test_every_field_counts_in_the_fingerprint_and_is_named():
    dataset = synthetic.generate(0, **SMALL)
    original = fingerprint(dataset)
    assert json.loads(json.dumps(original)) == original

    def fields_that_differ(**changes):
        changed = fingerprint(dataclasses.replace(dataset, **changes))
        return {name for name in original if changed[name] != original[name]}

    for name in ("train_user", "train_item", "valid_item", "test_item", "V", "C", "planted"):
        array = getattr(dataset, name).copy()
        array.flat[-1] += 1
        for value in (array, getattr(dataset, name).astype(np.float64), getattr(dataset, name)[None]):
            assert fields_that_differ(**{name: value}) >= {name}
    assert fields_that_differ(V=None) == {"V"}
    assert fields_that_differ(V=None, C=dataset.V) == {"V", "C"}
    assert fields_that_differ(num_items=41) == {"num_items"}
    renamed = dataclasses.replace(dataset, name="other", dropped_duplicates=3)
    assert fingerprint(renamed) == fingerprint(dataset)


def test_sizes():
    dataset = synthetic.generate(0, **SMALL)
    assert check_sizes(dataset, {"users": 12, "items": 40, "ratings": 90}) == []
    assert check_sizes(dataset, None) == check_sizes(dataset, {"users": 0, "items": None}) == []
    sentences = check_sizes(dataset, {"users": 13, "ratings": 91})
    assert sentences == ["synthetic: expected 13 users, found 12", "synthetic: expected 91 ratings, found 90"]
    with pytest.warns(DataWarning, match="expected 13 users, found 12"):
        load_configured(SETTINGS | {"expect": {"users": 13}})


def test_sizes_of_ku_and_ml(ku_folder, ml_folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        ku, ml = load("KU", ku_folder.parent), load("ML", ml_folder.parent)
    assert check_sizes(ml, {"users": 610, "items": 3650, "ratings": 90274}) == []
    assert check_sizes(ku, {"users": 204, "items": 560, "ratings": 3488}) == [
        "KU: expected 3488 ratings, found 3484 distinct ratings (5 repeated rows were dropped)"
    ]
