"""ItemKNN: cosine between item columns of the train matrix, the nearest neighbours of each scored item.

s_ui = sum of cos(h, i) over the items h of the user's history that are among the k nearest neighbours of i
(Sarwar et al., "Item-based collaborative filtering recommendation algorithms", WWW 2001).
"""

from __future__ import annotations

import numpy as np

from fedvlr_jax.baselines.base import Baseline, exact_parts, score_item_to_item, train_matrix
from fedvlr_jax.types import Array, Dataset


def fit(dataset: Dataset, *, neighbours: int) -> Array:
    """The cosines S, float32 [i, p, i] (`exact_parts`); column i keeps the neighbours of item i, not itself.

    Items as similar as the k-th neighbour are all kept, so that the model does not depend on the order of
    item ids. Squared cosines are quotients of integers, hence equal whenever the cosines are: rounding
    neither makes nor breaks a tie.

    Args:
      dataset: its train rows are read.
      neighbours: k, at least 1; more than the other items means all of them.
    """
    matrix_ui = train_matrix(dataset)
    common_ii = (matrix_ui.T @ matrix_ui).astype(np.float64)
    count_i = common_ii.diagonal()
    square_ii = common_ii**2 / np.maximum(np.outer(count_i, count_i), 1)
    np.fill_diagonal(square_ii, 0)
    kth = max(dataset.num_items - neighbours, 0)
    limit_i = np.partition(square_ii, kth, axis=1)[:, kth]  # symmetric: rows are columns, and contiguous
    return exact_parts(np.sqrt(np.where(square_ii >= limit_i[None], square_ii, 0)))


item_knn = Baseline(fit=fit, score=score_item_to_item, grid=tuple({"neighbours": k} for k in (10, 20, 50, 100, 200)))
