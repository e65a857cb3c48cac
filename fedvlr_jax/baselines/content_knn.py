"""Content-kNN: ItemKNN with the cosine of centred features in place of the cosine of train columns.

The similarity of two items is the weighted mean of their visual and their textual cosine. It reads histories, but
learns nothing from other users: what it reaches is what the features alone can give.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from fedvlr_jax.baselines.base import Hyper, HyperGrid, score_table, table_baseline
from fedvlr_jax.baselines.content import allowed_points, centred_features
from fedvlr_jax.baselines.neighbours import neighbour_scores
from fedvlr_jax.types import Array, Dataset

_UNIT = 2.0**-40  # cosines closer than that are equal; float64 errs by 2^-50


def fit_grid(dataset: Dataset, grid: HyperGrid) -> Iterator[tuple[Hyper, Array]]:
    """Tables of scores for every weight ``visual``, ``text`` and every ``neighbours`` (k) of the grid.

    A set without one modality uses the other: only points that give it no weight are fitted.

    Raises:
      DataError: if the data set has no features at all.
    """
    cosines = {name: _cosine(feature_if) for name, feature_if in centred_features(dataset).items()}
    points = allowed_points(dataset, grid)
    for (visual, text), group in itertools.groupby(points, key=lambda hyper: (hyper["visual"], hyper["text"])):
        group = tuple(group)
        mixed_ii = sum(weight * cosines[name] for name, weight in (("visual", visual), ("text", text)) if weight)
        similarity_ii = np.rint(mixed_ii / _UNIT) * _UNIT
        found = neighbour_scores(dataset, similarity_ii, [hyper["neighbours"] for hyper in group])
        for hyper, (_, score_ui) in zip(group, found, strict=True):
            yield hyper, score_table(score_ui)


def _cosine(feature_if: np.ndarray) -> np.ndarray:
    """float64 [i, i]; an item whose features are the mean is similar to none."""
    norm_i = np.linalg.norm(feature_if, axis=1)
    unit_if = feature_if / np.where(norm_i > 0, norm_i, 1)[:, None]
    return unit_if @ unit_if.T


content_knn = table_baseline(
    fit_grid,
    (
        {"visual": visual, "text": 1 - visual, "neighbours": k}
        for visual in (0.0, 0.25, 0.5, 0.75, 1.0)
        for k in (10, 20, 50, 100, 200)
    ),
    needs_features=True,
    printed=True,
)
