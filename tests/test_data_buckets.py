"""Buckets: every user in one slot, whole histories, little padding; and the other arrays made from a data set."""

from __future__ import annotations

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st
from problems import histories, tiny_dataset

from fedvlr_jax.data import synthetic
from fedvlr_jax.data.buckets import heldout_targets, make_buckets, make_client_data
from fedvlr_jax.types import Dataset

NUM_ITEMS = 200


def dataset_with(lengths, seed=0):
    """A data set with these history lengths and nothing held out."""
    rng = np.random.default_rng(seed)
    train = [np.sort(rng.choice(NUM_ITEMS, n, replace=False)) for n in lengths]
    none = np.full(len(lengths), -1, np.int32)
    return Dataset(
        name="lengths",
        num_users=len(lengths),
        num_items=NUM_ITEMS,
        train_user=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
        train_item=np.concatenate(train).astype(np.int32),
        valid_item=none,
        test_item=none,
    )


@hypothesis.given(
    lengths=st.lists(st.integers(1, NUM_ITEMS), min_size=1, max_size=30),
    min_length=st.integers(1, 9),
    growth=st.sampled_from([1.1, 1.5, 2.0, 3.0]),
)
@hypothesis.settings(deadline=None, max_examples=150, derandomize=True, database=None)
def test_buckets_hold_every_history_once_with_bounded_padding(lengths, min_length, growth):
    dataset = dataset_with(lengths)
    expected, seen = histories(dataset), []
    buckets = make_buckets(dataset, min_length=min_length, growth=growth)
    for bucket in buckets:
        assert bucket.user.dtype == bucket.history.dtype == np.int32
        assert (np.diff(bucket.user) > 0).all()
        width = bucket.history.shape[1]
        for user, history in zip(bucket.user, bucket.history, strict=True):
            length = len(expected[user])
            np.testing.assert_array_equal(history[:length], expected[user])
            assert (history[length:] == NUM_ITEMS).all()
            assert width <= max(min_length, growth * length)
        seen += bucket.user.tolist()
    assert sorted(seen) == list(range(dataset.num_users))
    widths = [bucket.history.shape[1] for bucket in buckets]
    assert widths == sorted(set(widths))


def test_default_buckets_of_known_lengths():
    buckets = make_buckets(dataset_with([1, 4, 5, 8, 9, 33, 2]))
    assert [(b.user.tolist(), b.history.shape[1]) for b in buckets] == [
        ([0, 1, 6], 4),
        ([2, 3], 8),
        ([4], 9),
        ([5], 33),
    ]


@pytest.mark.parametrize(
    ("worth", "expected"),
    [
        (0, [([0, 1, 6], 4), ([2, 3], 8), ([4], 9), ([5], 33)]),
        (1, [([0, 1, 6], 4), ([2, 3], 8), ([4], 9), ([5], 33)]),
        (2, [([0, 1, 6], 4), ([2, 3, 4], 9), ([5], 33)]),
        (15, [([0, 1, 2, 3, 4, 6], 9), ([5], 33)]),
        (143, [([0, 1, 2, 3, 4, 6], 9), ([5], 33)]),
        (144, [([0, 1, 2, 3, 4, 5, 6], 33)]),
    ],
)
def test_a_bucket_that_saves_too_little_joins_the_next_wider_one(worth, expected):
    buckets = make_buckets(dataset_with([1, 4, 5, 8, 9, 33, 2]), worth=worth)
    assert [(b.user.tolist(), b.history.shape[1]) for b in buckets] == expected
    for bucket in buckets:
        lengths = (np.asarray(bucket.history) < NUM_ITEMS).sum(axis=1)
        assert lengths.tolist() == [[1, 4, 5, 8, 9, 33, 2][u] for u in bucket.user]


@pytest.mark.parametrize(("min_length", "growth"), [(0, 2.0), (4, 1.0)])
def test_widths_must_grow(min_length, growth):
    with pytest.raises(ValueError, match="expected min_length >= 1 and growth > 1"):
        make_buckets(dataset_with([3]), min_length=min_length, growth=growth)


def test_padding_of_skewed_histories_is_small():
    dataset = synthetic.generate(0)
    slots = sum(bucket.history.size for bucket in make_buckets(dataset))
    assert slots < 1.5 * len(dataset.train_item)


def test_client_data_is_on_the_device():
    dataset = tiny_dataset()
    data = make_client_data(dataset)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(data))
    for ours, expected in zip(data.buckets, make_buckets(dataset), strict=True):
        np.testing.assert_array_equal(ours.user, expected.user)
        np.testing.assert_array_equal(ours.history, expected.history)
    np.testing.assert_array_equal(data.content.V, dataset.V)
    np.testing.assert_array_equal(data.content.C, dataset.C)


def test_client_data_without_a_modality():
    dataset = dataset_with([3, 5])
    assert make_client_data(dataset).content == (None, None)


def test_heldout_targets():
    dataset = tiny_dataset()
    target_tu = heldout_targets(dataset)
    assert (target_tu.shape, target_tu.dtype) == ((2, dataset.num_users), np.int32)
    np.testing.assert_array_equal(target_tu[0], dataset.valid_item)
    np.testing.assert_array_equal(target_tu[1], dataset.test_item)
