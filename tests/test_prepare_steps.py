"""Filters, splits and statistics against the oracle, and the choices that must not depend on the order of lines."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedvlr_jax.data.formats.raw import Coded, RawData, Times
from fedvlr_jax.data.prepare import filters, splits
from fedvlr_jax.data.prepare.rows import Rows, number, order_ids, without_gaps
from fedvlr_jax.data.prepare.statistics import sizes, statistics
from tests import prepare_oracle as oracle

ROW = st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(-2, 6))
ROWS = st.lists(ROW, max_size=40)
PAIRS = st.lists(ROW, max_size=40, unique_by=lambda row: row[:2])
SHARES = st.sampled_from([("0.1", "0.1"), ("0.2", "0.3"), ("0", "0.5"), ("0.29", "0.29"), ("0.25", "0")])
quick = settings(max_examples=150, deadline=None)


def as_rows(rows):
    """Rows as arrays; the label is the number of the row, to follow it."""
    user, item, time = np.array(rows, np.int64).reshape(-1, 3).T
    return Rows(user.astype(np.int32), item.astype(np.int32), None, time, None)


def as_tuples(rows):
    """Arrays as rows."""
    return list(zip(rows.user.tolist(), rows.item.tolist(), rows.time.tolist(), strict=True))


def labels(split):
    """The label of each row."""
    return dict(zip(as_tuples(split.rows), split.rows.label.tolist(), strict=True))


@quick
@given(ROWS, st.integers(0, 4), st.integers(0, 4))
def test_the_core_is_that_of_the_oracle_in_the_order_of_the_rows(rows, least_user, least_item):
    found = as_tuples(filters.k_core(as_rows(rows), least_user, least_item))
    expected = oracle.k_core(rows, least_user, least_item)
    assert sorted(found) == sorted(expected)
    kept = iter(rows)
    assert all(row in kept for row in found)


@quick
@given(ROWS, st.sampled_from(["first", "last"]))
def test_one_row_of_each_pair_stays(rows, keep):
    found = as_tuples(filters.one_row_a_pair(as_rows(rows), keep))
    assert sorted(found) == sorted(oracle.one_row_a_pair(rows, keep))


@pytest.mark.parametrize(("keep", "expected"), [("first", [2, 1]), ("last", [1, 0])])
def test_without_times_the_order_of_the_lines_is_that_of_repeats(keep, expected):
    rows = Rows(
        np.array([0, 0, 0], np.int32), np.array([1, 0, 1], np.int32), np.array([2, 1, 0], np.int32), None, None
    )
    assert filters.one_row_a_pair(rows, keep).rating.tolist() == expected


@quick
@given(PAIRS)
def test_leave_one_out_is_that_of_the_oracle(rows):
    split, expected = splits.leave_one_out(as_rows(rows)), oracle.leave_one_out(rows)
    assert labels(split) == expected
    assert split.tied_users == oracle.tied_users(rows, expected)


@quick
@given(PAIRS, SHARES)
def test_a_ratio_per_user_is_that_of_the_oracle(rows, shares):
    split, expected = splits.by_ratio(as_rows(rows), *map(float, shares)), oracle.by_ratio(rows, *shares)
    assert labels(split) == expected
    assert split.tied_users == oracle.tied_users(rows, expected)


@quick
@given(PAIRS, SHARES)
def test_one_cut_in_time_is_that_of_the_oracle(rows, shares):
    split = splits.by_global_time(as_rows(rows), *map(float, shares))
    assert labels(split) == oracle.by_global_time(rows, *shares)


@quick
@given(PAIRS, SHARES, st.randoms(use_true_random=False))
def test_no_split_depends_on_the_order_of_lines(rows, shares, random):
    shuffled = random.sample(rows, len(rows))
    for split in (splits.by_ratio, splits.by_global_time, lambda rows, *_: splits.leave_one_out(rows)):
        one, two = (split(as_rows(order), *map(float, shares)) for order in (rows, shuffled))
        assert labels(one) == labels(two)
        assert one.tied_users == two.tied_users


@quick
@given(ROWS.filter(bool), st.randoms(use_true_random=False))
def test_repeats_of_one_time_do_not_depend_on_the_order_of_lines(rows, random):
    for keep in ("first", "last"):
        found = []
        for order in (range(len(rows)), random.sample(range(len(rows)), len(rows))):
            number_of = np.array(order, np.int32)
            given_rows = as_rows([rows[k] for k in order])._replace(
                rating=number_of // 2, label=(number_of % 3).astype(np.int8)
            )
            kept = filters.one_row_a_pair(given_rows, keep)
            found.append(sorted(zip(as_tuples(kept), kept.rating.tolist(), kept.label.tolist(), strict=True)))
        assert found[0] == found[1]


@quick
@given(PAIRS.filter(bool))
def test_users_without_train_rows_are_left_out(rows):
    split = splits.by_global_time(as_rows(rows), 0.2, 0.3)
    label, trained = labels(split), set()
    trained = {row[0] for row in rows if label[row] == 0}
    assert sorted(as_tuples(splits.with_train_rows(split.rows))) == sorted(row for row in rows if row[0] in trained)


@quick
@given(PAIRS.filter(bool))
def test_statistics_are_counts(rows):
    array = as_rows(rows)
    found = statistics(array, np.array([row[2] % 3 for row in rows], np.int8))
    users, items = ({row[k] for row in rows} for k in (0, 1))
    per_user = [sum(row[0] == user for row in rows) for user in users]
    assert sizes(array) == (len(users), len(items), len(rows))
    assert (found["users"], found["items"], found["ratings"]) == (len(users), len(items), len(rows))
    assert found["sparsity_percent"] == round(100 - 100 * len(rows) / (len(users) * len(items)), 4)
    assert found["rows_a_user_mean"] == round(np.mean(per_user), 4)
    assert found["rows_a_user_median"] == np.median(per_user)
    assert [found[f"{name}_rows"] for name in ("train", "validation", "test")] == [
        sum(row[2] % 3 == k for row in rows) for k in range(3)
    ]


def raw_data(users, items):
    """Raw data with these ids."""

    def column(values):
        names = list(dict.fromkeys(values))
        return Coded(np.array([names.index(value) for value in values], np.int32), names)

    times = Times(np.arange(len(users)), 0)
    return RawData((), column(users), column(items), None, times, None, lambda row: (None, row))


ID = st.sampled_from(["7", "007", "10", "9", "a", "B", "é"])


@quick
@given(st.lists(st.tuples(ID, ID), min_size=1, max_size=20))
def test_ids_are_numbered_once_without_loss(pairs):
    rows, names = number(raw_data(*zip(*pairs, strict=True)))
    assert [(names.users[u], names.items[i]) for u, i in zip(rows.user, rows.item, strict=True)] == pairs
    some = rows.take(np.arange(0, len(pairs), 2))
    squeezed, left = without_gaps(some, names)
    assert [(left.users[u], left.items[i]) for u, i in zip(squeezed.user, squeezed.item, strict=True)] == pairs[::2]
    assert set(squeezed.user.tolist()) == set(range(len(left.users)))
    assert set(squeezed.item.tolist()) == set(range(len(left.items)))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10", "9", "007", "7"], ["007", "7", "9", "10"]),
        (["10", "9", "a"], ["10", "9", "a"]),
        (["b", "B", "a"], ["B", "a", "b"]),
    ],
)
def test_ids_are_ordered_as_numbers_only_where_all_are(names, expected):
    assert [names[k] for k in order_ids(names)] == expected


def test_shares_are_those_that_are_written():
    """In floating point, 0.29 * 100 is below 29."""
    rows = as_rows([(0, item, item) for item in range(100)])
    assert np.bincount(splits.by_ratio(rows, 0.0, 0.29).rows.label).tolist() == [71, 0, 29]


def test_a_threshold_keeps_what_reaches_it():
    rows = as_rows([(0, 0, 0), (0, 1, 0), (0, 2, 0)])._replace(rating=np.array([2, 0, 1], np.int32))
    assert filters.rated(rows, ["1.0", "4", "4.5"], 4.0).item.tolist() == [0, 2]
