"""Data sets from arrays and frames: what the folder reader gives, ids of any kind, and one error for each slip."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import re
import time
import warnings

import numpy as np
import pytest
from problems import tiny_dataset

from fedvlr_jax.data import fingerprint
from fedvlr_jax.data.arrays import from_arrays, from_frame
from fedvlr_jax.data.folder import read_folder
from fedvlr_jax.data.messages import DataWarning
from fedvlr_jax.errors import DataError

USERS = ["ben", "ben", "ben", "ben", "ann", "ann", "ann"]
ITEMS = ["tea", "cup", "pot", "jug", "pot", "tea", "cup"]
TIMES = [1, 2, 3, 4, 5, 6, 7]
NEW_YEAR = datetime.datetime(2020, 1, 1)
SPLITS = [0, 0, 1, 2, 0, 1, 2]
VECTORS = {"tea": [1.0, 0.0], "cup": [0.0, 2.0], "pot": [1.0, 1.0], "jug": [3.0, 4.0]}


def kitchen(**changes):
    return from_arrays(**{"users": USERS, "items": ITEMS, "splits": SPLITS} | changes)


def assert_equal(found, expected):
    """Every field that both could have is equal, arrays in type and bits; names and units of time may differ."""
    for field in dataclasses.fields(expected):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(b, np.ndarray):
            assert a.dtype == b.dtype, field.name
            np.testing.assert_array_equal(a, b, err_msg=field.name)
        elif field.name not in ("name", "time_span"):
            assert a == b, field.name


def rows_of(folder):
    """The columns of a folder's inter.csv as arrays."""
    with open(folder / "inter.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return {
        "users": np.array([int(row["userID"]) for row in rows]),
        "items": np.array([int(row["itemID"]) for row in rows]),
        "timestamps": np.array([int(row["timestamp"]) for row in rows]),
        "splits": np.array([int(row["split_label"]) for row in rows]),
    }


