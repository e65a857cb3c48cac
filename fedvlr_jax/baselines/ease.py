"""EASE: the linear item-item model in closed form (Steck, "Embarrassingly shallow autoencoders for sparse
data", WWW 2019, equation 8): P = (R^T R + l2 I)^-1, B = I - P diag(1 / diag P), s = R B.
"""

from __future__ import annotations

from collections.abc import Iterator

from fedvlr_jax.baselines.base import Hyper, HyperGrid, gram_matrix, table_baseline
from fedvlr_jax.baselines.ridge import gram_factor, ridge_tables
from fedvlr_jax.types import Array, Dataset

GRID = tuple({"l2": float(l2)} for l2 in (1, 5, 10, 20, 50, 100, 200, 500, 1000))


def fit_grid(dataset: Dataset, grid: HyperGrid) -> Iterator[tuple[Hyper, Array]]:
    """Tables of scores for every ridge penalty ``l2`` > 0 of the grid."""
    return ridge_tables(gram_factor(gram_matrix(dataset)), dataset, {}, grid)


ease = table_baseline(fit_grid, GRID, printed=True)
