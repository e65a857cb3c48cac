"""Files around the encoders: items and where their images are, and the features that come out."""

from __future__ import annotations

import csv
import hashlib
import io
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.errors import ConfigError, DataError
from fedvlr_jax.io.array_cache import one_at_a_time
from fedvlr_jax.io.files import read_arrays, read_csv, read_json, write_arrays, write_bytes, write_json

NO_TITLE = "The title is missing."  # the paper's
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
FILES = {"image": "image_features.npy", "text": "text_features.npy"}
RECORD, MISSING = "encoded.json", "missing.npz"


class Items(NamedTuple):
    """Original ids and titles ("" where there is none) in the order of the items' numbers."""

    ids: tuple[str, ...]
    titles: tuple[str, ...]


def read_items(ids: pathlib.Path, titles: pathlib.Path | None) -> Items:
    """Items of a CSV file with the columns number and id, titles of its column title or of a second file.

    Args:
      ids: numbers from 0 in order; the original id of each.
      titles: CSV with the columns id and title; items that it lacks have no title.

    Raises:
      DataError: no such file or column, numbers out of order, or an id that is there twice.
    """
    rows = _rows(ids, "number", "id")
    for k, row in enumerate(rows):
        if row["number"] != str(k):
            raise DataError(f"{ids}, line {k + 2}: expected number {k}, found {row['number']!r}")
    names = tuple(row["id"] for row in rows)
    if len(set(names)) < len(names):
        raise DataError(f"{ids}: expected every id once, found {len(names) - len(set(names))} again")
    source = rows if titles is None else _rows(titles, "id", "title")
    known = {row["id"]: (row.get("title") or "").strip() for row in source}
    return Items(names, tuple(known.get(name, "") for name in names))


def find_images(folder: pathlib.Path, ids: Sequence[str]) -> list[pathlib.Path | None]:
    """The file ``<id>.jpg`` (or another suffix of an image) of every id, None where there is none.

    Raises:
      DataError: no such folder, no image of any id, or two of one.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of images, found {'a file' if folder.exists() else 'nothing'}")
    found: dict[str, pathlib.Path] = {}
    wanted = set(ids)
    for file in sorted(folder.iterdir()):
        if file.stem in wanted and file.suffix.lower() in IMAGE_SUFFIXES:
            if file.stem in found:
                names = f"{found[file.stem].name} and {file.name}"
                raise DataError(f"{folder}: expected one image of {file.stem}, found {names}")
            found[file.stem] = file
    if not found:
        raise DataError(
            f"{folder}: expected images named by id, such as {ids[0]}.jpg, found none for {len(ids)} items"
        )
    return [found.get(name) for name in ids]


def is_written(out: pathlib.Path, modality: str, inputs: str) -> bool:
    """Whether the features of these very inputs are there; asked before any work.

    Raises:
      ConfigError: other content is there.
    """
    file = out / FILES[modality]
    record = (read_json(out / RECORD) or {}).get(modality, {})
    if not file.exists():
        return False
    if (record.get("inputs"), record.get("sha256")) == (inputs, _sha256(file)):
        return True
    raise ConfigError(f"--out={out}: {file.name} is there with other content; delete it, or choose another folder")


def write_features(
    out: pathlib.Path, modality: str, inputs: str, rows: np.ndarray, missing: np.ndarray, facts: dict[str, Any]
) -> None:
    """Write features, the mask of imputed items (True in the array `modality` of ``missing.npz``) and the record.

    Args:
      out: the folder.
      modality: "image" or "text".
      inputs: names everything that the rows depend on.
      rows: [i, d] float32.
      missing: [i] bool.
      facts: kept in the record.

    Raises:
      ConfigError: other content appeared meanwhile.
    """
    with one_at_a_time(out / ".encoding"):
        if is_written(out, modality, inputs):
            return
        buffer = io.BytesIO()
        np.save(buffer, rows)
        masks = read_arrays(out / MISSING) if (out / MISSING).is_file() else {}
        record = read_json(out / RECORD) or {}
        record[modality] = {"inputs": inputs, "sha256": hashlib.sha256(buffer.getvalue()).hexdigest(), **facts}
        write_arrays(out / MISSING, masks | {modality: missing})
        write_json(out / RECORD, record)
        write_bytes(out / FILES[modality], buffer.getvalue())


def _rows(file: pathlib.Path, *columns: str) -> list[dict[str, str]]:
    try:
        rows = read_csv(file)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: expected a CSV file in UTF-8, found {error}") from error
    if not rows or not set(columns) <= set(rows[0]):
        found = ", ".join(map(str, rows[0])) if rows else "no row"
        raise DataError(f"{file}: expected the columns {', '.join(columns)} and at least one row, found {found}")
    return rows


def _sha256(file: pathlib.Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
