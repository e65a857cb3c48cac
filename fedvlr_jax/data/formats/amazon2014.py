"""Amazon product data of 2014: ``ratings_<C>.csv``, ``meta_<C>.json`` (Python literals), ``image_features_<C>.b``."""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Mapping

from fedvlr_jax.data.formats.careful import Layout, open_text
from fedvlr_jax.data.formats.features import rows_of_records
from fedvlr_jax.data.formats.files import find_one, find_optional, present
from fedvlr_jax.data.formats.raw import TITLES, Format, RawData
from fedvlr_jax.data.formats.tables import read_interactions
from fedvlr_jax.data.messages import problem

COLUMNS = {"user": "user", "item": "item", "rating": "rating", "time": "timestamp"}
LAYOUT = Layout(names=tuple(COLUMNS.values()))


def read(folder: pathlib.Path, options: Mapping[str, str]) -> RawData:
    """Ratings; titles and image features where their files are there."""
    file = find_one(folder, "ratings_*.csv")
    titles = find_optional(folder, options["titles"], "meta_*.json")
    images = find_optional(folder, "", "image_features_*.b")
    raw = read_interactions(file, LAYOUT, COLUMNS)
    return raw._replace(
        files=present([file, titles, images]),
        titles=_titles(titles) if titles else {},
        features={"image": rows_of_records(images)} if images else {},
    )


def _titles(file: pathlib.Path) -> dict[str, str]:
    """Title by item id; every line is a Python literal of a dict."""
    titles = {}
    with open_text(file, "utf-8") as stream:
        for line, text in enumerate(stream, start=1):
            if not text.strip():
                continue
            try:
                row = ast.literal_eval(text.strip())
                item, title = row["asin"], str(row.get("title", ""))
            except (ValueError, SyntaxError, KeyError, TypeError, AttributeError) as error:
                raise problem(file, "a Python dict with the key 'asin'", text.strip()[:40], line=line) from error
            if title.strip():
                titles[item] = title.strip()
    return titles


FORMAT = Format(
    "Amazon 2014: ratings_<category>.csv, with meta_<category>.json and image_features_<category>.b",
    read,
    {"titles": TITLES},
)
