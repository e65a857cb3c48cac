"""The canonical folder, written beside its place and renamed when it is whole."""

from __future__ import annotations

import csv
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.data.prepare.features import FILES
from fedvlr_jax.data.prepare.rows import Names, Rows
from fedvlr_jax.data.whole_folder import whole_folder
from fedvlr_jax.errors import DataError

FACTS = "prepared.json"
COLUMNS = ("userID", "itemID", "rating", "timestamp", "split_label")


class Prepared(NamedTuple):
    """A prepared set.

    Attributes:
      rows, names: with labels and ids from 0 without gaps.
      titles: of every item, "" where the raw files have none.
      features: [i, d] by modality.
      missing: numbers of the imputed items, by modality and "title".
      facts: what ``prepared.json`` has.
    """

    rows: Rows
    names: Names
    titles: Sequence[str]
    features: Mapping[str, np.ndarray]
    missing: Mapping[str, np.ndarray]
    facts: Mapping[str, Any]


def earlier_facts(out: pathlib.Path) -> dict[str, Any] | None:
    """``prepared.json`` of an earlier call; None where `out` is free, that is absent or an empty folder.

    Raises:
      DataError: `out` holds anything else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        return dict(json.loads((out / FACTS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"--out={out}: expected no such folder, an empty one, or one of an earlier call, found other content"
        ) from error


def write(out: pathlib.Path, prepared: Prepared) -> None:
    """Writes all files, whole or not at all.

    Raises:
      DataError: the folder cannot be written.
    """
    try:
        with whole_folder(out) as made:
            _write_files(made, prepared)
    except OSError as error:
        raise DataError(
            f"--out={out}: expected a folder that can be written, found {error.strerror or error}"
        ) from error


def _write_files(folder: pathlib.Path, prepared: Prepared) -> None:
    decimals = (prepared.facts["time"] or {"decimals": 0})["decimals"]
    _write_interactions(folder / "inter.csv", prepared.rows, prepared.names.ratings, decimals)
    (folder / "ids").mkdir()
    _write_ids(folder / "ids" / "users.csv", ("number", "id"), enumerate(prepared.names.users))
    items = ((n, *row) for n, row in enumerate(zip(prepared.names.items, prepared.titles, strict=True)))
    _write_ids(folder / "ids" / "items.csv", ("number", "id", "title"), items)
    for name, array in prepared.features.items():
        np.save(folder / FILES[name], array)
    if prepared.missing:
        every = np.arange(len(prepared.names.items))
        arrays: dict[str, Any] = {name: np.isin(every, items) for name, items in prepared.missing.items()}
        np.savez(folder / "missing.npz", **arrays)
    text = json.dumps(prepared.facts, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / FACTS).write_text(f"{text}\n", encoding="utf-8")


def _write_interactions(file: pathlib.Path, rows: Rows, ratings: list[str], decimals: int) -> None:
    """``inter.csv`` without the columns that the raw files lack."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    text = None if rows.rating is None else pa.array(ratings, pa.string()).take(pa.array(rows.rating))
    time = None if rows.time is None else _with_point(rows.time, decimals)
    columns = dict(zip(COLUMNS, (rows.user, rows.item, text, time, rows.label), strict=True))
    there = {name: column for name, column in columns.items() if column is not None}
    with open(file, "wb") as stream:
        stream.write(f"{','.join(there)}\n".encode())
        arrow_csv.write_csv(
            pa.table(there), stream, arrow_csv.WriteOptions(include_header=False, quoting_style="none")
        )


def _with_point(time: np.ndarray, decimals: int) -> Any:
    """Times as they are read again: with their decimals after a point, as few as all of them need."""
    import pyarrow as pa
    from pyarrow import compute

    while decimals and not (time % 10).any():
        time, decimals = time // 10, decimals - 1
    if not decimals:
        return time
    whole, rest = (
        pa.array(part).cast(pa.string()) for part in np.divmod(np.abs(time).view(np.uint64), np.uint64(10**decimals))
    )
    sign = pa.array(np.where(time < 0, "-", ""), pa.string())
    digits = compute.utf8_lpad(rest, decimals, "0")
    return compute.binary_join_element_wise(compute.binary_join_element_wise(sign, whole, ""), digits, ".")


def _write_ids(file: pathlib.Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with open(file, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
