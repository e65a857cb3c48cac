"""Groups of held-out rows against loops over users, and that they are partitions."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ranking_oracle import random_dataset

from fedvlr_jax.evaluation.groups import GROUPINGS, Grouping, group_means
from fedvlr_jax.evaluation.metrics import TEST, VALID, row_values, seed_values
from fedvlr_jax.types import Dataset, Ranks


@pytest.fixture
def dataset() -> Dataset:
    """60 users, 90 items; users without a test item, and cold held-out items."""
    dataset = random_dataset(0, 60, 90, density=0.15)
    valid_item, test_item = dataset.valid_item.copy(), dataset.test_item.copy()
    test_item[::7], test_item[1::7], valid_item[2::7] = -1, 0, 1
    return dataclasses.replace(dataset, valid_item=valid_item, test_item=test_item)


def random_ranks(dataset: Dataset, seed: int) -> Ranks:
    rng = np.random.default_rng(seed)
    item_tu = np.stack([dataset.valid_item, dataset.test_item])
    greater_tu, tied_tu = rng.integers(0, 60, item_tu.shape), rng.integers(1, 4, item_tu.shape)
    return Ranks(item_tu, greater_tu, tied_tu, np.zeros(60, bool), np.zeros(60, int))


def with_lengths(lengths: list[int]) -> Dataset:
    """Users with these history lengths over 1,000 items, all with test item 999."""
    none = np.full(len(lengths), -1)
    user = np.repeat(np.arange(len(lengths)), lengths)
    item = np.concatenate([np.arange(n) for n in lengths])
    return Dataset(
        name="x",
        num_users=len(lengths),
        num_items=1000,
        train_user=user,
        train_item=item,
        valid_item=none,
        test_item=none + 1000,
    )


def names_of(grouping: Grouping) -> list[str]:
    return [grouping.names[g] for g in grouping.group_h]


@pytest.mark.parametrize("split", [VALID, TEST])
@pytest.mark.parametrize("name", GROUPINGS)
def test_groups_partition_the_rows_and_their_means_add_up(dataset, name, split):
    runs = [random_ranks(dataset, seed) for seed in range(3)]
    values_su = seed_values(runs, "NDCG@50", split=split)
    grouping = GROUPINGS[name](dataset, runs[0].item[split])
    assert len(set(grouping.names)) == len(grouping.names)
    found = group_means(values_su, grouping)
    assert [one.name for one in found] == list(grouping.names)
    assert sum(one.rows for one in found) == values_su.shape[1] == np.sum(runs[0].item[split] >= 0)
    assert sum(one.rows > 0 for one in found) > 1
    assert sum(one.rows * one.mean for one in found if one.rows) == pytest.approx(values_su.mean(axis=0).sum())
    for group, one in enumerate(found):
        inside = [v for v, g in zip(values_su.T, grouping.group_h, strict=True) if g == group]
        assert (one.mean is None) == (not inside)
        assert one.mean is None or one.mean == pytest.approx(np.mean(inside))


def test_warm_and_cold_follow_the_train_rows(dataset):
    targets = [i for i in dataset.test_item.tolist() if i >= 0]
    expected = ["warm" if i in set(dataset.train_item.tolist()) else "cold" for i in targets]
    assert set(expected) == {"warm", "cold"}
    assert names_of(GROUPINGS["warmth"](dataset, dataset.test_item)) == expected


def test_history_groups_have_the_limits_of_the_paper():
    dataset = with_lengths([1, 10, 11, 20, 21, 50, 51, 100, 101, 200, 201, 500, 501, 900])
    names = ["0-10", "11-20", "21-50", "51-100", "101-200", "201-500", ">500"]
    assert names_of(GROUPINGS["history"](dataset, dataset.test_item)) == [name for name in names for _ in range(2)]
    without = dataset.test_item.copy()
    without[1:] = -1
    assert names_of(GROUPINGS["history"](dataset, without)) == ["0-10"]


def test_popularity_deciles_order_the_items_of_the_catalogue(dataset):
    """By a loop: the decile of an item is that of the middle of the items with its count."""
    count = [int(np.sum(dataset.train_item == i)) for i in range(90)]
    grouping = GROUPINGS["popularity"](dataset, np.arange(90) % 90)  # every item is a target once
    for item, name in enumerate(names_of(grouping)):
        below, equal = sum(c < count[item] for c in count), count.count(count[item])
        decile, counts = name.removeprefix("decile ").removesuffix(" train rows").split(": ")
        assert int(decile) == int((below + equal / 2) / 90 * 10) + 1
        low, high = map(int, counts.split("-"))
        assert low <= count[item] <= high


def test_deciles_of_distinct_counts_hold_a_tenth_of_the_items_each():
    dataset = with_lengths(list(range(1, 1001)))  # item i has 1000 - i train rows
    grouping = GROUPINGS["popularity"](dataset, np.arange(1000))
    np.testing.assert_array_equal(grouping.group_h, 9 - np.arange(1000) // 100)
    assert grouping.names[0] == "decile 1: 1-100 train rows"
    equal = GROUPINGS["popularity"](with_lengths([1000, 1000]), np.array([0, 5]))
    np.testing.assert_array_equal(equal.group_h, [5, 5])
    assert equal.names[0] == "decile 1: no items"


def test_runs_on_other_rows_and_values_of_other_rows_are_refused(dataset):
    runs = [random_ranks(dataset, 0), random_ranks(dataclasses.replace(dataset, test_item=dataset.valid_item), 1)]
    with pytest.raises(ValueError, match="runs on the same held-out items"):
        seed_values(runs, "HR@50")
    np.testing.assert_array_equal(
        seed_values(runs, "HR@50", split=VALID)[1], row_values(runs[1], "HR@50", split=VALID)
    )
    with pytest.raises(ValueError, match=r"expected values \[s, 51\] as the grouping, found \(1, 60\)"):
        group_means(np.zeros((1, 60)), GROUPINGS["warmth"](dataset, dataset.test_item))
