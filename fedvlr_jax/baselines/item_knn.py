"""ItemKNN: cosine between item columns of the train matrix, the nearest neighbours of each scored item.

s_ui = sum of cos(h, i) over the items h of the user's history that are among the k nearest neighbours of i
(Sarwar et al., "Item-based collaborative filtering recommendation algorithms", WWW 2001).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fedvlr_jax.baselines.base import Hyper, HyperGrid, gram_matrix, score_table, table_baseline
from fedvlr_jax.baselines.neighbours import neighbour_scores
from fedvlr_jax.types import Array, Dataset


def fit_grid(dataset: Dataset, grid: HyperGrid) -> Iterator[tuple[Hyper, Array]]:
    """Tables of scores for every ``neighbours`` (k) of the grid; the cosines are shared.

    Squared cosines are quotients of integers, hence equal whenever the cosines are: rounding neither makes nor
    breaks a tie between neighbours.
    """
    common_ii = gram_matrix(dataset)
    count_i = common_ii.diagonal().copy()
    common_ii *= common_ii
    common_ii /= np.maximum(np.outer(count_i, count_i), 1)
    cosine_ii = np.sqrt(common_ii, out=common_ii)
    found = neighbour_scores(dataset, cosine_ii, [hyper["neighbours"] for hyper in grid])
    for hyper, (_, score_ui) in zip(grid, found, strict=True):
        yield hyper, score_table(score_ui)


item_knn = table_baseline(fit_grid, ({"neighbours": k} for k in (10, 20, 50, 100, 200)), printed=True)
