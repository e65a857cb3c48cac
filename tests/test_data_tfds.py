"""Prepared copies: equal to what they were made from, made once, and refused when damaged."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
from data_folders import GOOD, features, write_folder

from fedvlr_jax.data import load, synthetic, tfds_builder
from fedvlr_jax.data.folder import read_folder
from fedvlr_jax.data.messages import DataWarning
from fedvlr_jax.data.tfds_builder import VERSION, load_prepared, prepare, read_prepared
from fedvlr_jax.errors import DataError


def assert_equal(found, expected):
    """All fields of two data sets are equal, dtypes included."""
    for field in dataclasses.fields(expected):
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(theirs, np.ndarray):
            assert ours.dtype == theirs.dtype, field.name
            np.testing.assert_array_equal(ours, theirs, err_msg=field.name)
        else:
            assert ours == theirs
            assert type(ours) is type(theirs)


def copies(cache):
    return sorted(path.name for path in cache.glob("*/*"))


def test_a_copy_equals_the_folder(tmp_path):
    folder = write_folder(tmp_path / "tiny", [*GOOD, "2,1,1.0,30,0", "2,1,1.0,31,0"])
    with pytest.warns(DataWarning, match="dropped 1 repeated"):
        expected = read_folder(folder)
    with pytest.warns(DataWarning, match="dropped 1 repeated"):
        made = load_prepared(folder)
    assert_equal(made, expected)
    assert_equal(load_prepared(folder), expected)
    assert (tmp_path / ".tfds").is_dir()


IMAGE, TEXT = "image_features.npy", "text_features.npy"


@pytest.mark.parametrize("absent", [[IMAGE], [TEXT], [IMAGE, TEXT]])
def test_a_copy_without_a_modality(tmp_path, absent):
    folder = write_folder(tmp_path / "tiny")
    for name in absent:
        (folder / name).unlink()
    assert_equal(load_prepared(folder), read_folder(folder))


def test_a_copy_keeps_planted_preferences(tmp_path):
    dataset = synthetic.generate(0, num_users=12, num_items=40, num_interactions=90)
    prepare(dataset, tmp_path / "copy")
    assert_equal(read_prepared(tmp_path / "copy"), dataset)


def test_a_copy_keeps_several_held_out_rows(tmp_path):
    dataset = read_folder(write_folder(tmp_path / "tiny", [*GOOD, "1,4,1.0,30,2"]))
    assert dataset.held_user is not None
    prepare(dataset, tmp_path / "copy")
    assert_equal(read_prepared(tmp_path / "copy"), dataset)


@pytest.mark.parametrize("fixture", ["ku_folder", pytest.param("ml_folder", marks=pytest.mark.slow)])
def test_real_copies_equal_their_folders(fixture, request, tmp_path):
    folder = request.getfixturevalue(fixture)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        made, expected = load_prepared(folder, tmp_path), read_folder(folder)
    assert_equal(made, expected)
    assert_equal(load_prepared(folder, tmp_path), expected)


def test_a_copy_is_made_once_for_each_source(tmp_path, monkeypatch):
    folder, cache = write_folder(tmp_path / "tiny"), tmp_path / "cache"
    first = load_prepared(folder, cache)
    made = copies(cache)
    assert len(made) == 1

    def refuse(*_):
        raise AssertionError("prepared again")

    with monkeypatch.context() as patch:
        patch.setattr(tfds_builder, "prepare", refuse)
        assert_equal(load_prepared(folder, cache), first)
        shutil.copytree(folder, tmp_path / "moved" / "tiny")
        assert_equal(load_prepared(tmp_path / "moved" / "tiny", cache), first)
    write_folder(folder, image=features(seed=7))
    changed = load_prepared(folder, cache)
    assert not np.array_equal(changed.V, first.V)
    assert len(copies(cache)) == 2


def test_tfds_alone_reads_a_copy(tmp_path):
    """The copy is an ordinary tfds data set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow_datasets as tfds
    dataset = synthetic.generate(0, num_users=12, num_items=40, num_interactions=90)
    prepare(dataset, tmp_path / "copy")
    builder = tfds.builder_from_directory(tmp_path / "copy" / "clients" / VERSION)
    source = builder.as_data_source("clients")
    assert builder.info.splits["clients"].num_examples == len(source) == 12
    assert builder.info.file_format.value == "array_record"
    np.testing.assert_array_equal(source[5]["train"], dataset.train_item[dataset.train_user == 5])
    assert source[5]["test"] == dataset.test_item[5]


def test_bad_folders_leave_no_copy(tmp_path):
    folder = write_folder(tmp_path / "tiny", ["0,x,1.0,1,0"])
    with pytest.raises(DataError, match="line 2, field itemID"):
        load_prepared(folder, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    with pytest.raises(DataError, match="found no such folder"):
        load_prepared(tmp_path / "KU", tmp_path / "cache")


def test_an_interrupted_preparation_leaves_nothing(tmp_path, monkeypatch):
    def stop(dataset):
        raise KeyboardInterrupt

    monkeypatch.setattr(tfds_builder, "_items", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(read_folder(write_folder(tmp_path / "tiny")), tmp_path / "cache" / "copy")
    assert list((tmp_path / "cache").iterdir()) == []


def test_another_process_may_be_faster(tmp_path):
    dataset = read_folder(write_folder(tmp_path / "tiny"))
    prepare(dataset, tmp_path / "copy")
    prepare(dataset, tmp_path / "copy")
    assert_equal(read_prepared(tmp_path / "copy"), dataset)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "tiny"]


def test_damaged_copies_are_refused(tmp_path):
    copy = tmp_path / "copy"
    prepare(read_folder(write_folder(tmp_path / "tiny")), copy)
    metadata = copy / "clients" / VERSION / "metadata.json"
    text = metadata.read_text()
    metadata.write_text(text.replace('"num_train": ', '"num_train": 1'))
    with pytest.raises(DataError, match=r"copy: expected a prepared data set .* found other content; delete"):
        read_prepared(copy)
    metadata.write_text(text)
    (record,) = (copy / "items" / VERSION).glob("*array_record*")
    record.write_bytes(record.read_bytes()[:-100])
    with pytest.raises(DataError, match="expected a prepared data set"):
        read_prepared(copy)
    shutil.rmtree(copy / "items")
    with pytest.raises(DataError, match="expected a prepared data set"):
        read_prepared(copy)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="expected a folder that can be written, found"):
        prepare(read_folder(write_folder(tmp_path / "tiny")), tmp_path / "file" / "copy")


def test_the_cache_of_a_read_only_root_is_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    folder = write_folder(tmp_path / "root" / "tiny")
    assert_equal(load("tiny", tmp_path / "root", source="tfds"), read_folder(folder))
    assert len(copies(tmp_path / "cache" / "fedvlr_jax" / "tfds")) == 1
    assert not (tmp_path / "root" / ".tfds").exists()


@pytest.mark.slow
def test_nothing_is_printed_and_tensorflow_is_not_imported(tmp_path):
    folder = write_folder(tmp_path / "tiny")
    program = (
        "import pathlib, sys\n"
        "from fedvlr_jax.data import load\n"
        "assert 'tensorflow_datasets' not in sys.modules\n"
        f"load('tiny', {str(tmp_path)!r}, source='tfds')\n"
        "assert 'tensorflow_datasets' in sys.modules and 'tensorflow' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        cwd=pathlib.Path(__file__).parents[1],
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert folder.is_dir()
