"""Controls for multimodal gains: the same data with features that say nothing about the items.

A gain counts as multimodal only if it is larger than the gain with these.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from fedvlr_jax.data.features import unit_rows
from fedvlr_jax.types import Dataset


def shuffle_features(dataset: Dataset, seed: int) -> Dataset:
    """The data set with the rows of V and of C permuted, each by its own permutation.

    The distribution of the features stays the same; which item a row belongs to, and which visual row goes with
    which textual row, is lost.
    """
    rngs = _streams(seed)
    shuffled = (x if x is None else rng.permutation(x) for x, rng in zip((dataset.V, dataset.C), rngs, strict=True))
    return dataclasses.replace(dataset, **dict(zip("VC", shuffled, strict=True)))


def random_features(dataset: Dataset, seed: int) -> Dataset:
    """The data set with V and C replaced by independent uniform unit vectors of the same shapes."""
    rngs = _streams(seed)
    drawn = (
        x if x is None else unit_rows(rng.normal(size=x.shape))
        for x, rng in zip((dataset.V, dataset.C), rngs, strict=True)
    )
    return dataclasses.replace(dataset, **dict(zip("VC", drawn, strict=True)))


def _streams(seed: int) -> list[np.random.Generator]:
    """One independent generator for V and one for C."""
    return [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2)]
