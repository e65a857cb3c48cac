"""The whole way from a raw folder to a canonical one."""

from __future__ import annotations

import importlib.metadata
import pathlib
import platform
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.data.formats import RawData, read_raw
from fedvlr_jax.data.formats.archives import unpacked
from fedvlr_jax.data.formats.files import checksums
from fedvlr_jax.data.formats.times import find_unit
from fedvlr_jax.data.messages import DataWarning
from fedvlr_jax.data.prepare import filters, splits
from fedvlr_jax.data.prepare.features import MISSING_TITLE, Imputed, join, join_titles
from fedvlr_jax.data.prepare.rows import Names, Rows, number, without_gaps
from fedvlr_jax.data.prepare.settings import check_settings, least_rating
from fedvlr_jax.data.prepare.statistics import Sizes, sizes, statistics
from fedvlr_jax.data.prepare.writing import Prepared, earlier_facts, write
from fedvlr_jax.errors import ConfigError, DataError

VERSION = 2  # of the steps: raised whenever the same settings and files give another folder
TIE_RULE = "at equal times the row with the larger original item id is the later one"
_WAYS_OUT = (
    "lower --config.split.valid and --config.split.test, or see --config.core",
    "rounds and settings are chosen by them: set --config.split.valid above 0, or another --config.split.by",
    "set --config.split.test above 0, or another --config.split.by",
)
PACKAGES = ("fedvlr_jax", "numpy", "pyarrow")


class Done(NamedTuple):
    """What a call did.

    Attributes:
      facts: the content of ``prepared.json``.
      is_new: False where the folder was there already.
    """

    facts: Mapping[str, Any]
    is_new: bool


def prepare(
    settings: Mapping[str, Any],
    folder: pathlib.Path,
    out: pathlib.Path,
    report: Callable[[str], None] = lambda line: None,
) -> Done:
    """Prepares a raw folder, unless `out` has the same settings and raw files already.

    Args:
      settings: as of `settings.default_settings`.
      folder: the raw files, or an archive of them; nothing in it is changed.
      out: the canonical folder; an archive is unpacked beside it, and the copy deleted.
      report: gets a line before each longer part.

    Raises:
      ConfigError, DataError: a setting or a raw file that breaks a rule, or an `out` with other content.
    """
    check_settings(settings)
    earlier = earlier_facts(out)
    report(f"reading {folder}")
    with unpacked(folder, out.parent) as folder:
        raw = read_raw(settings["format"], folder, settings["read"])
        identity = {"version": VERSION, "settings": dict(settings), "raw": checksums(raw.files, folder)}
        if earlier is not None:
            _require_same(out, earlier, identity)
            return Done(earlier, is_new=False)
        prepared = make(settings, raw, identity, report)
        report(f"writing {out}")
        write(out, prepared)
        return Done(prepared.facts, is_new=True)


def make(
    settings: Mapping[str, Any],
    raw: RawData,
    identity: Mapping[str, Any],
    report: Callable[[str], None] = lambda line: None,
) -> Prepared:
    """The prepared set in memory.

    Args:
      settings: checked ones.
      raw: what a reader returned.
      identity: first entries of ``prepared.json``.
      report: as of `prepare`.
    """
    _require_times_of_all(settings, raw)
    for note in raw.notes:
        report(note)
    unit = None if raw.times is None else settings["time"]["unit"] or find_unit(raw.times, raw.locate)
    rows, names = number(raw)
    _warn_about(rows, names)
    report(f"filtering {len(rows.user):,} rows")
    rows, steps = _filter(settings, rows, names)
    if settings["order"] == "time":
        rows = rows.take(splits.chronological(rows))
    split = _split(settings, rows)
    rows = splits.with_train_rows(split.rows)
    steps.append(("users with train rows", sizes(rows)))
    _require_all_splits(rows)
    _warn_about_ties(split.tied_users, rows)
    rows, names = without_gaps(rows, names)
    report(f"joining features of {len(names.items):,} items" if raw.features else "the raw files have no features")
    features = {name: join(name, source, names.items) for name, source in raw.features.items()}
    titles, missing = _titles_and_missing(raw, features, names.items)
    facts = {
        **identity,
        "steps": {name: size._asdict() for name, size in steps},
        "statistics": statistics(rows, _labels(rows)),
        "time": None if raw.times is None else {"unit": unit, "decimals": raw.times.decimals},
        "ties": {"users": split.tied_users, "rule": TIE_RULE},
        "imputed": {name: len(items) for name, items in missing.items()},
        "features": {name: _shape(found) for name, found in features.items()},
        "notes": list(raw.notes),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
    }
    arrays = {name: found.features for name, found in features.items()}
    return Prepared(rows, names, titles, arrays, missing, facts)


