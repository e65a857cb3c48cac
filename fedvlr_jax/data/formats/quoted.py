"""Tables with quotes, by the strict reader alone: a fast one takes what follows a stray quote for one long field."""

from __future__ import annotations

import array
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedvlr_jax.data.formats.careful import Layout, header_of, walk
from fedvlr_jax.data.formats.raw import Coded, Times

BLOCK = 1 << 24  # bytes that are looked at together


def has_quotes(file: pathlib.Path) -> bool:
    """Whether there is a quote anywhere in a file, compressed or not; False too for one that cannot be read."""
    import pyarrow as pa

    try:
        with pa.input_stream(str(file), compression="detect") as stream:
            while block := stream.read(BLOCK):
                if b'"' in block:
                    return True
    except OSError:
        pass  # who reads it says why
    return False


def read_quoted(
    file: pathlib.Path, layout: Layout, columns: Mapping[str, str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Columns by role, and a note where rows go on over several lines.

    Args:
      file: may be compressed.
      layout: how it is written, with quotes.
      columns: the column of each role.

    Returns:
      `Times` for a column of the role "time" of whole numbers of 64 bits, else `Coded`; at most one note.

    Raises:
      DataError: as `careful.walk`.
    """
    try:
        return _columns(file, layout, columns, whole_times="time" in columns)
    except _NotWholeError:
        return _columns(file, layout, columns, whole_times=False)


class _NotWholeError(Exception):
    """A time that is no whole number of 64 bits."""


def _columns(
    file: pathlib.Path, layout: Layout, columns: Mapping[str, str], *, whole_times: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    header, last, long, first_long = header_of(file, layout), 0, 0, 0
    coded = {role: header.index(name) for role, name in columns.items() if role != "time" or not whole_times}
    at_time = header.index(columns["time"]) if whole_times else None
    codes: dict[str, array.array[int]] = {role: array.array("i") for role in coded}
    numbers: dict[str, dict[str, int]] = {role: {} for role in coded}
    times = array.array("q")
    into = [(at, codes[role], numbers[role]) for role, at in coded.items()]
    for line, row in walk(file, layout):
        if last or layout.names is not None:
            for at, code, number in into:
                code.append(number.setdefault(row[at], len(number)))
            if at_time is not None:
                times.append(_whole(row[at_time]))
            if line - last > 1 and any("\n" in field or "\r" in field for field in row):
                long, first_long = long + 1, first_long or last + 1
        last = line
    found: dict[str, Any] = {
        role: Coded(np.array(codes[role], np.int32), list(number)) for role, number in numbers.items()
    }
    if whole_times:
        found["time"] = Times(np.array(times, np.int64), 0)
    return found, (_note(file, long, first_long),) if long else ()


def _note(file: pathlib.Path, count: int, line: int) -> str:
    return (
        f"{file.name}: {count} rows go on over several lines in quotes, the first from line {line} on; where a quote "
        "is missing such a row has swallowed others"
    )


def _whole(text: str) -> int:
    """A time as a number."""
    if not (text.isascii() and text.removeprefix("-").isdecimal() and len(text) < 19):
        raise _NotWholeError
    return int(text)
