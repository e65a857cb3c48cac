"""Ranking metrics as exact expectations under uniformly random tie-breaking (float64, never rounded).

A held-out item with g strictly better candidates and a tie group of e items (itself included) has each of
the ranks g+1, ..., g+e with probability 1/e. With one relevant item per row, a metric with the gain f(rank)
at cut-off K is therefore  (1/e) sum_{r = g+1 .. min(g+e, K)} f(r).

A user may have several held-out rows in a split. Every metric then has a value for each row; a user's value is the
mean over its rows, and the metric is the mean over users. Two kinds differ in the list that a row is ranked in:

* `METRICS` rank a row on its own: the user's other held-out rows of that split are right answers too, and are left
  out of its list. A perfect model has 1.
* `SET_METRICS` take all rows of the user as the relevant set of one list, in which they compete for the first ranks.

With one row a user nothing is left out, Recall is HR, Precision is HR / k and MAP is MRR.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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


class SetRows(NamedTuple):
    """Held-out rows as members of their users' relevant sets; int arrays [rows].

    Attributes:
      greater, tied: as of `types.Ranks`, other rows of the user included.
      above: rows of the same user with a strictly better score.
      alike: rows of the same user with this score, itself included.
      size: rows of the same user.
    """

    greater: np.ndarray
    tied: np.ndarray
    above: np.ndarray
    alike: np.ndarray
    size: np.ndarray


def recall(rows: SetRows, k: int) -> np.ndarray:
    """P(rank <= k) of each row, float64: the mean over a user's rows is the expected share of them in the first k."""
    return hit_rate(rows.greater, rows.tied, k)


def precision(rows: SetRows, k: int) -> np.ndarray:
    """The share of each row in Precision@k, float64: the mean over a user's rows is E[those in the first k] / k."""
    return hit_rate(rows.greater, rows.tied, k) * rows.size / k


def average_precision(rows: SetRows, k: int) -> np.ndarray:
    """The share of each row in AP@k, float64: the mean over a user's rows is E[AP@k], the mean over users MAP@k.

    AP@k = (1 / min(k, size)) sum_{r <= k} rel(r) hits(r) / r, where hits(r) counts the relevant items up to rank r.
    Let a tie group have n items, m of them relevant, behind g better items, a of them relevant. Each of the m is at
    its x-th place with probability 1 / n, and then E[hits] = a + 1 + (x - 1) (m - 1) / (n - 1).
    """
    harmonic_r = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, k + 1))])
    first = np.minimum(rows.greater.astype(np.int64), k)
    last = np.minimum(rows.greater.astype(np.int64) + rows.tied, k)
    inverse = harmonic_r[last] - harmonic_r[first]  # sum of 1 / rank over the places of the group up to k
    among = (rows.alike - 1) / np.maximum(rows.tied - 1, 1)
    # sum of (x - 1) / rank over the same places, since x - 1 = rank - (g + 1)
    inside = (last - first) - (rows.greater + 1.0) * inverse
    return ((rows.above + 1) * inverse + among * inside) / rows.tied * rows.size / np.minimum(rows.size, k)


METRICS: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {"HR": hit_rate, "NDCG": ndcg, "MRR": mrr}
"""``metric(greater, tied, k)`` of each row, by name. A new row here is in every summary and every printed table."""

SET_METRICS: dict[str, Callable[[SetRows, int], np.ndarray]] = {
    "Recall": recall,
    "Precision": precision,
    "MAP": average_precision,
}
"""``metric(rows, k)`` of each row, by name; reported where some user has several held-out rows."""

SUMMARY_ONLY = frozenset({"MRR"})
"""Metrics that summaries have and printed tables leave out."""

SELECTION_METRIC = f"NDCG@{MAIN_CUTOFF}"
"""The validation metric that rounds, epochs and hyper-parameters are chosen by."""


def printed_metrics(*cutoffs: int) -> tuple[str, ...]:
    """The metrics of printed tables at these cut-offs, such as "HR@50", in the order of `METRICS`."""
    return tuple(f"{name}@{k}" for k in cutoffs for name in METRICS if name not in SUMMARY_ONLY)


def set_metrics(several: bool, *cutoffs: int) -> tuple[str, ...]:
    """`SET_METRICS` at these cut-offs, such as "MAP@50"; none unless some user has several rows."""
    return tuple(f"{name}@{k}" for k in cutoffs for name in SET_METRICS) if several else ()


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


def row_users(ranks: Ranks, *, split: int = TEST) -> np.ndarray:
    """int [rows], the users of the held-out rows of `split`, in ascending order."""
    place = np.flatnonzero(np.asarray(ranks.item[split]) >= 0)
    return place if ranks.user is None else np.asarray(ranks.user)[place]


def row_values(ranks: Ranks, metric: str, *, split: int = TEST) -> np.ndarray:
    """A metric such as "NDCG@50" or "MAP@50" of every held-out row of `split`, float64 [rows], user after user."""
    return _values(_set_rows(ranks, split), metric)


def user_means(values: np.ndarray, user: np.ndarray) -> np.ndarray:
    """The mean over each user's rows, of users with rows, in ascending order, float64 [..., u].

    Args:
      values: [..., rows].
      user: int [rows], their users, ascending.
    """
    first = np.flatnonzero(np.diff(user, prepend=-1))
    if len(first) == len(user):
        return values
    return np.add.reduceat(values, first, axis=-1) / np.diff(first, append=len(user))


def user_values(ranks: Ranks, metric: str, *, split: int = TEST) -> np.ndarray:
    """A metric of every user with held-out rows in `split`, the mean over them, in user order; float64 [u]."""
    return user_means(row_values(ranks, metric, split=split), row_users(ranks, split=split))


