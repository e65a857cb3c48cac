"""Features of the items of a prepared set: joined by original id, and imputed where there are none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from fedvlr_jax.data.formats.raw import FeatureSource
from fedvlr_jax.errors import DataError

MISSING_TITLE = "The title is missing."  # as in the paper
FILES = {"image": "image_features.npy", "text": "text_features.npy"}


class Imputed(NamedTuple):
    """Features with a row for every item.

    Attributes:
      features: [i, d], dtype as in the source.
      missing: int32, the items that had none and got the mean of the others.
    """

    features: np.ndarray
    missing: np.ndarray


def join(name: str, source: FeatureSource, items: list[str]) -> Imputed:
    """The features of `items`, the mean of the others where an item has none (absent, zeros, not finite).

    Raises:
      DataError: no item has any.
    """
    features, there = source(items)
    if not there.any():
        example = f"such as {items[0]!r}" if items else "none"
        raise DataError(f"{name} features: expected rows for some of {len(items)} items, {example}, found none")
    if not there.all():
        features = features.copy()
        features[~there] = features[there].mean(axis=0, dtype=np.float64)
    return Imputed(features, np.flatnonzero(~there).astype(np.int32))


def join_titles(titles: Mapping[str, str], items: list[str]) -> tuple[list[str], np.ndarray]:
    """The title of every item, and the items that got a placeholder; empty ones where there are no titles at all.

    A title is one line with single spaces, whatever line breaks and tabs it came with.
    """
    if not titles:
        return [""] * len(items), np.zeros(0, np.int32)
    missing = np.array([n for n, item in enumerate(items) if item not in titles], np.int32)
    return [" ".join(titles.get(item, MISSING_TITLE).split()) for item in items], missing
