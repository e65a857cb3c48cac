"""The item-to-item prior of host `fedprior` alone, without any trained model: one secure sum, then closed form.

It shows what FedPrior's rounds add. The exponent of co-occurrence is chosen on validation: whether items near in time
belong together more than any two of a history. The other settings are the defaults of `prior.PriorSettings`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fedvlr_jax.baselines.base import Hyper, HyperGrid, score_table, table_baseline
from fedvlr_jax.data.features import without_imputed
from fedvlr_jax.federated import prior
from fedvlr_jax.types import Array, Dataset

GRID = tuple({"reach": reach} for reach in (0.5, 0.0))


def fit_grid(dataset: Dataset, grid: HyperGrid) -> Iterator[tuple[Hyper, Array]]:
    """Scores of all users, float32 [u, i], at every point; a point holds fields of `prior.PriorSettings`."""
    prior.warn_without_times(dataset, prior.PriorSettings())
    for hyper in grid:
        settings = prior.PriorSettings(**hyper)
        found = prior.make_prior(dataset, prior.federate(dataset, settings), without_imputed(dataset), settings)
        yield hyper, score_table(np.asarray(found.score_ui, np.float64))


fed_prior = table_baseline(fit_grid, GRID, megabytes=prior.megabytes_once)
