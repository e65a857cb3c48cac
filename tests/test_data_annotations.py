"""Original ids, titles and imputed features of a folder, and recommendations written in them."""

from __future__ import annotations

import csv
import dataclasses
import json

import numpy as np
import pytest
from data_folders import write_folder

from fedvlr_jax.data.annotations import Annotations, read_annotations
from fedvlr_jax.data.folder import read_folder
from fedvlr_jax.data.ids import numbers_of
from fedvlr_jax.data.messages import DataWarning
from fedvlr_jax.errors import CheckpointError, ConfigError, DataError
from fedvlr_jax.inference.recommend import _rows
from fedvlr_jax.io.files import read_arrays, write_rows
from tests.problems import tiny_dataset

IDS = ["10", "007", 'a "b", c']
TITLES = ["Amélie, 2001", "The title is missing.", "七人の侍"]


def annotate(folder, items=None, masks=None, header="number,id,title"):
    (folder / "ids").mkdir(parents=True, exist_ok=True)
    (folder / "ids" / "users.csv").write_text("number,id\n0,u9\n1,u10\n")
    rows = list(zip(range(3), IDS, TITLES, strict=True)) if items is None else items
    with (folder / "ids" / "items.csv").open("w", newline="", encoding="utf-8") as stream:
        stream.write(header + "\n")
        csv.writer(stream).writerows(rows)
    if masks is not None:
        np.savez(folder / "missing.npz", **masks)
    return folder


def test_a_folder_without_these_files_has_none_of_it(tmp_path):
    assert read_annotations(tmp_path, 2, 3) == Annotations(None, None, None, None, None)


def test_ids_stay_text_and_placeholders_are_no_titles(tmp_path):
    image = np.array([True, False, False])
    masks = {"image": image, "title": np.array([False, True, False])}
    found = read_annotations(annotate(tmp_path, masks=masks), 2, 3)
    assert (found.user_ids.tolist(), found.item_ids.tolist()) == (["u9", "u10"], IDS)
    assert found.item_titles.tolist() == [TITLES[0], "", TITLES[2]]
    np.testing.assert_array_equal(found.missing_V, image)
    assert found.missing_C is None


def test_ids_that_are_the_numbers_are_none(tmp_path):
    found = read_annotations(annotate(tmp_path, items=[(0, "0", ""), (1, "1", ""), (2, "2", "")]), 2, 3)
    assert (found.item_ids, found.item_titles) == (None, None)


@pytest.mark.parametrize(
    ("items", "header", "message"),
    [
        ([(0, "a", ""), (1, "b", "")], "number,id,title", "expected 3 rows, as many as .*, found 2"),
        ([(0, "a", ""), (2, "b", "")], "number,id,title", "line 3: expected number 1 and 3 fields, found 2,b,"),
        ([(0, "a", ""), (1, "b", ""), (2, "a", "")], "number,id,title", "expected every id once, found 1 again"),
        ([(0, "a")], "itemID,original", "line 1: expected the columns number,id or .*, found itemID,original"),
    ],
)
def test_ids_that_do_not_fit_are_refused(tmp_path, items, header, message):
    with pytest.raises(DataError, match=message):
        read_annotations(annotate(tmp_path, items=items, header=header), 2, 3)


def test_masks_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"missing\.npz: expected image: bool \[3\], found int64 \[1\]"):
        read_annotations(annotate(tmp_path, masks={"image": np.array([2])}), 2, 3)
    (tmp_path / "missing.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"missing\.npz: expected an archive of arrays"):
        read_annotations(tmp_path, 2, 3)


def test_imputed_features_are_counted_when_a_folder_is_read(tmp_path):
    folder = write_folder(tmp_path)
    plain = read_folder(folder)
    mask = np.arange(plain.num_items) < 2
    np.savez(folder / "missing.npz", text=mask, image=~mask & False)
    with pytest.warns(DataWarning, match=rf"text_features.npy: 2 of {plain.num_items} items have no text"):
        found = read_folder(folder)
    np.testing.assert_array_equal(found.missing_C, mask)
    np.testing.assert_array_equal(found.C, plain.C)  # the rows are those of the file


def test_ids_in_any_order_are_found_again():
    ids = np.array(["9", "10", "100", "07"])
    assert numbers_of(ids, np.array(["10", "7", "07", "9"])).tolist() == [1, -1, 3, 0]


def named_rows():
    """Two users with two items each, in ids that need quotes."""
    dataset = tiny_dataset()
    ids = np.array([f"{IDS[k % 3]}-{k}" for k in range(dataset.num_items)])
    titles = np.array([TITLES[k % 3] for k in range(dataset.num_items)])
    users = np.array([f"0{k}" for k in range(dataset.num_users)])
    dataset = dataclasses.replace(dataset, user_ids=users, item_ids=ids, item_titles=titles)
    item_uk = np.full((dataset.num_users, 2), -1)
    item_uk[:2] = [[2, 0], [1, 2]]
    return _rows(dataset, item_uk, np.where(item_uk < 0, -np.inf, 0.5).astype(np.float32), titles=True)


def test_recommendations_come_back_from_csv_and_json_lines(tmp_path):
    rows = named_rows()
    write_rows(tmp_path / "r.csv", rows, "csv")
    write_rows(tmp_path / "r.jsonl", rows, "jsonl")
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as stream:
        table = list(csv.DictReader(stream))
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[0] == {"user": "00", "rank": 1, "item": 'a "b", c-2', "score": 0.5, "title": "七人の侍"}
    assert [{name: str(value) for name, value in line.items()} for line in lines] == table
    assert "七人の侍" in (tmp_path / "r.jsonl").read_text(encoding="utf-8")  # not escaped
    with pytest.raises(ConfigError, match="format: expected one of csv, jsonl, found 'xml'"):
        write_rows(tmp_path / "r.xml", rows, "xml")


@pytest.mark.parametrize("keep", [0, 20, 120])
def test_a_broken_archive_is_named_in_one_line(tmp_path, keep):
    file = tmp_path / "ranks.npz"
    np.savez_compressed(file, user=np.arange(50), item=np.arange(50))
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"ranks\.npz: expected an archive of arrays, found") as error:
        read_arrays(file)
    assert "\n" not in str(error.value)
