"""The canonical folder: ``inter.csv``, ``image_features.npy``, ``text_features.npy``, read and checked as a whole."""

from __future__ import annotations

import pathlib
import warnings

import numpy as np

from fedvlr_jax.data.annotations import read_annotations
from fedvlr_jax.data.features import read_features
from fedvlr_jax.data.interactions import Interactions, read_interactions
from fedvlr_jax.data.messages import FILES, DataWarning, missing, problem
from fedvlr_jax.data.splits import make_split
from fedvlr_jax.types import Dataset


def read_folder(folder: pathlib.Path) -> Dataset:
    """Read a canonical folder, or raise one error for the first rule that it breaks; nothing is half-loaded.

    Users are contiguous from 0 and all occur. The number of items is the number of feature rows: an item without any
    interaction is legal. Feature files may be absent; without both, items are as users. Repeated (user, item) rows of
    one split are dropped with a `DataWarning`. Without a column split_label, each user's last interaction in time is
    the test item and the second last the validation item; users with fewer than three distinct items keep all rows
    for training. Original ids, titles and masks of imputed features come from the files of `data.annotations`.

    Raises:
      DataError: naming the file, the line or row (from 1), the rule and what was found.
    """
    folder = pathlib.Path(folder)
    files = require_files(folder)
    rows = read_interactions(files[0])
    features = [read_features(file) for file in files[1:]]
    num_items = _count_items(rows, files[1:], features)
    num_users = _count(rows, rows.user, "userID")
    by_name = {file.name: rows_id for file, rows_id in zip(files[1:], features, strict=True)}
    return Dataset(
        **read_annotations(folder, num_users, num_items)._asdict(),
        name=folder.name,
        num_users=num_users,
        num_items=num_items,
        V=by_name.get(FILES[1]),
        C=by_name.get(FILES[2]),
        **make_split(rows, num_users)._asdict(),
        time_span=rows.span,
    )


def require_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files of a canonical folder that are there: ``inter.csv``, then the feature files.

    Raises:
      DataError: if the folder or ``inter.csv`` is missing, with the ways to get going.
    """
    if not folder.is_dir():
        raise missing(folder, "a file" if folder.exists() else "no such folder")
    inter, *features = (folder / name for name in FILES)
    if not inter.exists():
        raise missing(folder, f"no {inter.name} in it")
    return [inter, *(file for file in features if file.exists())]


def _count_items(rows: Interactions, files: list[pathlib.Path], features: list[np.ndarray]) -> int:
    if not features:
        return _count(rows, rows.item, "itemID")
    num_items = len(features[0])
    if len(features) == 2 and len(features[1]) != num_items:
        raise problem(files[1], f"{num_items} rows (items) as in {files[0].name}", f"{len(features[1])}")
    outside = np.flatnonzero(rows.item >= num_items)
    if outside.size:
        names = " and ".join(file.name for file in files)
        raise rows.source.problem(
            f"ids below {num_items}, the number of rows of {names}",
            f"{rows.item[outside[0]]}, out of range ({outside.size} such lines)",
            line=int(rows.line[outside[0]]),
            field="itemID",
        )
    if rows.item.min() == 1 and rows.item.max() == num_items - 1:
        message = (
            f"{rows.source.name}: the lowest itemID is 1, and row 1 of the features (itemID 0) belongs to no "
            "interaction; if ids are counted from 1, that row is one item too many"
        )
        warnings.warn(message, DataWarning, stacklevel=2)
    return num_items


def _count(rows: Interactions, ids: np.ndarray, field: str) -> int:
    """How many there are of what has these ids [rows]."""
    present = np.unique(ids)
    gap = np.flatnonzero(present != np.arange(len(present)))
    if gap.size:
        above = int(np.flatnonzero(ids > gap[0])[0])
        raise rows.source.problem(
            "contiguous ids from 0, every one with at least one row",
            f"{ids[above]} although no row has {gap[0]}",
            line=int(rows.line[above]),
            field=field,
        )
    return len(present)
