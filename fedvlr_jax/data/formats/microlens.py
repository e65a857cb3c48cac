"""MicroLens: ``*_pairs.csv`` (user,item,timestamp) or ``*_pairs.tsv`` (user, items in order of time), and titles.

The licence lets nobody hand out changed copies: what is prepared is written to --out and nowhere else.
"""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Mapping

import numpy as np

from fedvlr_jax.data.formats.careful import Layout, header_of, walk
from fedvlr_jax.data.formats.files import find, find_one, find_optional, present
from fedvlr_jax.data.formats.raw import TITLES, Coded, Format, RawData, Times
from fedvlr_jax.data.formats.tables import read_interactions, read_titles
from fedvlr_jax.data.messages import problem

COLUMNS = {"user": "user", "item": "item", "time": "timestamp"}
TITLE_COLUMNS = ("item", "title")


def read(folder: pathlib.Path, options: Mapping[str, str]) -> RawData:
    """Pairs with times, else the sequences, whose positions are the times; titles where their file is there."""
    titles = find_optional(folder, options["titles"], "*_titles.csv")
    timed = find(folder, "*_pairs.csv")
    file = find_one(folder, "*_pairs.csv") if timed else find_one(folder, "*_pairs.csv", "*_pairs.tsv")
    raw = read_interactions(file, Layout(), COLUMNS) if timed else _read_sequences(file)
    return raw._replace(files=present([file, titles]), titles=_titles(titles))


def _read_sequences(file: pathlib.Path) -> RawData:
    """``user<TAB>item item ...``: the position of an item in its line, from 1, is its time."""
    lines: list[int] = []
    users: list[str] = []
    items: list[str] = []
    positions: list[int] = []
    for line, (user, text) in walk(file, Layout("\t", names=("user", "items"), quoted=False)):
        row = text.split()
        if not user.strip() or not row:
            raise problem(file, "a user and items separated by spaces", repr(f"{user}\t{text}"), line=line)
        users += [user.strip()] * len(row)
        items += row
        lines += [line] * len(row)
        positions += range(1, len(row) + 1)
    if not items:
        raise problem(file, "at least one interaction", "none")
    return RawData(
        files=(file,),
        user=_code(users),
        item=_code(items),
        rating=None,
        times=Times(np.array(positions, np.int64), 0),
        label=None,
        locate=lambda row: (file, lines[row]),
        notes=(f"{file.name} has no times: the order of a user's items counts",),
        only_ordered=True,
    )


def _code(values: list[str]) -> Coded:
    number = dict(zip(dict.fromkeys(values), itertools.count(), strict=False))
    return Coded(np.array([number[value] for value in values], np.int32), list(number))


def _titles(file: pathlib.Path | None) -> dict[str, str]:
    """Titles of a file with or without the header item,title."""
    if file is None:
        return {}
    has_header = header_of(file, Layout()) == TITLE_COLUMNS
    return read_titles(file, Layout(names=None if has_header else TITLE_COLUMNS), *TITLE_COLUMNS)


FORMAT = Format("MicroLens: *_pairs.csv or *_pairs.tsv, with *_titles.csv", read, {"titles": TITLES})
