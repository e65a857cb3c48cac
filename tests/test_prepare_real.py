"""Preparations of real downloads."""

from __future__ import annotations

import filecmp
import os
import pathlib
import warnings

import pytest

from fedvlr_jax.data.formats import read_raw
from fedvlr_jax.data.messages import DataWarning
from fedvlr_jax.data.prepare.pipeline import prepare
from fedvlr_jax.data.prepare.settings import default_settings
from fedvlr_jax.fields import with_fields
from tests.raw_files import COLUMNS, table_of


def real(name: str) -> pathlib.Path:
    folder = pathlib.Path(os.environ.get("FEDVLR_DATA", "data")).parent / "raw" / name
    if not folder.is_dir():
        pytest.skip(f"needs the raw {name} files beside the folder FEDVLR_DATA, in raw/{name}")
    return folder


def counts(done):
    return tuple(done.facts["statistics"][name] for name in ("users", "items", "ratings"))


def prepare_real(format_, folder, out, changes=None):
    settings = with_fields(default_settings(format_), changes or {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return prepare(settings, folder, out)


def test_movielens_latest_small_is_that_of_the_paper(tmp_path, ml_folder):
    done = prepare_real("movielens", real("ml-latest-small"), tmp_path / "ML")
    assert counts(done) == (610, 3650, 90274)
    assert done.facts["ties"]["users"] == 137
    assert filecmp.cmp(tmp_path / "ML" / "inter.csv", ml_folder / "inter.csv", shallow=False)


def test_movielens_100k_from_recbole_files(tmp_path):
    done = prepare_real("recbole", real("ml-100k"), tmp_path / "ML100K")
    assert counts(done) == (943, 1349, 99287)
    assert table_of(tmp_path / "ML100K" / "ids" / "items.csv")[1] == ["0", "1", "Toy Story"]


def test_ku_as_a_raw_table_comes_back_to_the_bit(tmp_path, ku_folder):
    features = {"read.image": "image_features.npy", "read.text": "text_features.npy"}
    labels = {"read.label": "split_label", "split.by": "labels", "duplicates": "keep"}
    settings = labels | COLUMNS | features | {"core.per_user": 0, "core.per_item": 0, "order": "file"}
    prepare_real("csv", ku_folder, tmp_path / "KU", settings)
    for name in ("inter.csv", "image_features.npy", "text_features.npy"):
        assert filecmp.cmp(tmp_path / "KU" / name, ku_folder / name, shallow=False), name


def test_reading_does_not_depend_on_pieces_of_the_file():
    raw = read_raw("movielens", real("ml-latest-small"), {"titles": ""})
    assert len(raw.user.names) == 610
    assert raw.titles["1"] == "Toy Story (1995)"
