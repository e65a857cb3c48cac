"""Content-EASE: collective EASE, in which items also have to be predicted from items with like features.

G = R^T R + a_v V V^T + a_c C C^T + l2 I on centred features of unit norm, P = G^-1, B = I - P diag(1 / diag P) and
s = R B (Jeunen, Van Balen & Goethals, "Closed-form models for collaborative filtering with side-information", 2020).
The grid holds the ratios a / l2, because factorisations can be shared that way (`ridge`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from fedvlr_jax.baselines.base import Hyper, HyperGrid, gram_matrix, table_baseline
from fedvlr_jax.baselines.content import allowed_points, centred_features
from fedvlr_jax.baselines.ridge import gram_factor, ridge_tables
from fedvlr_jax.types import Array, Dataset

RATIOS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
GRID = tuple(
    {"visual": visual, "text": text, "l2": float(l2)}
    for visual, text in itertools.product(RATIOS, RATIOS)
    if visual or text  # neither: that is EASE
    for l2 in (20, 50, 100, 200, 500)
)


def fit_grid(dataset: Dataset, grid: HyperGrid) -> Iterator[tuple[Hyper, Array]]:
    """Tables of scores for every ``visual`` (a_v / l2), ``text`` (a_c / l2) and ``l2`` of the grid.

    A set without one modality uses the other: only points that give it no weight are fitted.

    Raises:
      DataError: if the data set has no features at all.
    """
    features = centred_features(dataset)
    points = allowed_points(dataset, grid)
    return ridge_tables(gram_factor(gram_matrix(dataset)), dataset, features, points)


content_ease = table_baseline(fit_grid, GRID, needs_features=True)
