"""What a folder says of its users and items beside the interactions: original ids, titles, and imputed features.

``ids/users.csv`` (number, id), ``ids/items.csv`` (number, id, perhaps title) and ``missing.npz`` are written by
prepare and encode. Each may be absent.
"""

from __future__ import annotations

import csv
import pathlib
import warnings
import zipfile
from typing import NamedTuple

import numpy as np

from fedvlr_jax.data.messages import DataWarning, problem

USERS, ITEMS, MISSING = "ids/users.csv", "ids/items.csv", "missing.npz"
FEATURES = {"image": "image_features.npy", "text": "text_features.npy"}
"""The names of modalities in ``missing.npz``, and the file that each is about."""


class Annotations(NamedTuple):
    """The fields of `Dataset` with these names."""

    user_ids: np.ndarray | None
    item_ids: np.ndarray | None
    item_titles: np.ndarray | None
    missing_V: np.ndarray | None
    missing_C: np.ndarray | None


def read_annotations(folder: pathlib.Path, num_users: int, num_items: int) -> Annotations:
    """What the folder has of them; imputed features are a `DataWarning` that counts them.

    Ids are text, as they are in the files, so that "007" stays what it is.

    Raises:
      DataError: a file that cannot be read, or does not fit the numbers of users and items.
    """
    user_ids, _ = _read_ids(folder / USERS, num_users)
    item_ids, titles = _read_ids(folder / ITEMS, num_items)
    masks = _read_masks(folder / MISSING, num_items)
    if titles is not None and "title" in masks:
        titles = np.where(masks["title"], "", titles)  # a placeholder is no title
    for name, file in FEATURES.items():
        if name in masks and masks[name].any() and (folder / file).exists():
            message = f"{folder / file}: {masks[name].sum()} of {num_items} items have no {name} of their own; their "
            warnings.warn(f"{message}rows are imputed, see {MISSING}", DataWarning, stacklevel=2)
    return Annotations(user_ids, item_ids, titles, masks.get("image"), masks.get("text"))


def _read_ids(file: pathlib.Path, count: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Ids and titles by number; None without the file, for ids that are the numbers, and without any title."""
    if not file.exists():
        return None, None
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            header, *rows = csv.reader(stream, strict=True) or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise problem(file, "a CSV file in UTF-8 with the columns number, id", str(error)) from error
    if header[:2] != ["number", "id"] or header[2:] not in ([], ["title"]):
        raise problem(file, "the columns number,id or number,id,title", ",".join(header), line=1)
    for k, row in enumerate(rows):
        if len(row) != len(header) or row[0] != str(k):
            raise problem(file, f"number {k} and {len(header)} fields", ",".join(row), line=k + 2)
    if len(rows) != count:
        raise problem(file, f"{count} rows, as many as the interactions and features have", str(len(rows)))
    ids = [row[1] for row in rows]
    if len(set(ids)) < count:
        raise problem(file, "every id once", f"{count - len(set(ids))} again")
    titles = [row[2] for row in rows] if header[2:] else []
    are_numbers = all(name == str(k) for k, name in enumerate(ids))
    return None if are_numbers else np.array(ids), np.array(titles) if any(titles) else None


def _read_masks(file: pathlib.Path, num_items: int) -> dict[str, np.ndarray]:
    """Boolean [i] by name, True for what is imputed."""
    if not file.exists():
        return {}
    try:
        with file.open("rb") as stream, np.load(stream) as arrays:
            masks = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise problem(file, "an archive of arrays", str(error)) from error
    for name, mask in masks.items():
        if mask.dtype != bool or mask.shape != (num_items,):
            raise problem(file, f"{name}: bool [{num_items}]", f"{mask.dtype} {list(mask.shape)}")
    return masks
