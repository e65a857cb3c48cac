"""Features that the user brings, joined by original id, and what stands in for those of items without any."""

from __future__ import annotations

import hashlib
import pathlib
import zipfile
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedvlr_jax.data.encoders.blocks import Encoded
from fedvlr_jax.data.messages import problem
from fedvlr_jax.errors import DataError


class Table(NamedTuple):
    """Rows [n, d] float32 with the original id of each."""

    file: pathlib.Path
    ids: tuple[str, ...]
    rows: np.ndarray


def read_table(file: pathlib.Path, ids: pathlib.Path | None = None) -> Table:
    """Features with their ids.

    Args:
      file: an ``.npz`` with the arrays ``ids`` and ``features``, or an ``.npy`` of the features alone.
      ids: for an ``.npy``: its ids in order, one a line of a text file, or an ``.npy`` of integers or text. What is
        blank around an id is no part of it.

    Raises:
      DataError: no such file, other arrays, features that are not finite floats [n, d], or ids that are not n
        different integers or texts.
    """
    if file.suffix == ".npz":
        arrays = _load(file)
        if not {"ids", "features"} <= set(arrays):
            raise problem(file, "the arrays ids and features", ", ".join(arrays) or "none")
        named, rows = _names(file, arrays["ids"]), arrays["features"]
    elif ids is None:
        raise problem(file, "a second file with the ids of its rows (or one .npz with ids and features)", "none")
    else:
        named, rows = _read_ids(ids), _load(file)[""]
    if rows.dtype.kind != "f" or rows.ndim != 2 or not np.isfinite(rows).all():
        raise problem(file, "finite floats [rows, dimensions]", f"{rows.dtype} {rows.shape}, or numbers not finite")
    if len(named) != len(rows):
        raise problem(ids or file, f"{len(rows)} ids, one for each row of {file.name}", str(len(named)))
    if len(set(named)) < len(named):
        (twice, _), *_ = Counter(named).most_common(1)
        raise problem(ids or file, "every id once", f"{twice!r} again")
    return Table(file, named, rows.astype(np.float32))


def join(ids: Sequence[str], table: Table) -> Encoded:
    """The row of every id; an id without one, or with one of zeros, is absent.

    Raises:
      DataError: no id of the items is in the table: they are other ids.
    """
    place = {name: k for k, name in enumerate(table.ids)}
    found = np.array([place.get(name, -1) for name in ids])
    if (found < 0).all():
        raise problem(table.file, f"the ids of the items, such as {ids[0]!r}", f"{table.ids[0]!r} and none of them")
    rows = np.where((found >= 0)[:, None], table.rows[found], 0)
    empty = ~rows.any(axis=1)
    reasons = np.where(found < 0, "no row", np.where(empty, "only zeros", ""))
    return Encoded(rows, reasons == "", tuple(reasons.tolist()))


def seal_table(ids: Sequence[str], table: Table) -> str:
    """A key of everything that the joined features depend on."""
    digest = hashlib.sha256(repr((tuple(ids), table.ids, table.rows.shape)).encode())
    digest.update(np.ascontiguousarray(table.rows).tobytes())
    return digest.hexdigest()


def fill_absent(encoded: Encoded) -> np.ndarray:
    """The rows with the mean of the present ones where there is none, as in the paper.

    Raises:
      DataError: no row at all.
    """
    if not encoded.present.any():
        raise DataError(f"features: expected some item with features, found none ({encoded.reasons[0]})")
    mean = encoded.rows[encoded.present].mean(axis=0, dtype=np.float64).astype(np.float32)
    return np.where(encoded.present[:, None], encoded.rows, mean[None])


def _load(file: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` by name, or that of an ``.npy`` as ""."""
    try:
        with file.open("rb") as stream:
            found = np.load(stream, allow_pickle=False)
            return {"": found} if isinstance(found, np.ndarray) else {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise problem(file, "a NumPy file without Python objects", str(error)) from error


def _read_ids(file: pathlib.Path) -> tuple[str, ...]:
    if file.suffix == ".npy":
        return _names(file, _load(file)[""])
    try:
        return tuple(map(str.strip, file.read_text(encoding="utf-8-sig").rstrip().split("\n")))
    except (OSError, UnicodeDecodeError) as error:
        raise problem(file, "a UTF-8 text file of ids, one a line", str(error)) from error


def _names(file: pathlib.Path, ids: np.ndarray) -> tuple[str, ...]:
    if ids.dtype.kind not in "iuU" or ids.ndim != 1:
        raise problem(file, "ids [rows] of integers or text", f"{ids.dtype} {ids.shape}")
    return tuple(str(name).strip() for name in ids.tolist())
