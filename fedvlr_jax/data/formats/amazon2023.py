"""Amazon Reviews 2023: reviews as JSON lines or the 5-core ``csv`` of one category, and ``meta_<category>.jsonl``."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

from fedvlr_jax.data.formats import json_lines, tables
from fedvlr_jax.data.formats.careful import Layout
from fedvlr_jax.data.formats.files import find, find_one, find_optional, present
from fedvlr_jax.data.formats.raw import TITLES, Format, RawData
from fedvlr_jax.data.messages import problem
from fedvlr_jax.fields import Field

COLUMNS = {"user": "user_id", "item": "parent_asin", "rating": "rating", "time": "timestamp"}
FILE = Field("", 'file of reviews below the raw folder, such as Gift_Cards.csv; "" = the only one')


def read(folder: pathlib.Path, options: Mapping[str, str]) -> RawData:
    """Reviews with the product family (parent_asin) as the item, and titles where the file of metadata is there."""
    file = find_one(folder, options["file"]) if options["file"] else _reviews(folder)
    titles = find_optional(folder, options["titles"], "meta_*.jsonl")
    if ".jsonl" in file.name:
        raw = json_lines.read_interactions(file, COLUMNS)
    else:
        raw = tables.read_interactions(file, Layout(), COLUMNS)
    return raw._replace(files=present([file, titles]), titles=json_lines.read_titles(titles, "parent_asin", "title"))


def _reviews(folder: pathlib.Path) -> pathlib.Path:
    """The only file of reviews of a folder."""
    found = [file for file in find(folder, "*.csv", "*.jsonl") if not file.name.startswith("meta_")]
    if len(found) == 1:
        return found[0]
    if not found:
        return find_one(folder, "*.csv", "*.jsonl")  # says what is there
    names = ", ".join(file.name for file in found)
    raise problem(folder, "one file of reviews", f"{names}; choose with --config.read.file")


FORMAT = Format(
    "Amazon Reviews 2023: <category>.csv or <category>.jsonl, with meta_<category>.jsonl",
    read,
    {"file": FILE, "titles": TITLES},
)