@pytest.mark.parametrize("labelled", [True, False])
def test_the_rows_of_a_folder_give_what_its_reader_gives(ku_folder, tmp_path, labelled):
    rows = rows_of(ku_folder)
    features = {
        name: np.load(ku_folder / f"{file}_features.npy") for name, file in (("visual", "image"), ("textual", "text"))
    }
    folder = ku_folder
    if not labelled:
        rows["splits"], folder = None, tmp_path
        lines = (ku_folder / "inter.csv").read_text().splitlines()
        (folder / "inter.csv").write_text("\n".join(line.rsplit(",", 1)[0] for line in lines))
        for name in ("image_features.npy", "text_features.npy"):
            (folder / name).symlink_to(ku_folder / name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        found, expected = from_arrays(**rows, **features), read_folder(folder)
    assert found.dropped_duplicates == 5
    assert found.time_span == expected.time_span
    assert_equal(found, expected)
    assert fingerprint(found) == fingerprint(expected)


def numbered_rows(dataset):
    """All interactions of a data set as columns."""
    held = [(dataset.valid_item, 1), (dataset.test_item, 2)]
    users = [dataset.train_user, *(np.flatnonzero(item_u >= 0) for item_u, _ in held)]
    items = [dataset.train_item, *(item_u[item_u >= 0] for item_u, _ in held)]
    labels = [np.zeros(len(dataset.train_item), int), *(np.full((x >= 0).sum(), label) for x, label in held)]
    return np.concatenate(users), np.concatenate(items), np.concatenate(labels)


@pytest.mark.parametrize(
    "rename",
    [lambda n: f"id-{n:03}", lambda n: (n // 7, n % 7), lambda n: 10 * n - 5, lambda n: n + 0.5, lambda n: 2**70 + n],
)
def test_ids_of_any_kind_stand_for_their_numbers(rename):
    dataset = tiny_dataset()
    users, items, splits = numbered_rows(dataset)
    order = np.random.default_rng(0).permutation(len(users))
    names = [[rename(int(n)) for n in numbers[order]] for numbers in (users, items)]
    every = [rename(n) for n in range(dataset.num_items)]
    found = from_arrays(*names, splits=splits[order], visual=dataset.V, textual=dataset.C, item_ids=every)
    expected = dataclasses.replace(dataset, user_ids=found.user_ids, item_ids=found.item_ids, V=found.V, C=found.C)
    assert_equal(found, expected)
    np.testing.assert_allclose(found.V, dataset.V, rtol=1e-6)
    assert found.user_ids.tolist() == [rename(n) for n in range(dataset.num_users)]
    assert found.item_ids.tolist() == every


def test_ids_that_are_numbers_are_not_kept():
    dataset = from_arrays([0, 0, 0, 1, 1, 1], [2, 1, 0, 0, 1, 2], splits=["train", "validation", "test"] * 2)
    assert dataset.user_ids is None
    assert dataset.item_ids is None


def test_a_mapping_gives_the_items_and_their_features():
    dataset = kitchen(visual=VECTORS | {"bag": [5.0, 0.0]})
    assert dataset.item_ids.tolist() == ["bag", "cup", "jug", "pot", "tea"]
    np.testing.assert_allclose(dataset.V, [[1, 0], [0, 1], [0.6, 0.8], [0.5**0.5, 0.5**0.5], [1, 0]], rtol=1e-6)
    assert dataset.C is None
    assert kitchen(visual=VECTORS | {"bag": [5.0, 0.0]}, item_ids=list(VECTORS)).num_items == 4


def test_rows_of_features_are_in_the_order_of_item_ids_else_of_the_sorted_ids():
    by_id = kitchen(visual=VECTORS)
    rows = np.array(list(VECTORS.values()))
    np.testing.assert_array_equal(kitchen(visual=rows, item_ids=list(VECTORS)).V, by_id.V)
    np.testing.assert_array_equal(kitchen(visual=rows[[1, 3, 2, 0]]).V, by_id.V)


def test_titles_follow_their_items():
    dataset = kitchen(item_titles={"tea": "A tea", "cup": "A cup"})
    assert dict(zip(dataset.item_ids, dataset.item_titles, strict=True)) == {
        "cup": "A cup",
        "jug": "",
        "pot": "",
        "tea": "A tea",
    }
    dataset = kitchen(item_titles=["T", "C", "P", "J"], item_ids=list(VECTORS))
    assert dataset.item_titles.tolist() == ["C", "J", "P", "T"]


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_title_that_is_missing_is_empty(missing):
    for titles in (["C", missing, "P", "T"], {"cup": "C", "jug": missing, "pot": "P", "tea": "T"}):
        assert kitchen(item_titles=titles).item_titles.tolist() == ["C", "", "P", "T"]


def test_an_index_that_names_items_is_what_features_and_titles_are_joined_by():
    pandas = pytest.importorskip("pandas", reason="needs pandas, which the package does not")
    table = pandas.DataFrame.from_dict(VECTORS, orient="index")  # in another order than that of the ids
    titles = pandas.Series({"tea": "T", "pot": None})
    found = kitchen(visual=table, textual=pandas.Series(VECTORS), item_titles=titles)
    assert_equal(found, kitchen(visual=VECTORS, textual=VECTORS, item_titles={"tea": "T"}))
    assert_equal(kitchen(visual=table, item_ids=list(VECTORS)[::-1]), kitchen(visual=VECTORS))
    counted, sorted_rows = table.reset_index(drop=True), table.sort_index().reset_index(drop=True)
    assert_equal(kitchen(visual=counted, item_ids=list(VECTORS)), kitchen(visual=VECTORS))
    assert_equal(kitchen(visual=sorted_rows), kitchen(visual=VECTORS))
    numbered = table.set_index(pandas.Index([3, 5, 6, 9]))  # what is left of a longer table
    assert_equal(
        kitchen(visual=numbered, item_ids=pandas.Series([*VECTORS], numbered.index)), kitchen(visual=VECTORS)
    )


def test_an_index_that_names_no_items_or_one_twice_is_refused():
    pandas = pytest.importorskip("pandas", reason="needs pandas, which the package does not")
    table = pandas.DataFrame.from_dict(VECTORS, orient="index")
    with pytest.raises(DataError, match=r"visual: expected ids of items as index, or 0 to 3 .*found 3 and none of"):
        kitchen(visual=table.set_index(pandas.Index([3, 5, 6, 9])))
    with pytest.raises(DataError, match="visual: expected every id in the index once, found 'tea' again"):
        kitchen(visual=table.set_index(pandas.Index(["cup", "tea", "tea", "pot"])))
    for titles in (table, table.reset_index(drop=True), table.to_numpy()):
        with pytest.raises(DataError, match="item_titles: expected one text for each item, found rows of a table"):
            kitchen(item_titles=titles)


def test_times_split_and_the_larger_of_two_items_at_one_time_counts_as_later():
    with pytest.warns(DataWarning, match="for 1 of 2 users equal timestamps .* .the first is user 'ben'"):
        dataset = kitchen(splits=None, timestamps=[1, 2, 2, 2, 9, 8, 7])
    assert dataset.item_ids[dataset.test_item].tolist() == ["pot", "pot"]
    assert dataset.item_ids[dataset.valid_item].tolist() == ["tea", "jug"]
    dates = np.array(TIMES, "datetime64[D]")
    for times in (dates, [datetime.datetime(2020, 1, day, tzinfo=datetime.UTC) for day in TIMES]):
        assert_equal(kitchen(splits=None, timestamps=times), kitchen(splits=None, timestamps=TIMES))


def test_datetimes_keep_their_order_whatever_the_clocks_here_do(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")  # where 2:30 comes twice on this day
    time.tzset()
    try:
        night = datetime.datetime(2020, 10, 25, 2, 30)
        dates = [night + datetime.timedelta(minutes=20 * n) for n in TIMES]
        found = kitchen(splits=None, timestamps=dates)
        assert_equal(found, kitchen(splits=None, timestamps=TIMES))
        utc = datetime.datetime(2020, 10, 25, 2, 30, tzinfo=datetime.UTC).timestamp()
        assert found.time_span == (utc + 1200 * min(TIMES), utc + 1200 * max(TIMES))
    finally:
        monkeypatch.undo()
        time.tzset()


def test_repeated_rows_are_dropped_counted_and_named_as_the_caller_does():
    with pytest.warns(DataWarning, match=r"mine: dropped 1 repeated \(user, item\) rows, 7 distinct rows remain"):
        dataset = kitchen(users=[*USERS, "ann"], items=[*ITEMS, "pot"], splits=[*SPLITS, 0], name="mine")
    assert dataset.dropped_duplicates == 1
    with pytest.warns(DataWarning, match="1 of 3 users have fewer than 3 distinct items .the first is user 'zoe'"):
        kitchen(users=[*USERS, "zoe"], items=[*ITEMS, "tea"], splits=None, timestamps=[*TIMES, 8])


class Lazy:
    """Looks like a column of a frame."""

    def __init__(self, values):
        self.values = values

    def to_numpy(self):
        return np.array(self.values)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"splits": None}, ("arrays: expected split labels, or a timestamp to split by", "found neither")),
        ({"users": [], "items": [], "splits": []}, ("at least one interaction", "none")),
        ({"items": ITEMS[:-1]}, ("arrays, field item: expected 7 values as of user, found 6",)),
        ({"users": "ben"}, ("field user: expected a list or an array, found 'ben'",)),
        ({"users": np.zeros((7, 2))}, ("field user: expected one value a row, found an array of shape (7, 2)",)),
        ({"users": [*USERS[:2], None, *USERS[3:]]}, ("arrays, index 2, field user: expected an id, found None",)),
        ({"items": [float("nan"), *range(6)]}, ("index 0, field item: expected an id, found nan",)),
        (
            {"users": [*USERS[:-1], 3]},
            ("field user: expected ids of one kind, which can be sorted, found int and str",),
        ),
        ({"users": [[1]] * 7}, ("field user: expected hashable ids",)),
        ({"splits": [0, 0, 1, 3, 0, 1, 2]}, ("index 3, field split: expected one of 0 (train), 1", "found 3")),
        (
            {"splits": [0] * 7},
            (
                "field split: expected rows with split 1 (validation), found none",
                "label some rows 1, or leave split out",
            ),
        ),
        (
            {"splits": [0, 0, 0, 0, 1, 2, 2]},
            ("at least one train row (split 0) for every user, found none for", "ann"),
        ),
        (
            {"items": ["pot", *ITEMS[1:]]},
            (
                "index 2, field split: expected a (user, item) pair in one split only",
                "('ben', 'pot') in validation here",
            ),
        ),
        ({"splits": None, "timestamps": ["x"] * 7}, ("field timestamp: expected numbers or datetime64, found",)),
        (
            {"timestamps": [1, 2, np.inf, 4, 5, 6, 7]},
            ("index 2, field timestamp: expected a finite time, found inf",),
        ),
        (
            {
                "timestamps": [datetime.datetime(2020, 1, 1)] * 6
                + [datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)]
            },
            ("index 6, field timestamp: expected a datetime without a time zone, as in the first row",),
        ),
        ({"timestamps": np.array(["NaT"] * 7, "datetime64[s]")}, ("index 0, field timestamp", "finite time")),
        ({"item_ids": ["tea", "cup", "pot"]}, ("index 3, field item: expected ids among item_ids, found", "jug")),
        ({"item_ids": ["tea", "tea", "pot"]}, ("item_ids: expected distinct ids",)),
        (
            {"visual": {"tea": [1.0], "cup": [1.0]}},
            ("arrays, visual: expected a vector for every item, found none for 'jug' (2 such items)",),
        ),
        ({"visual": VECTORS, "textual": VECTORS | {"bag": [1.0]}}, ("visual: expected a vector", "for 'bag'")),
        ({"visual": VECTORS | {"tea": [1.0]}}, ("visual: expected vectors of one length",)),
        (
            {"visual": VECTORS | {"tea": [0.0, 0.0]}},
            ("arrays, visual, item 'tea': expected features of non-zero norm",),
        ),
        ({"textual": VECTORS | {"pot": [np.nan, 0.0]}}, ("arrays, textual, item 'pot': expected finite features",)),
        ({"visual": np.ones((5, 2))}, ("visual: expected 4 rows, one for each item in ascending", "found 5")),
        ({"visual": np.ones((4, 2), int)}, ("visual: expected dtype float16, float32 or float64, found int64",)),
        ({"visual": np.ones(4)}, ("visual: expected an array [items, dimensions]", "shape (4,)")),
        ({"visual": 3.0}, ("visual: expected an array [items, dimensions]", "shape ()")),
        ({"item_titles": ["a"]}, ("item_titles: expected 4, one for each item, found 1",)),
    ],
)
def test_a_slip_is_one_error_that_names_the_argument(changes, parts):
    with pytest.raises(DataError) as caught:
        kitchen(**changes)
    at = 0
    for part in parts:
        assert part in str(caught.value)[at:], str(caught.value)
        at = str(caught.value).index(part, at)


