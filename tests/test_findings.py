"""What `experiments/show_findings.py` prints about published numbers, on data small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest
from problems import tiny_dataset
from ranking_oracle import load_real, lowest_index_ranks

from fedvlr_jax.benchmark import findings
from fedvlr_jax.data.buckets import make_buckets


@pytest.fixture(scope="module")
def ku(ku_folder):
    return load_real(ku_folder)


@pytest.mark.parametrize("masks_a_test_item", [False, True])
def test_equal_scores_rank_by_index_as_a_sort_does(masks_a_test_item):
    dataset = tiny_dataset()
    without = (int(dataset.test_item[0]), 5) if masks_a_test_item else ()
    masked_ui = np.zeros((dataset.num_users, dataset.num_items), bool)
    masked_ui[dataset.train_user, dataset.train_item] = True
    masked_ui[:, list(without)] = True
    above = findings.rank_by_index(dataset, dataset.test_item, without=without)
    masked = masked_ui[np.arange(dataset.num_users), dataset.test_item]
    assert masked.any() == masks_a_test_item
    expected = lowest_index_ranks(np.zeros(masked_ui.shape), masked_ui, dataset.test_item) - 1
    np.testing.assert_array_equal(above, np.where(masked, dataset.num_items, expected))


def test_a_second_softmax_flattens_router_weights():
    np.testing.assert_allclose(
        findings.normalised_twice((0.98, 0.02, 0.0)),
        np.exp([0.98, 0.02, 0]) / np.exp([0.98, 0.02, 0]).sum(),
        rtol=1e-6,
    )


def test_unseen_items_on_ku(ku):
    assert findings.unseen_rows(ku) == {"items": 16, "validation rows": 46, "test rows": 88}


@pytest.mark.slow
def test_moving_unseen_items_changes_a_total_as_counted_by_hand(ku):
    found = findings.rows_with_unseen_items_moved(ku, make_buckets(ku), "ease")
    cold_share = 88 / 204
    first, last = found["ease, unseen items above all others"], found["ease, unseen items below all others"]
    # Every unseen item has one of the first 16 ranks of every list: all 88 rows are hits, tied over these ranks.
    gain = np.mean(1 / np.log2(np.arange(2, 18)))
    assert first[0] > cold_share
    assert first[1] > cold_share * gain
    # Moved down they are no hits, and no other item loses a rank.
    assert last[0] <= 1 - cold_share
    assert last[0] < found["ease"][0] < first[0]
    constant = findings.rows_with_unseen_items_moved(ku, make_buckets(ku), "constant")
    warm_places = 50 - 16
    length_u = np.bincount(ku.train_user)
    warm = ~np.isin(ku.test_item, np.setdiff1d(np.arange(ku.num_items), ku.train_item))
    expected = cold_share + np.sum(warm_places / (ku.num_items - 16 - length_u[warm])) / 204
    assert constant["constant, unseen items above all others"][0] == pytest.approx(expected, rel=1e-12)
