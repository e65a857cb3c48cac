"""Item features as the content baselines read them, and which points of a grid a data set allows."""

from __future__ import annotations

import numpy as np

from fedvlr_jax.baselines.base import HyperGrid
from fedvlr_jax.data.features import centred_rows, without_imputed
from fedvlr_jax.errors import DataError
from fedvlr_jax.types import Dataset

MODALITIES = {"visual": "V", "text": "C"}


def centred_features(dataset: Dataset) -> dict[str, np.ndarray]:
    """float64 [i, d] by modality: unit-norm rows minus their mean over items; only what the data set has.
    Imputed rows are zeros.

    Raises:
      DataError: if it has neither visual nor textual features.
    """
    features = zip(MODALITIES, without_imputed(dataset), strict=True)
    found = {name: x.astype(np.float64) for name, x in features if x is not None}
    if not found:
        raise DataError(f"{dataset.name} has neither visual nor textual features; content baselines need one of them")
    return {name: centred_rows(x) for name, x in found.items()}


def allowed_points(dataset: Dataset, grid: HyperGrid) -> HyperGrid:
    """The points of a grid that give weight to no modality which the data set lacks.

    Points carry the weights "visual" and "text"; a weight of 0 or none needs no features.

    Raises:
      DataError: if no point is left.
    """
    lacking = [name for name, field in MODALITIES.items() if getattr(dataset, field) is None]
    allowed = tuple(hyper for hyper in grid if not any(hyper.get(name) for name in lacking))
    if not allowed:
        raise DataError(
            f"{dataset.name} has no {' and no '.join(lacking)} features, which every point of the grid needs"
        )
    return allowed