def seed_values(ranks: Sequence[Ranks], metric: str, *, split: int = TEST) -> np.ndarray:
    """`row_values` of several runs on one data set, float64 [s, rows].

    Raises:
      ValueError: if the runs were ranked on different held-out items.
    """
    first = np.asarray(ranks[0].item[split])
    if not all(np.array_equal(first, run.item[split]) for run in ranks):
        raise ValueError("expected runs on the same held-out items, found runs that differ")
    return np.stack([row_values(run, metric, split=split) for run in ranks])


def seed_user_values(
    ranks: Sequence[Ranks], metric: str, *, split: int = TEST, inside: np.ndarray | None = None
) -> np.ndarray:
    """`user_values` of several runs on one data set, float64 [s, u]; what intervals and tests take.

    Args:
      ranks, metric, split: as of `seed_values`.
      inside: bool [rows], the rows that count; users without such a row are left out. None = all.

    Raises:
      ValueError: as `seed_values`.
    """
    values_sh, user_h = seed_values(ranks, metric, split=split), row_users(ranks[0], split=split)
    return user_means(values_sh, user_h) if inside is None else user_means(values_sh[:, inside], user_h[inside])


def summarise(ranks: Ranks, warm_i: np.ndarray) -> dict[str, Any]:
    """All metrics of one evaluation.

    Args:
      ranks: the ranks of all users.
      warm_i: bool [i], items with train rows (`warm_items`).

    Returns:
      ``{"valid": m, "test": m, "valid_warm": m, "valid_cold": m, "test_warm": m, "test_cold": m, ...}`` with
      ``m = {"HR@10": ..., "NDCG@10": ..., "MRR@10": ..., "HR@20": ...}`` for all `CUTOFFS`: means over a user's rows
      of the group, then over the users that have such a row, fractions in [0, 1], None for a group without rows;
      with ``Recall@10``, ``Precision@10``, ``MAP@10``, ... where some user has several. Further:
      ``tie_rate``, the share of test rows whose item is tied with another candidate (None without
      test rows); ``constant_score_rate``, the share of all users whose candidates have one score;
      ``nonfinite_users``, the number of users with candidates whose score was not finite.
    """
    item_th, tied_th = np.asarray(ranks.item), np.asarray(ranks.tied)
    names = [f"{name}@{k}" for k in CUTOFFS for name in METRICS]
    names += set_metrics(ranks.user is not None, *CUTOFFS)
    summary: dict[str, Any] = {}
    for split, t in (("valid", VALID), ("test", TEST)):
        rows, user = _set_rows(ranks, t), row_users(ranks, split=t)
        values = {name: _values(rows, name) for name in names}
        warm = np.asarray(warm_i, bool)[item_th[t][item_th[t] >= 0]]
        for suffix, group in {"": np.ones_like(warm), "_warm": warm, "_cold": ~warm}.items():
            summary[split + suffix] = {name: _mean(x[group], user[group]) for name, x in values.items()}
    is_tied = tied_th[TEST][item_th[TEST] >= 0] > 1
    summary["tie_rate"] = float(is_tied.mean()) if is_tied.size else None
    summary["constant_score_rate"] = float(np.mean(ranks.constant))
    summary["nonfinite_users"] = int(np.count_nonzero(ranks.nonfinite))
    return summary


def _set_rows(ranks: Ranks, split: int) -> SetRows:
    """The held-out rows of a split, in the order of users. Rows of a user with one score have one `greater`."""
    has_row, user = np.asarray(ranks.item[split]) >= 0, row_users(ranks, split=split)
    greater, tied = (np.asarray(x[split])[has_row] for x in (ranks.greater, ranks.tied))
    if ranks.user is None:
        one = np.ones(len(user), np.int64)
        return SetRows(greater, tied, 0 * one, one, one)
    order = np.lexsort((greater, user))
    new_user = np.diff(user[order], prepend=-1) != 0
    new_group = new_user | (np.diff(greater[order], prepend=-1) != 0)
    above, alike, size = (np.empty(len(user), np.int64) for _ in range(3))
    start_of_user, size[order] = _runs(new_user)
    start_of_group, alike[order] = _runs(new_group)
    above[order] = start_of_group - start_of_user
    return SetRows(greater, tied, above, alike, size)


def _runs(is_first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every element the position at which its run begins, and the length of the run."""
    first, run = np.flatnonzero(is_first), np.cumsum(is_first) - 1
    return first[run], np.diff(first, append=len(is_first))[run]


def _values(rows: SetRows, metric: str) -> np.ndarray:
    name, _, k = metric.partition("@")
    if name in SET_METRICS:
        return SET_METRICS[name](rows, int(k))
    return metric_values(metric, rows.greater - rows.above, rows.tied - (rows.alike - 1))


def _mean(values: np.ndarray, user: np.ndarray) -> float | None:
    """The mean over users of the means over their rows; None without rows."""
    return float(user_means(values, user).mean()) if values.size else None


def _expected_gain(greater: np.ndarray, tied: np.ndarray, gain_r: np.ndarray) -> np.ndarray:
    """(1/e) times the sum of the gains at ranks g+1 .. min(g+e, K), where ``gain_r`` is [K] from rank 1."""
    total_r = np.concatenate([[0.0], np.cumsum(gain_r, dtype=np.float64)])
    first = np.minimum(np.asarray(greater, np.int64), gain_r.size)
    last = np.minimum(np.asarray(greater, np.int64) + tied, gain_r.size)
    return (total_r[last] - total_r[first]) / tied
