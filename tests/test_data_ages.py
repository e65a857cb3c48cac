"""Ages of train rows: from the folder's timestamps, through the prepared copy, and absent without times."""

from __future__ import annotations

import numpy as np
from data_folders import features, write_folder

from fedvlr_jax.data.folder import read_folder
from fedvlr_jax.data.tfds_builder import load_prepared


def random_rows() -> list[tuple]:
    """Five users, seven train rows each with many equal times, then validation and test."""
    rng = np.random.default_rng(3)
    rows = [(u, i, 1, int(rng.integers(0, 6)), 0) for u in range(5) for i in rng.permutation(12)[:7]]
    return rows + [(u, 12 + k, 1, 9, 1 + k) for u in range(5) for k in range(2)]


def folder_of(path, rows, **options):
    lines = [",".join(map(str, row)) for row in rows]
    return write_folder(path, lines, image=features(14, seed=1), text=features(14, seed=2), **options)


def test_ages_count_strictly_later_train_rows_of_the_same_user(tmp_path):
    rows = random_rows()
    dataset = read_folder(folder_of(tmp_path, rows))
    time_of = {(u, i): t for u, i, _, t, split in rows if split == 0}
    assert len(dataset.train_age) == len(time_of)
    for user, item, age in zip(dataset.train_user, dataset.train_item, dataset.train_age, strict=True):
        later = [t for (u, _), t in time_of.items() if u == user and t > time_of[user, item]]
        assert age == len(later)
    assert len(set(dataset.train_age.tolist())) > 3


def test_the_prepared_copy_keeps_ages(tmp_path):
    folder = folder_of(tmp_path / "set", random_rows())
    np.testing.assert_array_equal(load_prepared(folder).train_age, read_folder(folder).train_age)


def test_without_timestamps_there_are_no_ages(tmp_path):
    rows = [(u, i, 1, split) for u, i, _, _, split in random_rows()]
    folder = folder_of(tmp_path / "set", rows, header="userID,itemID,rating,split_label")
    assert read_folder(folder).train_age is None
    assert load_prepared(folder).train_age is None
