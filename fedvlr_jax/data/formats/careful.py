"""Text tables row by row: slower than `tables`, with an exact message for the first line that breaks a rule."""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TextIO

from fedvlr_jax.data.messages import problem

LONGEST = 1 << 23  # characters of a field


class Layout(NamedTuple):
    """How a text table is written.

    Attributes:
      separator: between fields; longer than one character only without quotes.
      encoding: of the text; a byte order mark of UTF-8 is skipped.
      names: the columns of a file without header line; None where the first line has them.
      quoted: whether "a, b" is one field; a quoted field may span lines.
    """

    separator: str = ","
    encoding: str = "utf-8"
    names: tuple[str, ...] | None = None
    quoted: bool = True


def open_text(file: pathlib.Path, encoding: str, newline: str | None = "") -> TextIO:
    """A text file, decompressed where its ending says so.

    Raises:
      DataError: a file that cannot be read, or an encoding that does not exist.
    """
    import pyarrow as pa

    try:
        stream = pa.input_stream(str(file), compression="detect")
        return io.TextIOWrapper(
            stream, "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding, "strict", newline
        )
    except LookupError as error:
        raise problem(file, "an encoding such as utf-8 or latin-1 in --config.read.encoding", str(error)) from error
    except OSError as error:
        raise problem(file, "a readable file", error.strerror or str(error)) from error


def either_encoding(file: pathlib.Path, layout: Layout) -> Layout:
    """The layout in UTF-8 where the whole file is that, else in latin-1, which every file is."""
    try:
        with open_text(file, "utf-8") as stream:
            while stream.read(1 << 22):
                pass
    except UnicodeDecodeError:
        return layout._replace(encoding="latin-1")
    except (OSError, EOFError) as error:
        raise problem(file, "a whole file that can be read", str(error)) from error
    return layout._replace(encoding="utf-8")


def walk(file: pathlib.Path, layout: Layout, *, short: bool = False) -> Iterator[tuple[int, list[str]]]:
    """(line number from 1, fields) of every row that is not blank, the header among them.

    Args:
      file: may be compressed.
      layout: how it is written.
      short: whether rows may lack fields at their end.

    Raises:
      DataError: text that does not decode, broken quotes, or a row with another number of fields than the first
        (than ``layout.names``).
    """
    line, width = 0, len(layout.names) if layout.names else None
    try:
        with open_text(file, layout.encoding) as stream:
            for line, row in _rows(stream, layout):
                width = len(row) if width is None else width
                if len(row) > width or (len(row) < width and not short):
                    raise problem(file, f"{width} fields separated by {layout.separator!r}", f"{len(row)}", line=line)
                yield line, row
    except UnicodeDecodeError as error:
        found = f"{error.reason} after line {line}; --config.read.encoding names another encoding where there is one"
        raise problem(file, f"{layout.encoding} text", found) from error
    except csv.Error as error:
        found = f"{error}; --config.read.quoted=no takes quotes as text where there is such a setting"
        raise problem(file, f"fields separated by {layout.separator!r}", found, line=line + 1) from error
    except (OSError, EOFError) as error:
        raise problem(file, "a whole file that can be read", str(error), line=line + 1) from error


def _rows(stream: TextIO, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    if layout.quoted:
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST))
        reader = csv.reader(stream, delimiter=layout.separator, strict=True)
        for row in reader:
            if row:
                yield reader.line_num, row
    else:
        for line, text in enumerate(stream, start=1):
            if text := text.rstrip("\r\n"):
                yield line, text.split(layout.separator)


def header_of(file: pathlib.Path, layout: Layout) -> tuple[str, ...]:
    """The names of the columns.

    Raises:
      DataError: an empty file, a name twice, or what `walk` raises.
    """
    if layout.names:
        return layout.names
    _, header = next(walk(file, layout), (0, None))
    if header is None:
        raise problem(file, "a header line and rows below it", "an empty file")
    for name in header:
        if header.count(name) > 1:
            raise problem(file, "every column once", f"{name!r} {header.count(name)} times", line=1)
    return tuple(header)


def line_of(file: pathlib.Path, layout: Layout, row: int) -> int:
    """The line of a row, row 0 being the first below the header."""
    rows = walk(file, layout)
    if layout.names is None:
        next(rows)
    return next(line for number, (line, _) in enumerate(rows) if number == row)


def require_columns(file: pathlib.Path, header: Sequence[str], names: Sequence[str]) -> None:
    """Refuses a header that lacks one of the names.

    Raises:
      DataError: naming it and what is there.
    """
    for name in names:
        if name not in header:
            raise problem(file, f"a column {name!r}", f"the columns {', '.join(header)}", line=1)
