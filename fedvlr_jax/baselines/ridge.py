"""Linear item-item models with a zero diagonal over a grid of penalties, from the Gram matrix of the histories.

With G = R^T R + l2 M, M = I + sum over modalities m of rho_m F_m F_m^T, and P = G^-1, the weights are

    B = I - P diag(1 / diag P),        s = R B.

M = I is EASE (Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019, equation 8); features F_m
[i, d] make it collective EASE with the strength a_m = l2 rho_m (Jeunen, Van Balen & Goethals, "Closed-form models for
collaborative filtering with side-information", RecSys 2020).

A grid is cheap because no point factorises anything of size [i, i]. Let T [r, i] be a factor of the Gram matrix,
R^T R = T^T T with its rank r <= min(users, items), and K = M^-1. By Woodbury's identity

    l2 P = K - (T K)^T (l2 I + T K T^T)^-1 T K,

so that a point costs a factorisation of size r and a few products [u, r] x [r, i]. T K and diag K are shared by all
l2; and K changes with one modality by a matrix of rank d, whose spectrum is shared by all rho of that modality.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import scipy

from fedvlr_jax.baselines.base import Hyper, HyperGrid, score_table, train_matrix
from fedvlr_jax.types import Array, Dataset


class Kernel(NamedTuple):
    """What is needed of K = M^-1: ``rows_xi`` = X K for the stacked rows X [x, i], and ``diagonal_i`` = diag K."""

    rows_xi: np.ndarray
    diagonal_i: np.ndarray


def gram_factor(gram_ii: np.ndarray) -> np.ndarray:
    """T, float64 [r, i], with T^T T = gram: Cholesky with complete pivoting, which stops at the rank r.

    Args:
      gram_ii: float64 [i, i], symmetric and positive semi-definite.
    """
    upper_ii, pivot_i, rank, _ = scipy.linalg.lapack.dpstrf(gram_ii)
    factor_ri = np.zeros((rank, len(gram_ii)))
    factor_ri[:, pivot_i - 1] = np.triu(upper_ii)[:rank]
    return factor_ri


def ridge_tables(
    factor_ri: np.ndarray, dataset: Dataset, features: Mapping[str, np.ndarray], grid: HyperGrid
) -> Iterator[tuple[Hyper, Array]]:
    """`ridge_scores` of the histories of the ranked users as tables of scores (`base.score_table`)."""
    for point, score_ui in ridge_scores(factor_ri, train_matrix(dataset.ranked), features, grid):
        yield point, score_table(score_ui)


def ridge_scores(
    factor_ri: np.ndarray, history_ui: np.ndarray, features: Mapping[str, np.ndarray], grid: HyperGrid
) -> Iterator[tuple[Hyper, np.ndarray]]:
    """s = R B at every point of a grid.

    Args:
      factor_ri: float64 [r, i], T.
      history_ui: [u, i], R: the histories to score.
      features: [i, d] by modality; a point names the strength rho of each, 0 where it does not.
      grid: points ``{"l2": l2 > 0, modality: rho, ...}``; points that are equal in all but l2 should be neighbours,
        and likewise those that are equal in all but the last modality and l2.

    Yields:
      ``(point, s_ui)``, float64 [u, i]. With R = I these are the weights B.
    """
    rank, num_users = len(factor_ri), len(history_ui)
    start = Kernel(np.vstack([factor_ri, history_ui, *(x.T for x in features.values())]), np.ones(factor_ri.shape[1]))
    for points, kernel in _kernels(start, dict(features), grid):
        gram_xr = kernel.rows_xi[: rank + num_users] @ factor_ri.T
        right_ri = kernel.rows_xi[:rank]
        for point in points:
            lower_rr = np.linalg.cholesky(gram_xr[:rank] + point["l2"] * np.eye(rank))
            right = scipy.linalg.solve_triangular(lower_rr, right_ri, lower=True)
            left_ru = scipy.linalg.solve_triangular(lower_rr, gram_xr[rank:].T, lower=True)
            inverse_ui = kernel.rows_xi[rank : rank + num_users] - left_ru.T @ right  # l2 R P
            diagonal_i = kernel.diagonal_i - np.einsum("ri,ri->i", right, right)  # l2 diag P
            yield point, history_ui - inverse_ui / diagonal_i[None]


def _kernels(
    kernel: Kernel, features: dict[str, np.ndarray], points: Iterable[Hyper]
) -> Iterator[tuple[HyperGrid, Kernel]]:
    """The kernel of every group of points that share their strengths. The rows of X end with the F_m^T to come."""
    if not features:
        yield tuple(points), kernel
        return
    name, feature_if = next(iter(features.items()))
    rest = {other: x for other, x in features.items() if other != name}
    first = len(kernel.rows_xi) - sum(x.shape[1] for x in features.values())
    update = _Update.of(kernel, feature_if, first)
    for rho, group in itertools.groupby(points, key=lambda point: point.get(name, 0.0)):
        yield from _kernels(update.at(rho), rest, group)


class _Update(NamedTuple):
    """(K^-1 + rho F F^T)^-1 = K - Z diag(rho / (1 + rho e)) Z^T, where F^T K F = Q diag(e) Q^T and Z = K F Q."""

    kernel: Kernel  # rows without F^T
    along_xd: np.ndarray  # X Z
    half_di: np.ndarray  # Z^T
    size_d: np.ndarray  # e

    @classmethod
    def of(cls, kernel: Kernel, feature_if: np.ndarray, first: int) -> _Update:
        """`first`: where the rows F^T K begin in the kernel's rows."""
        last = first + feature_if.shape[1]
        row_di = kernel.rows_xi[first:last]
        size_d, turn_dd = np.linalg.eigh(row_di @ feature_if)
        kept_xi = np.delete(kernel.rows_xi, slice(first, last), axis=0)
        return cls(
            kernel=Kernel(kept_xi, kernel.diagonal_i),
            along_xd=kept_xi @ (feature_if @ turn_dd),
            half_di=turn_dd.T @ row_di,
            size_d=np.maximum(size_d, 0),
        )

    def at(self, rho: float) -> Kernel:
        """The new kernel for one strength."""
        if not rho:
            return self.kernel
        shrink_d = rho / (1 + rho * self.size_d)
        return Kernel(
            rows_xi=self.kernel.rows_xi - (self.along_xd * shrink_d[None]) @ self.half_di,
            diagonal_i=self.kernel.diagonal_i - shrink_d @ self.half_di**2,
        )
