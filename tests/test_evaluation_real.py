"""On KU, a scorer that knows nothing: what breaking ties by item index reports, and what is true.

The two pairs of numbers that index-order tie-breaking gives are, to the digit, the best published KU results
(FCF + FedVLR 55.39/15.97, FedAvg + FedVLR 54.90/16.04): the reason why ranks here count ties.
"""

from __future__ import annotations

import jax
import numpy as np
import pytest
from ranking_oracle import load_real, lowest_index_ranks

from fedvlr_jax.data.buckets import make_buckets
from fedvlr_jax.evaluation import metrics, ranking


@pytest.fixture(scope="module")
def ku(ku_folder):
    return load_real(ku_folder)


@pytest.mark.parametrize(("masked_item", "hit", "gain"), [(None, 55.39, 15.97), (0, 54.90, 16.04)])
def test_lowest_index_first_turns_a_constant_into_the_published_result(ku, masked_item, hit, gain):
    masked_ui = np.zeros((ku.num_users, ku.num_items), bool)
    masked_ui[ku.train_user, ku.train_item] = True
    if masked_item is not None:
        masked_ui[:, masked_item] = True
    ranks = lowest_index_ranks(np.zeros(masked_ui.shape), masked_ui, ku.test_item)
    gain_u = np.where(ranks <= 50, 1 / np.log2(ranks + 1), 0)
    assert (f"{100 * np.mean(ranks <= 50):.2f}", f"{100 * gain_u.mean():.2f}") == (f"{hit:.2f}", f"{gain:.2f}")


def test_the_same_constant_with_exact_ties(ku):
    rank = jax.jit(ranking.rank_all, static_argnames=("score", "chunk"))
    ranks = rank(
        lambda zero_i, chunk: zero_i[None] + np.zeros((chunk.user.shape[0], 1), np.float32),
        np.zeros(ku.num_items, np.float32),
        make_buckets(ku),
        np.stack([ku.valid_item, ku.test_item]),
        chunk=64,
    )
    summary = metrics.summarise(ranks, metrics.warm_items(ku.train_item, ku.num_items))
    assert (summary["tie_rate"], summary["constant_score_rate"], summary["nonfinite_users"]) == (1.0, 1.0, 0)
    assert summary["test"]["HR@50"] == pytest.approx(0.0929, abs=5e-5)
    assert summary["test"]["NDCG@50"] == pytest.approx(0.0240, abs=5e-5)
    train_length_u = np.bincount(ku.train_user)
    assert summary["test"]["HR@50"] == pytest.approx(np.mean(50 / (ku.num_items - train_length_u)), rel=1e-12)
