"""Tiny canonical folders for tests, good ones and ones with one fault."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import pytest

from fedvlr_jax.data.folder import read_folder
from fedvlr_jax.errors import DataError

HEADER = "userID,itemID,rating,timestamp,split_label"
GOOD = (
    "0,2,1.0,10,0",
    "0,0,1.0,11,0",
    "0,1,1.0,12,1",
    "0,3,1.0,13,2",
    "1,3,5.0,20,0",
    "1,0,4.0,21,1",
    "1,2,3.0,22,2",
)
NUM_ITEMS = 5  # item 4 occurs in no interaction


def features(num_items: int = NUM_ITEMS, dim: int = 3, dtype: type = np.float32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_items, dim)).astype(dtype)


def write_folder(
    folder: pathlib.Path,
    rows: tuple[str, ...] | list[str] = GOOD,
    header: str = HEADER,
    image: np.ndarray | None = None,
    text: np.ndarray | None = None,
) -> pathlib.Path:
    """A canonical folder, right unless an argument makes it wrong; rows[k] is line k + 2."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "inter.csv").write_text("\n".join([header, *rows]) + "\n")
    np.save(folder / "image_features.npy", features(seed=1) if image is None else image)
    np.save(folder / "text_features.npy", features(dim=4, seed=2) if text is None else text)
    return folder


def replaced(number: int, row: str) -> list[str]:
    """The good rows with the one in line `number` replaced."""
    return [row if n == number else good for n, good in enumerate(GOOD, start=2)]


def raises(folder, *parts):
    """Reading raises one DataError whose message has these parts in this order."""
    with pytest.raises(DataError) as caught:
        read_folder(folder)
    assert re.search(".*".join(map(re.escape, parts)), str(caught.value), re.DOTALL), str(caught.value)
