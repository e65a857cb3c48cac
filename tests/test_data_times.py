"""Folders without split_label: leave-one-out by time."""

from __future__ import annotations

import pytest
from data_folders import raises, write_folder

from fedvlr_jax.data.folder import read_folder
from fedvlr_jax.data.messages import DataWarning


def timed(rows):
    """Rows without split_label."""
    return {"rows": rows, "header": "userID,itemID,timestamp"}


def test_split_by_time(tmp_path):
    rows = ["0,3,40", "0,1,10", "0,2,30", "0,0,20", "1,4,7", "1,1,5", "1,0,6"]
    dataset = read_folder(write_folder(tmp_path, **timed(rows)))
    assert list(zip(dataset.train_user, dataset.train_item, strict=True)) == [(0, 0), (0, 1), (1, 1)]
    assert (list(dataset.valid_item), list(dataset.test_item)) == ([2, 0], [3, 4])


def test_neighbouring_nanoseconds_are_told_apart(tmp_path):
    start = 1_700_000_000_000_000_000  # float64 has steps of 256 here
    rows = [f"0,{item},{start + after}" for item, after in ((3, 3), (2, 0), (1, 2), (0, 1))]
    dataset = read_folder(write_folder(tmp_path, **timed(rows)))
    assert (list(dataset.train_item), list(dataset.valid_item), list(dataset.test_item)) == ([0, 2], [1], [3])


def test_a_repeated_pair_counts_at_its_first_time(tmp_path):
    rows = ["0,3,40", "0,1,10", "0,2,30", "0,0,20", "0,1,99"]
    with pytest.warns(DataWarning, match="dropped 1 repeated"):
        dataset = read_folder(write_folder(tmp_path, **timed(rows)))
    assert (list(dataset.train_item), list(dataset.valid_item), list(dataset.test_item)) == ([0, 1], [2], [3])


def test_short_histories_are_kept_for_training(tmp_path):
    rows = ["0,3,1", "0,1,2", "0,2,3", "1,4,1", "1,0,2", "2,2,9"]
    with pytest.warns(DataWarning, match=r"2 of 3 users have fewer than 3 distinct items .* userID 1\).* train rows"):
        dataset = read_folder(write_folder(tmp_path, **timed(rows)))
    assert list(zip(dataset.train_user, dataset.train_item, strict=True)) == [(0, 3), (1, 0), (1, 4), (2, 2)]
    assert (list(dataset.valid_item), list(dataset.test_item)) == ([1, -1, -1], [2, -1, -1])


@pytest.mark.filterwarnings("ignore::fedvlr_jax.data.messages.DataWarning")
def test_only_short_histories_leave_nothing_to_validate(tmp_path):
    raises(write_folder(tmp_path, **timed(["0,1,1", "0,2,2"])), "rows with split_label 1 (validation), found none")
