"""Raw data sets of a few lines, written for the tests, and what each of them says."""

from __future__ import annotations

import gzip
import pathlib
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest

from fedvlr_jax.data.formats import FORMATS, RawData, read_raw
from fedvlr_jax.data.messages import DataWarning
from fedvlr_jax.data.prepare.pipeline import Done, prepare
from fedvlr_jax.data.prepare.settings import default_settings
from fedvlr_jax.errors import UserError
from fedvlr_jax.fields import with_fields

START = 1_500_000_000  # seconds
ROWS = [  # user, item, rating, time in seconds: 4 users with 4, 4, 3 and 3 of the items
    ("1", "10", "4.0", START + 9),
    ("1", "20", "3.5", START + 2),
    ("1", "30", "1.0", START + 5),
    ("1", "40", "5.0", START + 7),
    ("2", "10", "2.0", START + 1),
    ("2", "20", "4.0", START + 2),
    ("2", "30", "4.0", START + 3),
    ("2", "50", "4.0", START + 4),
    ("3", "10", "3.0", START + 8),
    ("3", "40", "3.0", START + 6),
    ("3", "50", "3.0", START + 7),
    ("07", "20", "5.0", START + 1),
    ("07", "40", "5.0", START + 3),
    ("07", "50", "5.0", START + 2),
]
HEADER = ("userId", "movieId", "rating", "timestamp")  # of MovieLens
COLUMNS = {"read.rating": "rating", "read.time": "timestamp"}  # of `write_table`, as settings
TITLES = {"10": "Tea, green", "20": "Café", "30": 'The "cup"', "40": "Pot"}  # none of 50


def write_text(folder: pathlib.Path, name: str, text: str, encoding: str = "utf-8") -> pathlib.Path:
    """A file of a raw folder, compressed with gzip where its name says so; lines end as in `text`."""
    folder.mkdir(parents=True, exist_ok=True)
    content = text.encode(encoding)
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder


def lines(rows: Iterable[Iterable[Any]], separator: str = ",") -> str:
    """Rows as lines of text."""
    return "".join(separator.join(map(str, row)) + "\n" for row in rows)


def movielens(
    folder: pathlib.Path,
    rows: Iterable[Iterable[Any]] = ROWS,
    name: str = "ratings.csv",
    header: Iterable[str] = HEADER,
) -> pathlib.Path:
    """A raw folder with these ratings as MovieLens writes them."""
    return write_text(folder, name, lines([header, *rows]))


def write_table(
    folder: pathlib.Path,
    rows: Iterable[Iterable[Any]] = ROWS,
    header: Iterable[str] = ("userID", "itemID", "rating", "timestamp"),
) -> pathlib.Path:
    """A raw folder with these rows as a csv."""
    return write_text(folder, "x.csv", lines([header, *rows]))


def options(format_: str, **changed: str) -> dict[str, str]:
    """The options of a format, some of them changed."""
    return {name: field.default for name, field in FORMATS[format_].options.items()} | changed


def read(format_: str, folder: pathlib.Path, **changed: str) -> RawData:
    """What the reader of a format returns."""
    return read_raw(format_, folder, options(format_, **changed))


def rows_of(raw: RawData) -> list[tuple]:
    """The rows as (user, item, rating or None, time or None)."""
    count = len(raw.user.code)
    column = [[c.names[k] for k in c.code] if c else [None] * count for c in (raw.user, raw.item, raw.rating)]
    return list(zip(*column, [None] * count if raw.times is None else raw.times.value.tolist(), strict=True))


def refused(format_: str, folder: pathlib.Path, *parts: str, **changed: str) -> None:
    """Reading raises one line whose text has these parts in this order."""
    with pytest.raises(UserError) as caught:
        read(format_, folder, **changed)
    message = str(caught.value)
    assert re.search(".*".join(map(re.escape, parts)), message), message
    assert "\n" not in message


def prepared(format_: str, folder: pathlib.Path, out: pathlib.Path, changes: Mapping[str, Any] | None = None) -> Done:
    """Prepares without a warning being an error."""
    settings = with_fields(default_settings(format_), {"core.per_user": 0, "core.per_item": 0} | dict(changes or {}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return prepare(settings, folder, out)


def prepared_rows(
    folder: pathlib.Path, changes: Mapping[str, Any] | None = None, rows: Iterable[Iterable[Any]] = ROWS
) -> Done:
    """A csv of these rows in `folder`/raw, prepared as `folder`/out."""
    raw = write_table(folder / "raw", rows)
    return prepared("csv", raw, folder / "out", COLUMNS | dict(changes or {}))


def table_of(file: pathlib.Path) -> list[list[str]]:
    """The lines of a written csv without quotes, split at commas."""
    return [line.split(",") for line in file.read_text().splitlines()]


def some_features(count: int, dim: int = 3, seed: int = 0) -> np.ndarray:
    """Random features [count, dim], float32."""
    return np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
