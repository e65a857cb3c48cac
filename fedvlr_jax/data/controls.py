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
    changed: dict[str, np.ndarray | None] = {}
    for letter, rng in zip("VC", _streams(seed), strict=True):
        order_i = rng.permutation(dataset.num_items)
        for name in (letter, f"missing_{letter}"):  # an imputed row stays one
            x = getattr(dataset, name)
            changed[name] = None if x is None else x[order_i]
    return dataclasses.replace(dataset, **changed)


def random_features(dataset: Dataset, seed: int) -> Dataset:
    """The data set with V and C replaced by independent uniform unit vectors of the same shapes."""
    rngs = _streams(seed)
    drawn = (
        x if x is None else unit_rows(rng.normal(size=x.shape))
        for x, rng in zip((dataset.V, dataset.C), rngs, strict=True)
    )
    return dataclasses.replace(dataset, missing_V=None, missing_C=None, **dict(zip("VC", drawn, strict=True)))


def _streams(seed: int) -> list[np.random.Generator]:
    """One independent generator for V and one for C."""
    return [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2)]
