"""Reading canonical folders: what good ones give, and the one error of every broken rule."""

from __future__ import annotations

import time
import warnings

import numpy as np
import pytest
from data_folders import GOOD, HEADER, NUM_ITEMS, features, raises, replaced, write_folder

from fedvlr_jax.data.folder import read_folder
from fedvlr_jax.data.messages import DataWarning
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.settings import default_settings, override
from fedvlr_jax.training.experiment import make_experiment


def read_quietly(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return read_folder(folder)


# --- good folders ---------------------------------------------------------------------------------------------


def test_a_good_folder(tmp_path):
    dataset = read_folder(write_folder(tmp_path / "tiny"))
    assert (dataset.name, dataset.num_users, dataset.num_items, dataset.dropped_duplicates) == (
        "tiny",
        2,
        NUM_ITEMS,
        0,
    )
    assert list(zip(dataset.train_user, dataset.train_item, strict=True)) == [(0, 0), (0, 2), (1, 3)]
    np.testing.assert_array_equal(dataset.valid_item, [1, 0])
    np.testing.assert_array_equal(dataset.test_item, [3, 2])
    assert dataset.planted is None
    for name in ("train_user", "train_item", "valid_item", "test_item"):
        assert getattr(dataset, name).dtype == np.int32


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_features_get_unit_norm_in_float32(tmp_path, dtype):
    raw = features(dtype=dtype)
    dataset = read_folder(write_folder(tmp_path, image=raw))
    wide = raw.astype(np.float64)
    np.testing.assert_allclose(dataset.V, wide / np.linalg.norm(wide, axis=1, keepdims=True), rtol=1e-6)
    assert dataset.V.dtype == dataset.C.dtype == np.float32


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_norms_neither_overflow_nor_vanish(tmp_path, scale):
    raw = features(dtype=np.float64)
    dataset = read_folder(write_folder(tmp_path, image=raw * scale))
    np.testing.assert_allclose(np.linalg.norm(dataset.V, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize(("absent", "field"), [("image_features.npy", "V"), ("text_features.npy", "C")])
def test_one_feature_file_may_be_absent(tmp_path, absent, field):
    folder = write_folder(tmp_path)
    (folder / absent).unlink()
    dataset = read_folder(folder)
    assert getattr(dataset, field) is None
    assert getattr(dataset, "C" if field == "V" else "V").shape[0] == dataset.num_items == NUM_ITEMS


def test_users_may_lack_held_out_rows(tmp_path):
    dataset = read_folder(write_folder(tmp_path, [*GOOD, "2,4,1.0,30,0"]))
    np.testing.assert_array_equal(dataset.valid_item, [1, 0, -1])
    np.testing.assert_array_equal(dataset.test_item, [3, 2, -1])


def test_order_of_columns_and_rows_blank_lines_and_byte_order_mark_do_not_matter(tmp_path):
    folder = write_folder(tmp_path / "a")
    expected = read_folder(folder)
    swapped = [",".join(row.split(",")[k] for k in (4, 1, 3, 0)) for row in reversed(GOOD)]
    text = "\ufeffsplit_label,itemID,timestamp,userID\r\n\r\n" + "\r\n\r\n".join(swapped)
    (folder / "inter.csv").write_bytes(text.encode())
    found = read_folder(folder)
    for name in ("train_user", "train_item", "valid_item", "test_item"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_repeated_rows_of_one_split_are_dropped_and_counted(tmp_path):
    folder = write_folder(tmp_path, [*GOOD, GOOD[0], "0,2,9.0,99,0", GOOD[3]])
    with pytest.warns(DataWarning, match=r"inter\.csv: dropped 3 repeated .* rows, 7 distinct rows remain"):
        dataset = read_folder(folder)
    assert dataset.dropped_duplicates == 3
    assert list(dataset.train_item) == [0, 2, 3]
    assert list(dataset.test_item) == [3, 2]


# --- files ----------------------------------------------------------------------------------------------------

WAYS = ("Three ways", "--config.data.name=synthetic", "put the folder", "--config.data.dir", "FEDVLR_DATA")


def test_missing_folder(tmp_path):
    raises(tmp_path / "KU", "KU: expected a folder with inter.csv", "found no such folder", *WAYS)


def test_folder_is_a_file(tmp_path):
    (tmp_path / "KU").write_text("")
    raises(tmp_path / "KU", "found a file", *WAYS)


def test_missing_interactions(tmp_path):
    (write_folder(tmp_path) / "inter.csv").unlink()
    raises(tmp_path, "found no inter.csv in it", *WAYS)


def without_features(folder, rows=GOOD):
    write_folder(folder, rows)
    for name in ("image_features.npy", "text_features.npy"):
        (folder / name).unlink()
    return folder


def test_without_feature_files_a_set_has_item_ids_alone(tmp_path):
    dataset = read_folder(without_features(tmp_path / "tiny"))
    assert dataset.V is None
    assert dataset.C is None
    assert dataset.num_items == 4  # those that occur
    message = (
        "variant fedvlr: expected visual or textual features of the items, found none in tiny; .*train variant base"
    )
    with pytest.raises(ConfigError, match=message):
        make_experiment(default_settings(), dataset)
    make_experiment(override(default_settings(), {"variant": "base"}), dataset)
    make_experiment(override(default_settings(), {"fusion.modalities": "D"}), dataset)


def test_without_feature_files_items_must_not_have_gaps(tmp_path):
    folder = without_features(tmp_path, [*GOOD, "1,9,1.0,10,0"])
    raises(folder, "line 9, field itemID: expected contiguous ids from 0", "found 9 although no row has 4")


def test_interactions_are_a_folder(tmp_path):
    (write_folder(tmp_path) / "inter.csv").unlink()
    (tmp_path / "inter.csv").mkdir()
    raises(tmp_path, "inter.csv: expected a readable file, found Is a directory")


# --- inter.csv ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_empty_interactions(tmp_path, content):
    (write_folder(tmp_path) / "inter.csv").write_bytes(content)
    raises(tmp_path, f"inter.csv: expected a header {HEADER}", "found an empty file")


def test_header_only(tmp_path):
    raises(write_folder(tmp_path, []), "inter.csv: expected at least one interaction", "found none")


@pytest.mark.parametrize(
    ("header", "parts"),
    [
        ("itemID,rating,timestamp,split_label", ("the columns userID,itemID", "found no userID")),
        ("userID,rating,timestamp,split_label", ("the columns userID,itemID", "found no itemID")),
        ("userID,itemID,rating", ("split_label", "timestamp", "found neither in 'userID,itemID,rating'")),
        ("user_id,itemID,rating,timestamp,split_label", ("found an unknown column 'user_id'",)),
        ("userID,itemID,rating,timestamp,x_label", ("found an unknown column 'x_label'",)),
        ("userID\titemID\trating\ttimestamp\tsplit_label", ("found an unknown column 'userID\\titemID",)),
        ("userID,itemID,itemID,timestamp,split_label", ("every column once", "found 'itemID' 2 times")),
        ("0,2,1.0,10,0", ("the columns userID", "found an unknown column '0'")),
    ],
)
def test_wrong_or_missing_columns(tmp_path, header, parts):
    width = header.count(",") + 1
    rows = [",".join(row.split(",")[:width]) for row in GOOD]
    raises(write_folder(tmp_path, rows, header), "inter.csv, line 1: expected", *parts)


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ("0,1,1.0,12", ("line 4: expected 5 fields", "found 4")),
        ("0,1,1.0,12,1,7", ("line 4: expected 5 fields", "found 6")),
        ("zero,1,1.0,12,1", ("line 4, field userID: expected a whole number from 0", "found 'zero'")),
        ("0,1.0,1.0,12,1", ("line 4, field itemID: expected a whole number from 0", "found '1.0'")),
        ("0,,1.0,12,1", ("line 4, field itemID", "found ''")),
        ("0,1_0,1.0,12,1", ("line 4, field itemID", "found '1_0'")),
        ("0,²,1.0,12,1", ("line 4, field itemID", "found '²'")),
        ("-1,1,1.0,12,1", ("line 4, field userID: expected a whole number from 0", "found '-1'")),
        ("0,-7,1.0,12,1", ("line 4, field itemID: expected a whole number from 0", "found '-7'")),
        ("0,99999999999999999999,1.0,12,1", ("line 4, field itemID", "found '99999999999999999999'")),
        ("2147483647,1,1.0,12,1", ("line 4, field userID", "to 2147483646", "found '2147483647'")),
        ("0,1,good,12,1", ("line 4, field rating: expected a finite number", "found 'good'")),
        ("0,1,1.0,yesterday,1", ("line 4, field timestamp: expected a finite number", "found 'yesterday'")),
        ("0,1,1.0,nan,1", ("line 4, field timestamp: expected a finite number", "found 'nan'")),
        ("0,1,1.0,12,3", ("line 4, field split_label: expected one of 0 (train), 1 (", "found '3'")),
        ("0,1,1.0,12,test", ("line 4, field split_label", "found 'test'")),
        (
            "0,5,1.0,12,1",
            ("line 4, field itemID: expected ids below 5", "image_features.npy", "found 5, out of"),
        ),
        ("3,1,1.0,12,1", ("line 4, field userID: expected contiguous ids from 0", "found 3 although no row has 2")),
        (
            "0,2,1.0,12,1",
            ("line 4, field split_label", "(0, 2) in validation here", "train in line 2"),
        ),
        ('0,1,"1.0,12,1', ("line 8: expected comma-separated values", "found")),
    ],
)
def test_a_bad_row(tmp_path, row, parts):
    raises(write_folder(tmp_path, replaced(4, row)), "inter.csv, ", *parts)


def test_the_line_is_that_of_the_file_even_behind_blank_lines(tmp_path):
    raises(write_folder(tmp_path, ["", "", *replaced(4, "0,x,1.0,12,1")]), "line 6, field itemID")


def test_users_must_start_at_zero(tmp_path):
    rows = [f"{int(row[0]) + 1}{row[1:]}" for row in GOOD]
    raises(write_folder(tmp_path, rows), "line 2, field userID", "found 1 although no row has 0")


def test_text_that_is_not_utf8(tmp_path):
    (write_folder(tmp_path) / "inter.csv").write_bytes(f"{HEADER}\n0,1,\xff,1,0\n".encode("latin-1"))
    raises(tmp_path, "inter.csv: expected UTF-8 text")


def test_a_user_without_train_rows(tmp_path):
    rows = [*GOOD, "2,4,1.0,30,1", "2,3,1.0,31,2"]
    raises(write_folder(tmp_path, rows), "line 9, field split_label", "at least one train row", "none for userID 2")


@pytest.mark.parametrize("order", [1, -1])
def test_several_held_out_rows_of_a_user(tmp_path, order):
    """They stand user after user, by item, whatever the order of lines."""
    rows = [*GOOD, "1,4,1.0,30,2"]
    dataset = read_folder(write_folder(tmp_path, rows[::order]))
    np.testing.assert_array_equal(dataset.held_user, [0, 1, 1])
    np.testing.assert_array_equal(dataset.valid_item, [1, 0, -1])
    np.testing.assert_array_equal(dataset.test_item, [3, 2, 4])


@pytest.mark.parametrize(("label", "name"), [(0, "train"), (1, "validation"), (2, "test")])
def test_a_missing_split(tmp_path, label, name):
    rows = [row for row in GOOD if not row.endswith(f",{label}")]
    way_out = {0: "", 1: "split.valid above 0", 2: "split.test above 0"}[label]
    parts = "field split_label", f"rows with split_label {label} ({name})", "found none", way_out
    raises(write_folder(tmp_path, rows), *parts)


# --- features -------------------------------------------------------------------------------------------------


def with_value(row, value):
    wrong = features()
    wrong[row] = value
    return wrong


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize(
    ("array", "parts"),
    [
        (features().astype(np.int64), ("expected dtype float16, float32 or float64", "found int64")),
        (features().astype(np.complex64), ("expected dtype", "found complex64")),
        (features().astype(np.longdouble), ("expected dtype", "found float128")),
        (features().astype(object), ("expected a NumPy array file", "pickle")),
        (features()[0], ("expected an array [items, dimensions]", "shape (3,)")),
        (features()[None], ("expected an array [items, dimensions]", "shape (1, 5, 3)")),
        (features()[:, :0], ("expected an array [items, dimensions]", "shape (5, 0)")),
        (features(6), ("text_features.npy: expected", "rows (items) as in image_features.npy", "found")),
        (with_value((2, 1), np.nan), ("row 3 (itemID 2): expected finite features", "found nan (1 such rows)")),
        (with_value((4, 0), -np.inf), ("row 5 (itemID 4): expected finite features", "found -inf")),
        (with_value(1, 0.0), ("row 2 (itemID 1): expected features of non-zero norm", "found only zeros")),
    ],
)
def test_bad_features(tmp_path, kind, array, parts):
    folder = write_folder(tmp_path, **{kind: array})
    raises(folder, *([] if "text_features" in parts[0] else [f"{kind}_features.npy"]), *parts)


def test_too_few_feature_rows_for_the_items(tmp_path):
    folder = write_folder(tmp_path, image=features(3), text=features(3))
    raises(folder, "line 5, field itemID: expected ids below 3", "found 3, out of range (2 such lines)")


@pytest.mark.parametrize("content", [b"", b"userID,itemID", b"\x93NUMPY\x01\x00"])
def test_feature_files_that_hold_no_array(tmp_path, content):
    (write_folder(tmp_path) / "image_features.npy").write_bytes(content)
    raises(tmp_path, "image_features.npy: expected a NumPy array file (.npy) of floats, found")


def test_truncated_and_packed_feature_files(tmp_path):
    file = write_folder(tmp_path) / "text_features.npy"
    file.write_bytes(file.read_bytes()[:-8])
    raises(tmp_path, "text_features.npy: expected a NumPy array file")
    with open(file, "wb") as stream:
        np.savez(stream, features())
    raises(tmp_path, "text_features.npy: expected a NumPy array file")


# --- real data and speed --------------------------------------------------------------------------------------


def test_ku(ku_folder):
    with pytest.warns(DataWarning, match="dropped 5 repeated .* rows, 3484 distinct rows remain"):
        ku = read_folder(ku_folder)
    assert (ku.num_users, ku.num_items, ku.dropped_duplicates, len(ku.train_item)) == (204, 560, 5, 3484 - 2 * 204)
    cold = np.setdiff1d(np.arange(560), ku.train_item)
    assert len(cold) == 16
    assert (np.isin(ku.test_item, cold).sum(), np.isin(ku.valid_item, cold).sum()) == (88, 46)
    assert ku.V.shape == ku.C.shape == (560, 512)


def test_ml(ml_folder):
    ml = read_folder(ml_folder)
    assert (ml.num_users, ml.num_items, ml.dropped_duplicates) == (610, 3650, 0)
    assert len(ml.train_item) + 2 * 610 == 90274
    assert (ml.V.shape, ml.C.shape) == ((3650, 1280), (3650, 384))


def test_the_split_of_ku_is_that_by_time(ku_folder, tmp_path):
    """The labels of KU are the last two interactions; reading it without labels gives the same split."""
    labelled = read_quietly(ku_folder)
    for name in ("image_features.npy", "text_features.npy"):
        (tmp_path / name).symlink_to(ku_folder / name)
    lines = (ku_folder / "inter.csv").read_text().splitlines()
    (tmp_path / "inter.csv").write_text("\n".join(line.rsplit(",", 1)[0] for line in lines))
    timed_split = read_quietly(tmp_path)
    np.testing.assert_array_equal(timed_split.test_item, labelled.test_item)
    np.testing.assert_array_equal(timed_split.valid_item, labelled.valid_item)


def test_two_hundred_thousand_rows_are_read_fast(tmp_path):
    rows = [f"{k % 4000},{k // 4000},1.0,{k},{min(max(k // 4000 - 47, 0), 2)}" for k in range(200_000)]
    folder = write_folder(tmp_path, rows, image=features(50), text=features(50))
    start = time.process_time()
    assert len(read_folder(folder).train_item) == 192_000
    assert time.process_time() - start < 3  # about 0.6 s on one free core
