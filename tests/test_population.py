"""Parts of a population: every client once, with its own history, in arrays whose shapes never change."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from problems import histories as rows_of
from problems import tiny_dataset

from fedvlr_jax.data.buckets import make_buckets, make_histories
from fedvlr_jax.federated import sampling
from fedvlr_jax.training.cohorts import blocks, make_cohort, spread_rows

DATASET = tiny_dataset(num_users=30)
HISTORIES = make_histories(DATASET)
NOBODY = np.empty(0, np.int64)


def content(bucket) -> dict[int, tuple]:
    """Row and history of every client in a bucket; empty slots hold padding and come last."""
    count = int((bucket.user < DATASET.num_users).sum())
    assert (bucket.user[count:] == DATASET.num_users).all()
    assert (bucket.row[count:] > 10**6).all()
    assert (bucket.history[count:] == DATASET.num_items).all()
    real = [history[history < DATASET.num_items].tolist() for history in bucket.history[:count]]
    return dict(zip(bucket.user[:count].tolist(), zip(bucket.row[:count].tolist(), real, strict=True), strict=True))


@pytest.mark.parametrize("size", [1, 7, 30])
def test_a_cohort_has_each_of_its_clients_once_with_its_history(size):
    ids = np.sort(np.random.default_rng(size).permutation(30)[:size])
    cohort = make_cohort(HISTORIES, ids, NOBODY)
    found = {user: entry for bucket in cohort.buckets for user, entry in content(bucket).items()}
    assert found == {user: (row, rows_of(DATASET)[user].tolist()) for row, user in enumerate(ids.tolist())}
    assert sum(len(content(bucket)) for bucket in cohort.buckets) == size


def test_the_shapes_of_a_cohort_depend_on_its_size_alone():
    draws = [np.sort(np.random.default_rng(seed).permutation(30)[:9]) for seed in range(20)]
    shapes = {str(jax.tree.map(np.shape, make_cohort(HISTORIES, ids, ids[:5]))) for ids in draws}
    assert len(shapes) == 1


def test_a_cohort_says_where_its_clients_stood_before():
    cohort = make_cohort(HISTORIES, np.array([2, 5, 9, 29]), np.array([0, 5, 7, 9]))
    assert cohort.held.tolist() == [-1, 1, 3, -1]
    assert cohort.fresh.tolist() == [0, 3]
    assert make_cohort(HISTORIES, np.array([2, 5]), NOBODY).held.tolist() == [-1, -1]


def test_a_client_without_train_rows_has_a_row_but_no_slot():
    keep = DATASET.train_user != 4
    bare = dataclasses.replace(DATASET, train_user=DATASET.train_user[keep], train_item=DATASET.train_item[keep])
    cohort = make_cohort(make_histories(bare), np.array([3, 4, 5]), NOBODY)
    slots = {user: row for bucket in cohort.buckets for user, (row, _) in content(bucket).items()}
    assert slots == {3: 0, 5: 2}


@pytest.mark.parametrize(("chunk", "least"), [(1, 1), (3, 1), (3, 8), (4, 100), (100, 1)])
def test_blocks_hold_every_client_once_in_chunks(chunk, least):
    seen = []
    shapes = {}
    for num_chunks, ids, bucket in blocks(HISTORIES, chunk=chunk, least=least):
        found = content(bucket)
        assert found == {user: (row, rows_of(DATASET)[user].tolist()) for row, user in enumerate(ids.tolist())}
        assert bucket.user.size % num_chunks == 0
        assert bucket.user.size // num_chunks <= chunk
        assert shapes.setdefault(bucket.history.shape[1], bucket.history.shape) == bucket.history.shape
        seen += ids.tolist()
    assert sorted(seen) == list(range(30))


def test_one_block_of_a_bucket_has_the_chunks_that_ranking_the_whole_bucket_has():
    for bucket, (num_chunks, _, block) in zip(
        make_buckets(DATASET), blocks(HISTORIES, chunk=4, least=100), strict=True
    ):
        assert num_chunks == -(-bucket.user.size // 4)
        assert block.user.size // num_chunks == -(-bucket.user.size // num_chunks)


def test_spread_rows_leaves_zeros_elsewhere():
    found = spread_rows({"x": np.array([[1], [2]], np.int8)}, np.array([3, 0]), 4)
    np.testing.assert_array_equal(found["x"], np.array([[2], [0], [0], [1]], np.int8))


@pytest.mark.parametrize(("num_users", "passes"), [(1, 1), (3, 1), (1625, 1), (1626, 2), (4000, 2)])
def test_cohort_ids_are_those_that_the_mask_selects(num_users, passes):
    for seed in range(3):
        key = jax.random.key(seed)
        words = np.asarray(sampling.cohort_words(key, num_users))
        assert words.shape == (passes, num_users)
        for size in {1, num_users // 3 + 1, num_users}:
            mask_u = sampling.cohort_mask(key, num_users, size)
            np.testing.assert_array_equal(sampling.cohort_ids(words, size), np.flatnonzero(mask_u))


@pytest.mark.slow
def test_cohort_ids_of_a_population_that_needs_three_passes():
    words = np.asarray(sampling.cohort_words(jax.random.key(1), 3_000_000))
    assert len(words) == 3
    mask_u = sampling.cohort_mask(jax.random.key(1), 3_000_000, 500)
    np.testing.assert_array_equal(sampling.cohort_ids(words, 500), np.flatnonzero(mask_u))


def test_equal_words_are_sorted_stably():
    words = np.zeros((2, 6), np.uint32)
    assert sampling.cohort_ids(words, 4).tolist() == [0, 1, 2, 3]
    words[0] = [5, 1, 5, 0, 1, 0]  # the first pass: 3, 5, 1, 4, 0, 2
    assert sampling.cohort_ids(words, 3).tolist() == [1, 3, 5]
