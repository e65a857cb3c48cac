"""What a reader of any raw format returns: rows with the ids of the file, and what is known about the items."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fedvlr_jax.fields import Field

TITLES = Field("", 'file of titles below the raw folder; "" = the one that the format names, if it is there')


class Coded(NamedTuple):
    """A column of text, each distinct value once.

    Attributes:
      code: int32 [rows], index into `names`.
      names: the distinct values as they are written in the file.
    """

    code: np.ndarray
    names: list[str]


class Times(NamedTuple):
    """Exact times: ``value * 10**-decimals`` in the unit of the file.

    Attributes:
      value: int64 [rows].
      decimals: how many digits after the point the file has, 0 for whole numbers.
      unit: what dates say themselves, "s" since 1970; None for numbers.
    """

    value: np.ndarray
    decimals: int
    unit: str | None = None


FeatureSource = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]
"""Original item ids -> (features [i, d] with zeros where an item has none, bool [i] of those that have some)."""


class RawData(NamedTuple):
    """The interactions of a raw data set, row by row as they are in its files.

    Attributes:
      files: what was read, for checksums.
      user, item: original ids.
      rating, times, label: None where the files have none; a label is int8, 0 train, 1 validation, 2 test.
      locate: row number -> (file, line), for messages.
      titles: title by original item id; may lack items, empty where there are no titles.
      features: by modality, "image" and "text"; empty where the files have none.
      notes: what the reader decided by itself, one sentence each.
      only_ordered: whether the times are places among a user's rows, which say nothing across users.
    """

    files: tuple[pathlib.Path, ...]
    user: Coded
    item: Coded
    rating: Coded | None
    times: Times | None
    label: np.ndarray | None
    locate: Callable[[int], tuple[pathlib.Path, int]]
    titles: Mapping[str, str] = {}
    features: Mapping[str, FeatureSource] = {}
    notes: tuple[str, ...] = ()
    only_ordered: bool = False


class Format(NamedTuple):
    """A raw format.

    Attributes:
      about: which files it is, in one line.
      read: (folder, options) -> RawData; DataError for what breaks a rule, with file, line, field, expected, found.
      options: the settings ``config.read.*`` of this format, by name.
    """

    about: str
    read: Callable[[pathlib.Path, Mapping[str, str]], RawData]
    options: Mapping[str, Field]