def _titles_and_missing(
    raw: RawData, features: Mapping[str, Imputed], items: list[str]
) -> tuple[list[str], dict[str, np.ndarray]]:
    """The title of every item, and the imputed items by modality and "title", each of which is warned about."""
    titles, untitled = join_titles(raw.titles, items)
    missing = {name: found.missing for name, found in features.items()} | ({"title": untitled} if raw.titles else {})
    for name, numbers in missing.items():
        if len(numbers):
            instead = f"get {MISSING_TITLE!r}" if name == "title" else "get the mean of the others"
            _warn(f"{len(numbers)} of {len(items)} items have no {name} and {instead} (listed in missing.npz)")
    return titles, missing


def _filter(settings: Mapping[str, Any], rows: Rows, names: Names) -> tuple[Rows, list[tuple[str, Sizes]]]:
    """The rows that stay, and the sizes after each step."""
    steps, least = [("raw", sizes(rows))], least_rating(settings)
    if least is not None:
        if rows.rating is None:
            raise ConfigError(f"min_rating={settings['min_rating']}: expected files with ratings, found none")
        rows = filters.rated(rows, names.ratings, least)
        steps.append((f"ratings of at least {least:g}", sizes(rows)))
    if settings["duplicates"] != "keep":
        rows = filters.one_row_a_pair(rows, settings["duplicates"])
        steps.append((f"{settings['duplicates']} row of each pair", sizes(rows)))
    least_user, least_item = settings["core"]["per_user"], settings["core"]["per_item"]
    rows = filters.k_core(rows, least_user, least_item)
    steps.append((f"core of {least_user} a user, {least_item} an item", sizes(rows)))
    if not len(rows.user):
        raise DataError(f"expected interactions after all filters, found none: {dict(steps)}")
    return rows, steps


def _split(settings: Mapping[str, Any], rows: Rows) -> splits.Split:
    by, valid, test = (settings["split"][name] for name in ("by", "valid", "test"))
    if by == "labels":
        if rows.label is None:
            raise ConfigError("split.by=labels: expected files with a column of labels, found none")
        return splits.Split(rows, 0)
    if rows.time is None:
        raise ConfigError(
            f"split.by={by}: expected files with times, found none; a split of the files is split.by=labels"
        )
    if by == "leave-one-out":
        return splits.leave_one_out(rows)
    return (splits.by_ratio if by == "ratio" else splits.by_global_time)(rows, valid, test)


def _require_times_of_all(settings: Mapping[str, Any], raw: RawData) -> None:
    """Refuses one cut in time for all users where times are places among a user's own rows."""
    if raw.only_ordered and settings["split"]["by"] == "global-time":
        raise ConfigError(
            "split.by=global-time: expected times that compare across users, found the places of each user's items "
            f"in {raw.files[0].name}; leave-one-out and ratio split by them"
        )


def _require_same(out: pathlib.Path, earlier: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    for name, value in identity.items():
        if earlier.get(name) != value:
            raise DataError(
                f"--out={out}: expected a free folder, or one that was prepared with the same settings from the same "
                f"files, found other {name}; choose another --out or delete it"
            )


def _require_all_splits(rows: Rows) -> None:
    for label, name in enumerate(("train", "validation", "test")):
        if not np.any(rows.label == label):
            raise DataError(f"expected {name} rows after the split, found none; {_WAYS_OUT[label]}")


def _labels(rows: Rows) -> np.ndarray:
    if rows.label is None:
        raise ValueError("expected rows with labels, found none")
    return rows.label


def _warn_about(rows: Rows, names: Names) -> None:
    """Says what in the raw rows may be a slip: ratings and times of zero and below."""
    if rows.rating is not None:
        low = np.array([float(text) <= 0 for text in names.ratings], bool)
        if count := int(low[rows.rating].sum()):
            _warn(f"{count} rows have a rating of zero or below; they count like all others unless min_rating is set")
    if rows.time is not None and (count := int((rows.time <= 0).sum())):
        _warn(f"{count} rows have a time of zero or below; they count as the earliest ones")


def _warn_about_ties(tied_users: int, rows: Rows) -> None:
    if tied_users:
        total = sizes(rows).users
        _warn(f"equal times decide what is held out of {tied_users} of {total} users: {TIE_RULE}")


def _warn(message: str) -> None:
    warnings.warn(message, DataWarning, stacklevel=3)


def _shape(found: Imputed) -> dict[str, Any]:
    return {"shape": list(found.features.shape), "dtype": str(found.features.dtype)}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