FRAME = {"who": Lazy(USERS), "what": Lazy(ITEMS), "when": Lazy(TIMES), "part": Lazy(SPLITS)}


def test_a_frame_gives_what_its_columns_give():
    found = from_frame(FRAME, "who", "what", "when", "part", visual=VECTORS)
    assert_equal(found, kitchen(timestamps=TIMES, visual=VECTORS))
    assert found.name == "frame"
    assert_equal(from_frame(FRAME, "who", "what", "when"), kitchen(splits=None, timestamps=TIMES))
    assert_equal(from_frame(FRAME, "who", "what", None, "part"), kitchen())


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_frame_of_a_library(library):
    frames = pytest.importorskip(library, reason=f"needs {library}, which the package does not")
    columns = {"userID": USERS, "itemID": ITEMS, "timestamp": np.array(TIMES, "datetime64[ms]")}
    assert_equal(from_frame(frames.DataFrame(columns)), kitchen(splits=None, timestamps=TIMES))


def test_a_frame_is_named_by_its_columns():
    with pytest.raises(DataError, match="frame: expected a column 'userID', found KeyError"):
        from_frame(FRAME)
    with pytest.raises(DataError, match="expected a column 'timestamp', found KeyError; give timestamp=None"):
        from_frame(FRAME, "who", "what")
    for bad in (None, "x", True, [1]):
        times = np.array([*TIMES[:4], None, *TIMES[5:]], object)
        times[4] = bad
        message = re.escape(f"frame, row 4, field when: expected numbers or datetime64, found {bad!r}")
        with pytest.raises(DataError, match=message):
            from_frame(FRAME | {"when": times}, "who", "what", "when")
    wrong = FRAME | {"part": Lazy([0, 0, 1, 9, 0, 1, 2])}
    with pytest.raises(DataError, match="frame, row 3, field part: expected one of 0"):
        from_frame(wrong, "who", "what", "when", "part")
