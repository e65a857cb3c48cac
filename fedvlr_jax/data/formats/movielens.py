"""MovieLens: ``ratings.csv`` with ``movies.csv``, ``ratings.dat`` with ``movies.dat``, ``u.data`` with ``u.item``."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import NamedTuple

from fedvlr_jax.data.formats.careful import Layout, either_encoding
from fedvlr_jax.data.formats.files import find_one, find_optional, present
from fedvlr_jax.data.formats.raw import TITLES, Format, RawData
from fedvlr_jax.data.formats.tables import read_interactions, read_titles

NAMES = ("userId", "movieId", "rating", "timestamp")
COLUMNS = dict(zip(("user", "item", "rating", "time"), NAMES, strict=True))
EITHER = ""  # releases before 10M are in latin-1, later ones in UTF-8
U_ITEM = ("movieId", "title", *(f"column {k}" for k in range(3, 25)))


class Release(NamedTuple):
    """How one kind of release is written."""

    ratings: Layout
    titles_file: str
    titles: Layout


RELEASES = {
    "ratings.csv": Release(Layout(), "movies.csv", Layout()),
    "ratings.dat": Release(
        Layout("::", "latin-1", NAMES, quoted=False),
        "movies.dat",
        Layout("::", EITHER, ("movieId", "title", "genres"), quoted=False),
    ),
    "u.data": Release(
        Layout("\t", "latin-1", NAMES, quoted=False), "u.item", Layout("|", EITHER, U_ITEM, quoted=False)
    ),
}


def read(folder: pathlib.Path, options: Mapping[str, str]) -> RawData:
    """The ratings of any MovieLens release, and the titles where its file is there."""
    file = find_one(folder, *RELEASES)
    release = next(release for name, release in RELEASES.items() if file.name.startswith(name))
    titles = find_optional(folder, options["titles"], release.titles_file)
    raw = read_interactions(file, release.ratings, COLUMNS)
    layout, notes = release.titles, raw.notes
    if titles is not None and layout.encoding == EITHER:
        layout = either_encoding(titles, layout)
        notes += (f"{titles.name}: read as {layout.encoding}",)
    found = read_titles(titles, layout, "movieId", "title")
    return raw._replace(files=present([file, titles]), titles=found, notes=notes)


FORMAT = Format(
    "MovieLens: ratings.csv, ratings.dat or u.data, with movies.csv, movies.dat or u.item", read, {"titles": TITLES}
)
