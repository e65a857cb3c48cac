"""Ranking metrics as exact expectations under uniformly random tie-breaking (float64, never rounded).

A held-out item with g strictly better candidates and a tie group of e items (itself included) has each of
the ranks g+1, ..., g+e with probability 1/e. With one relevant item per row, a metric with the gain f(rank)
at cut-off K is therefore  (1/e) sum_{r = g+1 .. min(g+e, K)} f(r).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fedvlr_jax.types import Ranks

CUTOFFS = (10, 20, 50)
MAIN_CUTOFF = CUTOFFS[-1]
VALID, TEST = 0, 1


def hit_rate(greater: np.ndarray, tied: np.ndarray, k: int) -> np.ndarray:
    """P(rank <= k) of each row, float64; `greater` and `tied` are integer arrays of one shape."""
    return _expected_gain(greater, tied, np.ones(k))


def ndcg(greater: np.ndarray, tied: np.ndarray, k: int) -> np.ndarray:
    """E[1 / log2(rank + 1); rank <= k] of each row, float64: NDCG@k with one relevant item."""
    return _expected_gain(greater, tied, 1 / np.log2(np.arange(2, k + 2)))


def mrr(greater: np.ndarray, tied: np.ndarray, k: int) -> np.ndarray:
    """E[1 / rank; rank <= k] of each row, float64: MRR@k with one relevant item."""
    return _expected_gain(greater, tied, 1 / np.arange(1, k + 1))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {"HR": hit_rate, "NDCG": ndcg, "MRR": mrr}
"""``metric(greater, tied, k)`` of each row, by name. A new row here is in every summary and every printed table."""

SUMMARY_ONLY = frozenset({"MRR"})
"""Metrics that summaries have and printed tables leave out."""

SELECTION_METRIC = f"NDCG@{MAIN_CUTOFF}"
"""The validation metric that rounds, epochs and hyper-parameters are chosen by."""


def printed_metrics(*cutoffs: int) -> tuple[str, ...]:
    """The metrics of printed tables at these cut-offs, such as "HR@50", in the order of `METRICS`."""
    return tuple(f"{name}@{k}" for k in cutoffs for name in METRICS if name not in SUMMARY_ONLY)


def main_metrics() -> tuple[str, ...]:
    """The metrics of printed tables at `MAIN_CUTOFF`."""
    return printed_metrics(MAIN_CUTOFF)


def metric_values(metric: str, greater: np.ndarray, tied: np.ndarray) -> np.ndarray:
    """A metric such as "NDCG@50" of each row, float64; `greater` and `tied` are integer arrays of one shape."""
    name, _, k = metric.partition("@")
    return METRICS[name](greater, tied, int(k))


def warm_items(train_item: np.ndarray, num_items: int) -> np.ndarray:
    """bool [i]: whether an item occurs in the train rows (``train_item``, int [rows])."""
    return np.bincount(train_item, minlength=num_items) > 0


def row_values(ranks: Ranks, metric: str, *, split: int = TEST) -> np.ndarray:
    """A metric such as "NDCG@50" of every user with a held-out item in `split`, in user order."""
    has_row = np.asarray(ranks.item[split]) >= 0
    greater, tied = np.asarray(ranks.greater[split]), np.asarray(ranks.tied[split])
    return metric_values(metric, greater[has_row], tied[has_row])


def seed_values(ranks: Sequence[Ranks], metric: str, *, split: int = TEST) -> np.ndarray:
    """`row_values` of several runs on one data set, float64 [s, u]; what intervals, tests and groups take.

    Raises:
      ValueError: if the runs were ranked on different held-out items.
    """
    first = np.asarray(ranks[0].item[split])
    if not all(np.array_equal(first, run.item[split]) for run in ranks):
        raise ValueError("expected runs on the same held-out items, found runs that differ")
    return np.stack([row_values(run, metric, split=split) for run in ranks])


def summarise(ranks: Ranks, warm_i: np.ndarray) -> dict[str, Any]:
    """All metrics of one evaluation.

    Args:
      ranks: the ranks of all users.
      warm_i: bool [i], items with train rows (`warm_items`).

    Returns:
      ``{"valid": m, "test": m, "valid_warm": m, "valid_cold": m, "test_warm": m, "test_cold": m, ...}`` with
      ``m = {"HR@10": ..., "NDCG@10": ..., "MRR@10": ..., "HR@20": ...}`` for all `CUTOFFS`: means over the
      users that have such a row, fractions in [0, 1], None for a group without rows. Further:
      ``tie_rate``, the share of test users whose held-out item is tied with another candidate (None without
      test users); ``constant_score_rate``, the share of all users whose candidates have one score;
      ``nonfinite_users``, the number of users with candidates whose score was not finite.
    """
    item_tu, greater_tu, tied_tu = (np.asarray(x) for x in (ranks.item, ranks.greater, ranks.tied))
    warm_tu = np.asarray(warm_i, bool)[np.maximum(item_tu, 0)]
    summary: dict[str, Any] = {}
    for name, t in (("valid", VALID), ("test", TEST)):
        has_row = item_tu[t] >= 0
        groups = {"": has_row, "_warm": has_row & warm_tu[t], "_cold": has_row & ~warm_tu[t]}
        for suffix, group in groups.items():
            summary[name + suffix] = _means(greater_tu[t][group], tied_tu[t][group])
    is_tied = tied_tu[TEST][item_tu[TEST] >= 0] > 1
    summary["tie_rate"] = float(is_tied.mean()) if is_tied.size else None
    summary["constant_score_rate"] = float(np.mean(ranks.constant))
    summary["nonfinite_users"] = int(np.count_nonzero(ranks.nonfinite))
    return summary


def _means(greater: np.ndarray, tied: np.ndarray) -> dict[str, float | None]:
    """Every metric at every cut-off, averaged over the rows of one group."""
    return {
        f"{name}@{k}": float(metric(greater, tied, k).mean()) if greater.size else None
        for k in CUTOFFS
        for name, metric in METRICS.items()
    }


def _expected_gain(greater: np.ndarray, tied: np.ndarray, gain_r: np.ndarray) -> np.ndarray:
    """(1/e) times the sum of the gains at ranks g+1 .. min(g+e, K), where ``gain_r`` is [K] from rank 1."""
    total_r = np.concatenate([[0.0], np.cumsum(gain_r, dtype=np.float64)])
    first = np.minimum(np.asarray(greater, np.int64), gain_r.size)
    last = np.minimum(np.asarray(greater, np.int64) + tied, gain_r.size)
    return (total_r[last] - total_r[first]) / tied
