"""EASE: the linear item-item model in closed form (Steck, "Embarrassingly shallow autoencoders for sparse
data", WWW 2019, equation 8): P = (R^T R + l2 I)^-1, B = I - P diag(1 / diag P), s = R B.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve_triangular

from fedvlr_jax.baselines.base import Baseline, exact_parts, score_item_to_item, train_matrix
from fedvlr_jax.types import Array, Dataset


def fit(dataset: Dataset, *, l2: float) -> Array:
    """The weights B with a zero diagonal, float32 [i, p, i] (`exact_parts`); `l2` > 0 is the ridge penalty."""
    weight_ii = _inverse(train_matrix(dataset), l2)
    weight_ii /= -weight_ii.diagonal().copy()
    np.fill_diagonal(weight_ii, 0)
    return exact_parts(weight_ii)


def _inverse(matrix_ui: np.ndarray, l2: float) -> np.ndarray:
    """(R^T R + l2 I)^-1 up to a factor, which cancels in B; float64 [i, i], through the smaller side of R.

    With fewer users than items, by Woodbury: l2 (R^T R + l2 I)^-1 = I - R^T (R R^T + l2 I)^-1 R.
    """
    num_users, num_items = matrix_ui.shape
    if num_items <= num_users:
        half_ii = _whiten(matrix_ui.T @ matrix_ui, l2, np.eye(num_items))
        return half_ii.T @ half_ii
    half_ui = _whiten(matrix_ui @ matrix_ui.T, l2, matrix_ui)
    inverse_ii = half_ui.T @ half_ui
    np.negative(inverse_ii, out=inverse_ii)
    inverse_ii[np.diag_indices(num_items)] += 1
    return inverse_ii


def _whiten(gram_xx: np.ndarray, l2: float, right_xi: np.ndarray) -> np.ndarray:
    """L^-1 right, where L L^T = gram + l2 I."""
    ridge_xx = gram_xx.astype(np.float64) + l2 * np.eye(len(gram_xx))
    return solve_triangular(np.linalg.cholesky(ridge_xx), right_xi.astype(np.float64), lower=True)


ease = Baseline(
    fit=fit,
    score=score_item_to_item,
    grid=tuple({"l2": float(l2)} for l2 in (1, 5, 10, 20, 50, 100, 200, 500, 1000)),
)
