"""Measures of router weights w_uj, of their reliability, and of what a choice for each user is worth (NumPy)."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from fedvlr_jax.types import Dataset

DOMINANT = 0.9  # a view with more weight than this leaves nothing to fuse


class WeightSummary(NamedTuple):
    """Router weights over users.

    Attributes:
      mean_j, spread_j: mean and standard deviation over users.
      entropy: mean over users of the entropy of w_u, as a share of log |G|: 1 where all weights are equal.
      between: entropy of the mean weights minus the mean entropy, as a share of log |G|: 0 where all users have the
        same weights, 1 where each has one view and all views have equally many users.
      dominated: share of users with a view above `DOMINANT`.
    """

    mean_j: list[float]
    spread_j: list[float]
    entropy: float
    between: float
    dominated: float


def summarise_weights(w_uj: np.ndarray) -> WeightSummary:
    """The summary of weights [u, j] that sum to one over j."""
    w_uj = np.asarray(w_uj, np.float64)
    entropy = float(relative_entropy(w_uj).mean())
    between = float(relative_entropy(w_uj.mean(axis=0, keepdims=True))[0]) - entropy
    dominated = float((w_uj.max(axis=1) > DOMINANT).mean())
    return WeightSummary(w_uj.mean(axis=0).tolist(), w_uj.std(axis=0).tolist(), entropy, between, dominated)


def relative_entropy(w_uj: np.ndarray) -> np.ndarray:
    """Entropy of each row as a share of log |G|, [u]; 0 with one view."""
    log_uj = np.log(np.where(w_uj > 0, w_uj, 1.0))
    return -(w_uj * log_uj).sum(axis=1) / max(np.log(w_uj.shape[1]), 1e-12)


def of_another(w_uj: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """The weights of another user for every user, [u, j]: the next one on a random circle through all users."""
    circle_u = np.random.default_rng(seed).permutation(len(w_uj))
    other_u = np.empty_like(circle_u)
    other_u[circle_u] = np.roll(circle_u, 1)
    return w_uj[other_u]


def half_histories(dataset: Dataset, *, seed: int = 0) -> tuple[Dataset, Dataset]:
    """The data set with either half of every train history, drawn at random; a history of one row is in both."""
    rows = len(dataset.train_user)
    order = np.lexsort((np.random.default_rng(seed).random(rows), dataset.train_user))
    length_u = np.bincount(dataset.train_user, minlength=dataset.num_users)
    start_u = np.cumsum(length_u) - length_u
    place = np.empty(rows, np.int64)
    place[order] = np.arange(rows) - start_u[dataset.train_user[order]]
    single = length_u[dataset.train_user] == 1

    def half(parity: int) -> Dataset:
        keep = (place % 2 == parity) | single
        return dataclasses.replace(
            dataset, train_user=dataset.train_user[keep], train_item=dataset.train_item[keep], train_age=None
        )

    return half(0), half(1)


def reliability(first_uj: np.ndarray, second_uj: np.ndarray) -> list[float | None]:
    """How well two halves of a history agree on the weight of each view, [j]: Pearson's r over users, stepped up.

    It says how far a weight depends on which rows are read. A client's parameters were learned from both halves:
    where they give its weights whatever is read, the agreement is perfect.

    The step to the whole history is that of Spearman and Brown, 2 r / (1 + r). None where a weight does not vary.
    """
    found: list[float | None] = []
    for a_u, b_u in zip(np.asarray(first_uj, float).T, np.asarray(second_uj, float).T, strict=True):
        if min(a_u.std(), b_u.std()) < 1e-9:
            found.append(None)
            continue
        r = float(np.corrcoef(a_u, b_u)[0, 1])
        found.append(2 * r / (1 + r) if r > -1 else None)
    return found


class OracleGain(NamedTuple):
    """What choosing one of k weightings for every user is worth, means over users of one metric.

    Attributes:
      biased: the best for each user on the very row that counts: an upper bound that noise alone would raise.
      chosen: the best for each user on its validation row, counted on its test row.
      best_for_all: the one weighting that is best on validation for all users, counted on test.
    """

    biased: float
    chosen: float
    best_for_all: float


def oracle_gain(valid_ku: np.ndarray, test_ku: np.ndarray) -> OracleGain:
    """The gain from the metric of k weightings for users with both held-out rows, [k, u] each.

    Among weightings that are equally good for a user, the one that is best for all is taken.
    """
    overall_k = valid_ku.mean(axis=1)
    best = int(overall_k.argmax())
    order_k = np.argsort(-overall_k, kind="stable")
    chosen_u = order_k[valid_ku[order_k].argmax(axis=0)]
    users = np.arange(valid_ku.shape[1])
    return OracleGain(
        float(test_ku.max(axis=0).mean()), float(test_ku[chosen_u, users].mean()), float(test_ku[best].mean())
    )
