"""The last train items of every client, held back: what methods are fitted to and chosen by inside a run.

No validation or test row is read. Of its n train items a client holds back m = min(3, n // 3), at least one if n > 1:
the newest, or drawn ones where there are no times. The rest is an inner data set with ages of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from fedvlr_jax.data.histories import split_by_user
from fedvlr_jax.evaluation.metrics import ndcg
from fedvlr_jax.types import Dataset

MOST = 3
"""Items that a client holds back at most."""

CUTOFF = 50
"""Of the NDCG that choices go by."""
CHUNK = 512
"""Clients whose scores are held at once."""


class HeldBack(NamedTuple):
    """A data set without the held-back items, in which users may be empty, and int32 [u, m], these items or -1."""

    inner: Dataset
    target_um: np.ndarray


def hold_back(dataset: Dataset, seed: int = 0) -> HeldBack:
    """Splits the train rows; without times `seed` draws them, and items of one age are always drawn the same way."""
    size, rng = len(dataset.train_item), np.random.default_rng(seed if dataset.train_age is None else 0)
    age_r = np.zeros(size, np.int32) if dataset.train_age is None else dataset.train_age
    order_r = np.lexsort((rng.random(size), age_r, dataset.train_user))  # client after client, newest first
    length_u = np.bincount(dataset.train_user, minlength=dataset.num_users)
    start_u = np.cumsum(length_u) - length_u
    place_r = np.empty(size, np.int64)
    place_r[order_r] = np.arange(size) - start_u[dataset.train_user[order_r]]
    held_u = np.where(length_u > 1, np.clip(length_u // 3, 1, MOST), 0)
    held_r = place_r < held_u[dataset.train_user]
    target_um = np.full((dataset.num_users, MOST), -1, np.int32)
    target_um[dataset.train_user[held_r], place_r[held_r]] = dataset.train_item[held_r]
    inner = dataclasses.replace(
        dataset,
        train_user=dataset.train_user[~held_r],
        train_item=dataset.train_item[~held_r],
        train_age=None,
    )
    if dataset.train_age is not None:
        parts = split_by_user(inner, age_r[~held_r])
        ages = [np.searchsorted(np.sort(age), age, side="left") for age in parts]
        inner = dataclasses.replace(inner, train_age=np.concatenate(ages).astype(np.int32))
    return HeldBack(inner, target_um)


def mean_ndcg(scores_ui: np.ndarray, held: HeldBack, alone: bool = False) -> float:
    """What a client reports of a candidate, one number, as the server learns it: the mean over clients.

    Args:
      scores_ui: [u, i], of the inner histories; those of items in them are not read.
      held: the held-back items; a client's number is the mean over its own.
      alone: the other items of a client are no candidates when one of them is ranked, as in `evaluation.metrics`;
        else they compete.
    """
    return float(mean_ndcgs(lambda begin, end: [scores_ui[begin:end]], held, alone)[0])


def mean_ndcgs(
    scores: Callable[[int, int], Iterable[np.ndarray]], held: HeldBack, alone: bool = False
) -> list[float]:
    """`mean_ndcg` of several kinds of scores that are formed for some clients at a time.

    Args:
      scores: ``(begin, end) -> [c, i] of each kind`` of the clients ``begin <= u < end``.
      held, alone: as for `mean_ndcg`.
    """
    num_users, has_u = held.inner.num_users, (held.target_um >= 0).any(axis=1)
    chunks = [(begin, min(begin + CHUNK, num_users)) for begin in range(0, num_users, CHUNK)]
    parts = [[_own_ndcg(found_ci, held, alone, *chunk) for found_ci in scores(*chunk)] for chunk in chunks]
    own = [np.concatenate(own_c)[has_u] for own_c in zip(*parts, strict=True)]
    return [float(own_u.mean()) if own_u.size else 0.0 for own_u in own]


def _own_ndcg(scores_ci: np.ndarray, held: HeldBack, alone: bool, begin: int, end: int) -> np.ndarray:
    """[c], the mean of each client over its held-back items; 0 without any."""
    found_ci = np.where(np.isfinite(scores_ci), scores_ci, -np.inf)
    first, last = np.searchsorted(held.inner.train_user, (begin, end))
    found_ci[held.inner.train_user[first:last] - begin, held.inner.train_item[first:last]] = -np.inf
    target_cm, total_c = held.target_um[begin:end], np.zeros(end - begin)
    at_cm = np.take_along_axis(found_ci, np.maximum(target_cm, 0), axis=1)
    if alone:
        row_t, m_t = np.nonzero(target_cm >= 0)
        found_ci[row_t, target_cm[row_t, m_t]] = -np.inf
    for item_c, target_c1 in zip(target_cm.T, at_cm.T[..., None], strict=True):
        greater_c = (found_ci > target_c1).sum(axis=1)
        tied_c = (found_ci == target_c1).sum(axis=1) + alone  # itself, where it is no candidate
        total_c += np.where(item_c >= 0, ndcg(greater_c, tied_c, CUTOFF), 0)
    return total_c / np.maximum((target_cm >= 0).sum(axis=1), 1)
