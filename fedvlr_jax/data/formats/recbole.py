"""RecBole atomic files: ``<d>.inter`` and ``<d>.item`` with headers ``name:type``; also split in three."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np

from fedvlr_jax.data.formats.careful import Layout, header_of
from fedvlr_jax.data.formats.files import find, find_one, find_optional, present
from fedvlr_jax.data.formats.merging import concatenate
from fedvlr_jax.data.formats.raw import TITLES, Format, RawData
from fedvlr_jax.data.formats.tables import read_interactions, read_titles
from fedvlr_jax.data.messages import problem
from fedvlr_jax.fields import Field

LAYOUT = Layout("\t", quoted=False)
PARTS = ("train", "valid", "test")
OPTIONS = {
    "user": Field("user_id", "column of the user"),
    "item": Field("item_id", "column of the item"),
    "rating": Field("rating", "column of the rating, if it is there"),
    "time": Field("timestamp", "column of the time, if it is there"),
    "title": Field("", 'column of the title in <d>.item; "" = title, movie_title, item_name or name'),
    "titles": TITLES,
}
TITLE_NAMES = ("title", "movie_title", "item_name", "name")


def read(folder: pathlib.Path, options: Mapping[str, str]) -> RawData:
    """One file of interactions, or three, whose names then are the labels; titles where there is an item file."""
    parts = [find(folder, f"*.{part}.inter") for part in PARTS]
    if any(parts):
        files = [find_one(folder, f"*.{part}.inter") for part in PARTS]
        raws = [_read_part(file, options) for file in files]
        labels = [np.full(len(raw.user.code), label, np.int8) for label, raw in enumerate(raws)]
        raw = concatenate([raw._replace(label=label) for raw, label in zip(raws, labels, strict=True)])
    else:
        files = [find_one(folder, "*.inter")]
        raw = _read_part(files[0], options)
    titles = find_optional(folder, options["titles"], "*.item")
    return raw._replace(files=present([*files, titles]), titles=_titles(titles, options))


def _read_part(file: pathlib.Path, options: Mapping[str, str]) -> RawData:
    layout, column_of = _typed(file)
    wanted = {role: options[role] for role in ("user", "item")}
    wanted |= {role: options[role] for role in ("rating", "time") if options[role] in column_of}
    return read_interactions(file, layout, {role: column_of.get(name, name) for role, name in wanted.items()})


def _typed(file: pathlib.Path) -> tuple[Layout, dict[str, str]]:
    """The layout, and the column as it is written, ``name:type``, by its name."""
    header = header_of(file, LAYOUT)
    column_of = {column.partition(":")[0]: column for column in header}
    if len(column_of) != len(header):
        raise problem(file, "every column once", ", ".join(header), line=1)
    return LAYOUT, column_of


def _titles(file: pathlib.Path | None, options: Mapping[str, str]) -> dict[str, str]:
    if file is None:
        return {}
    _, column_of = _typed(file)
    title = options["title"] or next((name for name in TITLE_NAMES if name in column_of), None)
    if title is None:
        return {}
    return read_titles(file, LAYOUT, *(column_of.get(name, name) for name in (options["item"], title)))


FORMAT = Format("RecBole atomic files: <d>.inter, or <d>.train.inter and so on, with <d>.item", read, OPTIONS)
