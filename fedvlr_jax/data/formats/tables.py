"""Text tables of any size through pyarrow: parsed fast, and on any failure read again for the exact message.

Tables with quotes are left to `quoted`.
"""

from __future__ import annotations

import functools
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.data.formats.careful import Layout, header_of, line_of, require_columns, walk
from fedvlr_jax.data.formats.quoted import has_quotes, read_quoted
from fedvlr_jax.data.formats.raw import Coded, RawData, Times
from fedvlr_jax.data.formats.times import read_times
from fedvlr_jax.data.messages import problem

BLOCK = 1 << 23  # bytes that one thread parses at a time
STAND_IN = b"\x1f"  # one byte for separators of several; text has none
LABELS = {"0": 0, "1": 1, "2": 2, "train": 0, "valid": 1, "validation": 1, "test": 2}


def is_id(text: str) -> bool:
    """Whether a text can be an id: it is not empty, has no spaces around, and is on one line."""
    return bool(text) and text == text.strip() and "\n" not in text and "\r" not in text


def _is_finite(text: str) -> bool:
    try:
        return "_" not in text and math.isfinite(float(text))
    except ValueError:
        return False


class Rule(NamedTuple):
    """What every distinct value of a column must be, and how that is said."""

    is_good: Callable[[str], bool]
    expected: str


ID = Rule(is_id, "an id on one line without spaces around")
RULES = {
    "user": ID,
    "item": ID,
    "rating": Rule(_is_finite, "a finite number"),
    "label": Rule(LABELS.__contains__, f"one of {', '.join(LABELS)}"),
}


def read_interactions(file: pathlib.Path, layout: Layout, columns: Mapping[str, str]) -> RawData:
    """The interactions of a table.

    Args:
      file: may be compressed.
      layout: how it is written.
      columns: the column of each role: user, item, and any of rating, time and label.

    Raises:
      DataError: a missing column, one for two roles, an empty or padded id, a rating or time that is no number, an
        unknown label, what `careful.walk` finds; with file, line and field.
    """
    require_columns(file, header_of(file, layout), list(columns.values()))
    _require_own_columns(file, columns)
    quoted = layout.quoted and has_quotes(file)
    table, notes = read_quoted(file, layout, columns) if quoted else (_read(file, layout, columns), ())
    if not len(table["user"].code):
        raise problem(file, "at least one interaction", "none")

    def locate(row: int) -> tuple[pathlib.Path, int]:
        return file, line_of(file, layout, row)

    def refuse(role: str, name: int, expected: str) -> None:
        row = int(np.flatnonzero(table[role].code == name)[0])
        raise problem(file, expected, repr(table[role].names[name]), line=locate(row)[1], field=columns[role])

    for role in (role for role in RULES if role in table):
        bad = next((k for k, text in enumerate(table[role].names) if not RULES[role].is_good(text)), None)
        if bad is not None:
            refuse(role, bad, RULES[role].expected)
    times, label = table.get("time"), table.get("label")
    if isinstance(times, Coded):
        times = read_times(times, functools.partial(refuse, "time"))
    return RawData(
        files=(file,),
        user=table["user"],
        item=table["item"],
        rating=table.get("rating"),
        times=times,
        label=np.array([LABELS[name] for name in label.names], np.int8)[label.code] if label else None,
        locate=locate,
        notes=notes,
    )


def _require_own_columns(file: pathlib.Path, columns: Mapping[str, str]) -> None:
    for name in columns.values():
        if len(roles := [role for role, of in columns.items() if of == name]) > 1:
            raise problem(file, f"a column of its own for {' and '.join(roles)}", f"{name!r} for all of them", line=1)


def read_titles(file: pathlib.Path | None, layout: Layout, item: str, title: str) -> dict[str, str]:
    """Title by item id, without those that are empty; {} for no file. Rows may lack fields after the title."""
    if file is None:
        return {}
    header = header_of(file, layout)
    require_columns(file, header, (item, title))
    rows = (row for _, row in walk(file, layout, short=True))
    if layout.names is None:
        next(rows)
    at_item, at_title = header.index(item), header.index(title)
    whole = (row for row in rows if len(row) > max(at_item, at_title))
    return {row[at_item]: row[at_title].strip() for row in whole if row[at_title].strip()}


def coded(column: Any) -> Coded:
    """A dictionary-encoded pyarrow column as `Coded`."""
    column = column.unify_dictionaries().combine_chunks()
    return Coded(
        column.indices.to_numpy(zero_copy_only=False).astype(np.int32, copy=False), column.dictionary.to_pylist()
    )


def _read(file: pathlib.Path, layout: Layout, columns: Mapping[str, str]) -> dict[str, Any]:
    """Columns by role: `Times` where all times are whole numbers, else `Coded`."""
    import pyarrow as pa

    try:
        try:
            table = _parse(file, layout, columns, whole_times=True)
        except pa.ArrowInvalid:
            table = _parse(file, layout, columns, whole_times=False)
    except (pa.ArrowInvalid, OSError, UnicodeError) as error:
        for _ in walk(file, layout):
            pass  # raises where the file breaks a rule
        raise problem(file, "a table that can be read", str(error).splitlines()[0]) from error
    if "time" in columns and pa.types.is_integer(table[columns["time"]].type):
        times = {"time": Times(table[columns["time"]].combine_chunks().to_numpy(), 0)}
    else:
        times = {}
    return {role: coded(table[name]) for role, name in columns.items() if role not in times} | times


def _parse(file: pathlib.Path, layout: Layout, columns: Mapping[str, str], *, whole_times: bool) -> Any:
    import pyarrow as pa
    from pyarrow import csv

    text = pa.dictionary(pa.int32(), pa.string())
    types = {name: pa.int64() if role == "time" and whole_times else text for role, name in columns.items()}
    return csv.read_csv(
        _source(file, layout),
        csv.ReadOptions(
            column_names=list(layout.names) if layout.names else None, encoding=layout.encoding, block_size=BLOCK
        ),
        csv.ParseOptions(
            delimiter=layout.separator if len(layout.separator) == 1 else STAND_IN.decode(),
            quote_char=False,
        ),
        csv.ConvertOptions(
            include_columns=list(types), column_types=types, null_values=[], strings_can_be_null=False
        ),
    )


def _source(file: pathlib.Path, layout: Layout) -> Any:
    """What pyarrow reads: the file, or for a separator of several characters its content with another separator."""
    import pyarrow as pa

    if len(layout.separator) == 1:
        return str(file)
    with pa.input_stream(str(file), compression="detect") as stream:
        content = stream.read()
    if STAND_IN in content:
        raise problem(file, "text without control characters", "a byte 0x1f")
    return pa.BufferReader(content.replace(layout.separator.encode(layout.encoding), STAND_IN))
