"""What a baseline is, and how baselines score: one row for everybody, or a table with a row for each user."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from fedvlr_jax.types import Array, Bucket, Dataset, PyTree

Hyper = dict[str, Any]
HyperGrid = tuple[Hyper, ...]
FitGrid = Callable[[Dataset, HyperGrid], Iterator[tuple[Hyper, PyTree]]]

_DIGITS = 30  # binary digits of a score, counted from the largest of its row


class Baseline(NamedTuple):
    """A model without a training loop.

    Attributes:
      fit: ``fit(dataset, **hyper) -> params``; reads the train rows (and features) only, computes in float64.
      score: ``score(params, chunk) -> s_ci``, float32 scores of all items, jit-able.
      grid: the hyper-parameters to choose from on validation, the simplest first.
      fit_grid: ``fit_grid(dataset, grid)`` yields ``(hyper, params)`` of the points of a grid, in order, sharing what
        they have in common; None where there is nothing to share. It may leave out points that need a modality
        which the set lacks.
      needs_features: whether a set without features has no such baseline.
      megabytes: ``megabytes(dataset)``, 10^6 bytes that all clients and the server exchange in the one round of a
        baseline that is computed federated; None for those that see all data.
      printed: whether it has a row under a training run: it takes seconds, and adds to what the others show.
    """

    fit: Callable[..., PyTree]
    score: Callable[[PyTree, Bucket], Array]
    grid: HyperGrid
    fit_grid: FitGrid | None = None
    needs_features: bool = False
    megabytes: Callable[[Dataset], float] | None = None
    printed: bool = False


def table_baseline(fit_grid: FitGrid, grid: Iterable[Hyper], **fields: Any) -> Baseline:
    """A baseline whose params are a table of scores (`score_table`), from its `fit_grid` alone.

    Args:
      fit_grid, grid: as of `Baseline`.
      fields: further fields of `Baseline`.
    """

    def fit(dataset: Dataset, **hyper: Any) -> Array:
        return next(iter(fit_grid(dataset, (hyper,))))[1]

    return Baseline(fit, score_of_users, tuple(grid), fit_grid, **fields)


def score_for_all(score_i: Array, chunk: Bucket) -> Array:
    """The same score of an item for every user: ``score_i`` [i] -> [c, i]."""
    return jnp.broadcast_to(score_i[None], (chunk.user.shape[0], score_i.shape[0]))


def score_of_users(score_ui: Array, chunk: Bucket) -> Array:
    """The rows of a table of scores that belong to a chunk, zeros for empty slots: [u, i] -> [c, i]."""
    return score_ui.at[chunk.user].get(mode="fill", fill_value=0)


def score_table(score_ui: np.ndarray) -> Array:
    """Scores [u, i] computed in float64, as float32, such that scores which are equal in exact arithmetic are equal.

    Sums of the same numbers in another order differ in their last bits, which would break ties at random. Each row
    is rounded to multiples of 2^-30 of its largest score: errors of float64 are some 10^6 times smaller than that.
    """
    largest_u = np.abs(score_ui).max(axis=1, initial=0)
    unit_u = 2.0 ** (np.ceil(np.log2(np.where(largest_u > 0, largest_u, 1))) - _DIGITS)
    table_ui = np.rint(score_ui / unit_u[:, None])
    table_ui *= unit_u[:, None]
    return jnp.asarray(table_ui, jnp.float32)


def train_counts(dataset: Dataset) -> np.ndarray:
    """int64 [i], train rows of each item."""
    return np.bincount(dataset.train_item, minlength=dataset.num_items)


def train_matrix(dataset: Dataset) -> np.ndarray:
    """R, float32 [u, i]: 1 for the train rows. Its Gram matrices are exact (counts below 2^24)."""
    matrix_ui = np.zeros((dataset.num_users, dataset.num_items), np.float32)
    matrix_ui[dataset.train_user, dataset.train_item] = 1
    return matrix_ui


def gram_matrix(dataset: Dataset) -> np.ndarray:
    """R^T R, float64 [i, i], exact: how many users have both items."""
    matrix_ui = train_matrix(dataset)
    return (matrix_ui.T @ matrix_ui).astype(np.float64)
