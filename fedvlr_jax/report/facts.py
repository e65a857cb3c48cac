"""What stands at the head and at the foot of every page: the data, the settings, the environment."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedvlr_jax.data.summary import summarise_data
from fedvlr_jax.data.times import UNITS, units_of
from fedvlr_jax.fields import flatten
from fedvlr_jax.report.pages import words_of
from fedvlr_jax.report.tables import Table, TableBlock
from fedvlr_jax.settings import defaults
from fedvlr_jax.types import Dataset

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}

Facts = Sequence[tuple[str, str | None]]
"""Pairs of (name, value); a value of None is not shown."""


def data_facts(dataset: Dataset) -> Facts:
    """The statistics of a data set in words."""
    found = summarise_data(dataset)
    q = [f"{x:g}" for x in found.history_q]
    cold = f"{100 * found.cold_test_rows / found.test_rows:.1f} %" if found.test_rows else "-"
    return [
        ("Data set", dataset.name),
        ("Users", f"{found.users:,}"),
        ("Items", f"{found.items:,}"),
        ("Interactions", f"{found.interactions:,}"),
        ("Density", f"{100 * found.density:.3g} %"),
        ("Train rows a user: least, quartiles, most", f"{q[0]} / {' '.join(q[1:-1])} / {q[-1]}"),
        ("Gini of the items' popularity", "-" if found.gini is None else f"{found.gini:.3f}"),
        ("Items without train rows", f"{found.unseen_items:,}"),
        ("Test rows, of cold items", f"{found.test_rows:,}, {found.cold_test_rows:,} ({cold})"),
        ("Time span", None if found.time_span is None else span_in_words(*found.time_span)),
        ("Visual features", _features(dataset.V, found.missing["V"])),
        ("Textual features", _features(dataset.C, found.missing["C"])),
    ]


def span_in_words(first: float, last: float) -> str:
    """Two times as days, where they look like times since 1970 in one unit, else as the numbers that they are.

    >>> span_in_words(0, 12), span_in_words(1.2e9, 1.3e9)
    ('0 to 12', '2008-01-10 to 2011-03-13')
    """
    place = units_of(np.array([first, last]))
    if place[0] != place[1] or not 0 < place[0] <= len(UNITS):
        return f"{first:.10g} to {last:.10g}"
    second = SECONDS[list(UNITS)[place[0] - 1]]
    try:
        days = [datetime.datetime.fromtimestamp(time * second, datetime.UTC).date() for time in (first, last)]
    except (OverflowError, ValueError, OSError):  # beyond the year 9999
        return f"{first:.10g} to {last:.10g}"
    return f"{days[0]} to {days[1]}"


def changed_settings(settings: Mapping[str, Any]) -> Table:
    """The settings that differ from the default."""
    usual, found = defaults(), dict(flatten(settings))
    rows = [
        (name, words_of(found[name]) or '""', words_of(default) or '""')
        for name, default in usual.items()
        if found[name] != default
    ]
    about = "All others have their default." if rows else "Every setting has its default."
    return Table("Settings", about, ("setting", "value", "default"), [TableBlock("", rows)], left=3)


def environment_facts(environment: Mapping[str, Any]) -> Facts:
    """What a result depends on beside its settings; without the workdir."""
    found = {name: value for name, value in environment.items() if name not in ("workdir", "command")}
    found["packages"] = {name: version for name, version in (found.get("packages") or {}).items() if version}
    return [(name, words_of(value)) for name, value in found.items() if value != {}]


def _features(features: np.ndarray | None, missing: int | None) -> str:
    if features is None:
        return "none"
    width = f"{features.shape[1]:,} numbers an item"
    return width if missing is None else f"{width}; imputed for {missing:,} items"
