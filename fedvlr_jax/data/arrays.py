"""Data sets from arrays or a frame in memory, under the rules of the canonical folder."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedvlr_jax.data.by_item import Features, by_index, features_of, titles_of
from fedvlr_jax.data.ids import as_column, as_ids, distinct_ids, numbers_of
from fedvlr_jax.data.interactions import SPLITS, Interactions, span_of
from fedvlr_jax.data.messages import Source, shown
from fedvlr_jax.data.splits import make_split
from fedvlr_jax.data.times import microseconds, warn_of_mixed_units
from fedvlr_jax.errors import DataError
from fedvlr_jax.types import Dataset

Column = Sequence[Any] | np.ndarray
"""One value a row: a list, an array, or what has ``to_numpy()``, as columns of frames have."""

TIMES = "numbers or datetime64"
LABELS = {int(label): int(label) for label in SPLITS} | {name: int(label) for label, name in SPLITS.items()}


def from_arrays(
    users: Column,
    items: Column,
    timestamps: Column | None = None,
    splits: Column | None = None,
    visual: Features | None = None,
    textual: Features | None = None,
    name: str = "arrays",
    *,
    item_ids: Column | None = None,
    item_titles: Sequence[str] | Mapping[Any, str] | None = None,
) -> Dataset:
    """A data set from interactions in memory; row n says that ``users[n]`` took ``items[n]``.

    Users and items are numbered in the ascending order of their ids, which `Dataset.user_ids` and `Dataset.item_ids`
    keep. The rules are those of the canonical folder: repeated (user, item) rows of one split are dropped with a
    `DataWarning`; without `splits`, each user's last interaction is the test item and the second last the validation
    item (of equal timestamps that of the larger item counts as later), and users with fewer than three distinct items
    keep all rows for training; feature rows are scaled to norm one.

    >>> dataset = from_arrays(
    ...     users=["ben", "ben", "ben", "ann", "ann", "ann"],
    ...     items=["tea", "cup", "pot", "pot", "tea", "cup"],
    ...     timestamps=[1, 2, 3, 4, 5, 6],
    ...     textual={"cup": [1.0, 0.0], "pot": [0.5, 0.5], "tea": [0.0, 2.0], "jug": [1.0, 0.2]},
    ... )
    >>> dataset.user_ids.tolist(), dataset.item_ids.tolist()
    (['ann', 'ben'], ['cup', 'jug', 'pot', 'tea'])
    >>> dataset.item_ids[dataset.test_item].tolist()
    ['cup', 'pot']

    Args:
      users, items: [rows], hashable ids of one kind: all str, all int, all tuples, ...
      timestamps: [rows], finite numbers, datetimes or datetime64; needed where there are no `splits`.
      splits: [rows], 0 or "train", 1 or "validation", 2 or "test".
      visual, textual: floats [i, d], rows in the order of `item_ids`, or by default of the sorted ids that occur; or
        a mapping from ids to vectors [d], or a frame of pandas with the ids as its index. An item of such a mapping
        that nobody took is an item too: nothing is known of it but its features, and it can be recommended.
      name: of the set, as it appears in results and messages.
      item_ids: all items there are, distinct; the default is those that occur in `items` and in mappings of features.
      item_titles: what to call the items, in the order of `item_ids`, or by id: a mapping, or a series of pandas
        with the ids as its index. "" where there is none.

    Raises:
      DataError: naming the argument, the index (from 0), the rule and what was found.
    """
    source = Source(name, "index", "user", "item", "timestamp", "split")
    columns = {"user": users, "item": items, "timestamp": timestamps, "split": splits}
    return _assemble(source, columns, {"visual": visual, "textual": textual}, item_ids, item_titles)


def from_frame(
    frame: Any,
    user: str = "userID",
    item: str = "itemID",
    timestamp: str | None = "timestamp",
    split: str | None = None,
    visual: Features | None = None,
    textual: Features | None = None,
    name: str = "frame",
    *,
    item_ids: Column | None = None,
    item_titles: Sequence[str] | Mapping[Any, str] | None = None,
) -> Dataset:
    """A data set from a frame of pandas, polars, or anything whose ``frame[column]`` has ``to_numpy()``.

    Args:
      frame: one interaction a row.
      user, item: names of the columns with ids.
      timestamp, split: names of the columns with times and with split labels; None where there is none.
      visual, textual, name, item_ids, item_titles: as `from_arrays`, which does the rest.

    Raises:
      DataError: for a column that is not there, and as `from_arrays`, naming the column and the row (from 0).
    """
    source = Source(name, "row", user, item, timestamp or "timestamp", split or "split")
    named = {"user": user, "item": item, "timestamp": timestamp, "split": split}
    columns = {part: None if column is None else _column_of(frame, column, source) for part, column in named.items()}
    return _assemble(source, columns, {"visual": visual, "textual": textual}, item_ids, item_titles)


def _column_of(frame: Any, column: str, source: Source) -> Column:
    try:
        return frame[column]
    except Exception as error:  # every kind of frame has its own
        found = ", ".join(map(str, getattr(frame, "columns", ()))) or type(error).__name__
        hint = "; give timestamp=None if there is none" if column == source.timestamp else ""
        raise DataError(f"{source.name}: expected a column {column!r}, found {found}{hint}") from error


def _assemble(
    source: Source,
    columns: Mapping[str, Column | None],
    features: Mapping[str, Features | None],
    item_ids: Column | None,
    item_titles: Sequence[str] | Mapping[Any, str] | None,
) -> Dataset:
    """The data set of `from_arrays`; the columns have the names of fields of `Source`."""
    rows = _checked_rows(source, columns)
    features, item_titles = _by_index(source, rows["item"], {**features, "item_titles": item_titles}, item_ids)
    user_ids = distinct_ids(source, source.user, rows["user"])
    order = _item_order(source, rows["item"], features, item_ids)
    item_ids = distinct_ids(source, source.item, order)
    source = source._replace(user_ids=user_ids, item_ids=item_ids)
    interactions = _interactions(source, rows, user_ids, item_ids)
    split = make_split(interactions, len(user_ids))
    # Row numbers[n] of what comes in the order of the ids belongs to item n.
    numbers = np.argsort(numbers_of(item_ids, order))
    V, C = (features_of(source, name, order, numbers, values) for name, values in features.items())
    return Dataset(
        name=source.name,
        num_users=len(user_ids),
        num_items=len(item_ids),
        V=V,
        C=C,
        user_ids=_unless_numbers(user_ids),
        item_ids=_unless_numbers(item_ids),
        item_titles=None if item_titles is None else titles_of(source, order, numbers, item_titles),
        **split._asdict(),
        time_span=interactions.span,
    )


def _by_index(
    source: Source, items: np.ndarray, known: Mapping[str, Any], item_ids: Column | None
) -> tuple[dict[str, Features | None], Any]:
    """Features by their argument, and titles: mappings where an index names the items."""
    found = {name: by_index(source, name, values, items, item_ids) for name, values in known.items()}
    return found, found.pop("item_titles")


def _checked_rows(source: Source, columns: Mapping[str, Column | None]) -> dict[str, np.ndarray]:
    """The columns that there are, all of one length."""
    if columns["timestamp"] is None and columns["split"] is None:
        expected = (
            f"{source.split} labels, or a {source.timestamp} to split by (last = test, second last = validation)"
        )
        raise source.problem(expected, "neither")
    rows = {part: as_column(source, getattr(source, part), x) for part, x in columns.items() if x is not None}
    for part, values in rows.items():
        if len(values) != len(rows["user"]):
            expected = f"{len(rows['user'])} values as of {source.user}"
            raise source.problem(expected, f"{len(values)}", field=getattr(source, part))
    if not len(rows["user"]):
        raise source.problem("at least one interaction", "none")
    return rows


def _item_order(
    source: Source, items: np.ndarray, features: Mapping[str, Features | None], item_ids: Column | None
) -> np.ndarray:
    """The ids of all items in the order in which rows of features come."""
    if item_ids is not None:
        order = as_column(source, "item_ids", item_ids)
        if len(distinct_ids(source, "item_ids", order)) < len(order):
            raise DataError(f"{source.name}, item_ids: expected distinct ids, found some twice")
        return order
    mapped = [as_ids(list(values)) for values in features.values() if isinstance(values, Mapping)]
    occurring = distinct_ids(source, source.item, items)
    return distinct_ids(source, source.item, as_ids([x for ids in (occurring, *mapped) for x in ids.tolist()]))


def _interactions(
    source: Source, rows: Mapping[str, np.ndarray], user_ids: np.ndarray, item_ids: np.ndarray
) -> Interactions:
    item = numbers_of(item_ids, rows["item"])
    absent = np.flatnonzero(item < 0)
    if absent.size:
        found = f"{shown(rows['item'][absent[0]])} ({absent.size} such rows)"
        raise source.problem("ids among item_ids", found, line=int(absent[0]), field=source.item)
    time = _times(source, rows["timestamp"]) if "timestamp" in rows else None
    return Interactions(
        source=source,
        line=np.arange(len(item)),
        user=numbers_of(user_ids, rows["user"]),
        item=item,
        timestamp=time,
        split=_labels(source, rows["split"]) if "split" in rows else None,
        span=None if time is None else _span(rows["timestamp"], time),
    )


def _span(written: np.ndarray, time: np.ndarray) -> tuple[float, float]:
    """The earliest and the latest time: as they are written, in seconds since 1970 where they are dates."""
    if written.dtype.kind == "M":
        return span_of(written.astype("datetime64[us]").astype(np.int64) / 1e6)
    is_date = written.dtype.kind == "O" and isinstance(written.flat[0], datetime.datetime)
    return span_of(time / 1e9 if is_date else time.astype(float))


def _times(source: Source, values: np.ndarray) -> np.ndarray:
    dates = False
    if values.dtype.kind == "O":  # Python's datetimes, or numbers that some frames hand out as objects
        dates = isinstance(values.flat[0], datetime.datetime)
        values = _nanoseconds(source, values) if dates else _numbers(source, values)
    if values.dtype.kind not in "iufM":
        raise source.problem(TIMES, f"{shown(values.flat[0])} (dtype {values.dtype})", field=source.timestamp)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise source.problem("a finite time", f"{values[bad[0]]}", line=int(bad[0]), field=source.timestamp)
    if values.dtype.kind == "M":
        return values.astype(np.int64)
    if not dates:
        warn_of_mixed_units(f"{source.name}, field {source.timestamp}", values.astype(np.float64))
    return values


def _numbers(source: Source, values: np.ndarray) -> np.ndarray:
    """Objects that are numbers or datetime64, as an array."""
    for line, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float | np.number | np.datetime64):
            raise source.problem(TIMES, shown(value), line=line, field=source.timestamp)
    return np.array([*values])


def _nanoseconds(source: Source, values: np.ndarray) -> np.ndarray:
    """int64 [rows] since 1970 of Python's datetimes, or of subclasses that count nanoseconds."""
    has_zone, times = values[0].tzinfo is not None, []
    for line, value in enumerate(values):
        is_date = isinstance(value, datetime.datetime) and value == value
        if not is_date or (value.tzinfo is not None) != has_zone:
            expected = f"a datetime {'with' if has_zone else 'without'} a time zone, as in the first row"
            raise source.problem(expected, shown(value), line=line, field=source.timestamp)
        times.append(1000 * microseconds(value) + getattr(value, "nanosecond", 0))
    try:
        return np.array(times, np.int64)
    except OverflowError as error:
        raise source.problem("dates from 1677 to 2262", str(error), field=source.timestamp) from error


def _labels(source: Source, values: np.ndarray) -> np.ndarray:
    found = [LABELS.get(value, -1) for value in values.tolist()]
    if -1 in found:
        at = found.index(-1)
        expected = ", ".join(f"{label} ({name})" for label, name in SPLITS.items())
        raise source.problem(f"one of {expected}", shown(values[at]), line=at, field=source.split)
    return np.array(found)


def _unless_numbers(ids: np.ndarray) -> np.ndarray | None:
    """The ids, or None where each is its own number."""
    return None if ids.dtype.kind in "iu" and np.array_equal(ids, np.arange(len(ids))) else ids
