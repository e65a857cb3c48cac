"""The settings of the item-to-item prior, chosen inside a run by the NDCG on held-back train items.

One setting after the other, from what a run starts with: a value stays unless another is better on the items that
clients hold back (`held_back.py`). Each can be switched off: the order of time (`reach`, `decay` and `next_weight`
0) and features in the Gram matrix (`content` 0). A client adds one number for each candidate to a secure sum, and
its block once for each pair of exponents. Where times mean nothing, the newest items are a poor sample to choose by:
a run therefore chooses once more as without times (`without_order`). What clients hold back leaves fewer rows to form
sums of, and settings that suit those need not suit all: so EASE, with features in its Gram matrix or without, whose
settings are chosen by validation as those of FedEASE are (`choose_ease`), stands beside the two. Validation decides.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from fedvlr_jax.baselines.base import gram_matrix, train_matrix
from fedvlr_jax.baselines.ridge import gram_factor, ridge_scores
from fedvlr_jax.federated import prior
from fedvlr_jax.federated.held_back import HeldBack, hold_back, mean_ndcg
from fedvlr_jax.types import Dataset

CANDIDATES: dict[str, tuple[float, ...]] = {
    "reach": (0.5, 0.0),
    "ridge": (30.0, 100.0, 200.0, 400.0),
    "decay": (0.75, 0.0),
    "next_weight": (4.0, 1.0, 0.0),
    "ridge_next": (100.0, 300.0, 1000.0),
    "content": (0.0, 0.03, 0.1, 0.3),
    "shrinkage": (0.2, 1.0, 5.0),
}
"""Values that are tried, in the order in which settings are chosen."""

EASE_CANDIDATES: dict[str, tuple[float, ...]] = {
    "ridge": (1.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0),
    "content": (0.0, 0.01, 0.03, 0.1, 0.3, 1.0),
    "shrinkage": (0.0, 0.2, 1.0, 5.0),
}
"""Values that are tried for EASE; without shrinkage it is EASE itself."""

OF_ORDER = ("reach", "decay", "next_weight", "ridge_next")
"""Settings that mean nothing without times."""


def without_order(dataset: Dataset, start: prior.PriorSettings) -> tuple[Dataset, prior.PriorSettings]:
    """A data set without times, and settings that read none."""
    return dataclasses.replace(dataset, train_age=None), start._replace(reach=0.0, decay=0.0, next_weight=0.0)


def choose_prior(
    dataset: Dataset, features: Sequence[np.ndarray | None], start: prior.PriorSettings
) -> prior.PriorSettings:
    """The settings that suit a data set; no validation or test row is read.

    Args:
      dataset: its train rows.
      features: [i, dv] and [i, dc] with unit-norm rows, None where absent.
      start: what is kept unless something is better.
    """
    held = hold_back(dataset)
    inner = held.inner

    @functools.cache
    def sums_at(reach: float, decay: float) -> prior.Sums:
        return prior.sum_clients(inner, start._replace(reach=reach, decay=decay))

    @functools.cache
    def similar_at(reach: float, decay: float, ridge: float, content: float) -> np.ndarray:
        gram_ii = sums_at(reach, decay).similar_ii
        return prior.ease(gram_ii + ridge * content * prior.feature_gram(features, len(gram_ii)), ridge)

    @functools.cache
    def next_at(reach: float, decay: float, ridge: float) -> np.ndarray:
        return prior.next_map(sums_at(reach, decay), ridge)

    @functools.cache
    def blend_at(shrinkage: float) -> np.ndarray:
        count_i = sums_at(start.reach, start.decay).count_i
        return prior.make_blend(count_i, features, start._replace(shrinkage=shrinkage))

    def quality(settings: prior.PriorSettings) -> float:
        reach, decay = settings.reach, settings.decay
        weight_ii = similar_at(reach, decay, settings.ridge, settings.content)
        if settings.next_weight and inner.train_age is not None:
            weight_ii = weight_ii + settings.next_weight * next_at(reach, decay, settings.ridge_next)
        scores_ui = prior.weighed_histories(inner, settings) @ weight_ii  # then the blend: two products of few rows
        return mean_ndcg(scores_ui @ blend_at(settings.shrinkage).T, held)

    chosen, best = start, quality(start)
    for field, values in CANDIDATES.items():
        if inner.train_age is None and field in OF_ORDER:
            continue
        for settings in (chosen._replace(**{field: value}) for value in values):
            if settings != chosen and (found := quality(settings)) > best:
                chosen, best = settings, found
    return chosen


def choose_ease(
    held: HeldBack, features: Sequence[np.ndarray | None], start: prior.PriorSettings
) -> prior.PriorSettings:
    """EASE with the ridge and the strength of features, and then the shrinkage, that rank some items best.

    Args:
      held: histories, and the items to rank: of validation, or held back.
      features: as for `choose_prior`.
      start: as of `without_order`; what is no setting of EASE stays.
    """
    dataset, contents = held.inner, EASE_CANDIDATES["content"]
    feature_gram_ii = prior.feature_gram(features, dataset.num_items)
    factors = {"features": gram_factor(feature_gram_ii).T} if feature_gram_ii.any() else {}
    grid = tuple(
        {"l2": ridge, "features": content}
        for content in (contents if factors else contents[:1])
        for ridge in EASE_CANDIDATES["ridge"]
    )
    best, chosen, scores_ui = -1.0, start, np.zeros(0)
    for point, found_ui in ridge_scores(gram_factor(gram_matrix(dataset)), train_matrix(dataset), factors, grid):
        if (quality := mean_ndcg(found_ui, held, alone=True)) > best:
            best, scores_ui = quality, found_ui
            chosen = start._replace(ridge=point["l2"], content=point["features"])
    count_i = np.bincount(dataset.train_item, minlength=dataset.num_items)

    def shrunk(shrinkage: float) -> float:
        blend_ii = prior.make_blend(count_i, features, chosen._replace(shrinkage=shrinkage))
        return mean_ndcg(scores_ui @ blend_ii.T, held, alone=True)

    return chosen._replace(shrinkage=max(EASE_CANDIDATES["shrinkage"], key=shrunk))
