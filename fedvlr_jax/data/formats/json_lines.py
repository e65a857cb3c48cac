"""Files with one JSON object a line, through pyarrow; on any failure each line is read again for the message."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from fedvlr_jax.data.formats.careful import open_text
from fedvlr_jax.data.formats.raw import Coded, RawData, Times
from fedvlr_jax.data.formats.tables import coded, is_id
from fedvlr_jax.data.messages import problem

BLOCK = 1 << 24  # bytes; the longest line must fit


class Kind(NamedTuple):
    """What a field must be: its type, as Python and as pyarrow has it, and in words."""

    is_good: Callable[[Any], bool]
    arrow: str
    expected: str


ID = Kind(lambda value: isinstance(value, str) and is_id(value), "string", "an id: a text without spaces around")
KINDS = {
    "user": ID,
    "item": ID,
    "rating": Kind(lambda value: type(value) in (int, float) and math.isfinite(value), "float64", "a finite number"),
    "time": Kind(lambda value: type(value) is int and abs(value) < 2**63, "int64", "a whole number of 64 bits"),
}


def read_interactions(file: pathlib.Path, fields: Mapping[str, str]) -> RawData:
    """The interactions of a JSON lines file.

    Args:
      file: may be compressed.
      fields: the field of each role: user and item (text), rating (a number), time (a whole number).

    Raises:
      DataError: a line that is no JSON object, a field that is missing or of another type; with file, line and field.
    """
    import pyarrow as pa

    try:
        table = _parse(file, fields)
    except (pa.ArrowInvalid, OSError) as error:
        _check_lines(file, fields)
        raise problem(file, "JSON objects, one a line", str(error).splitlines()[0]) from error
    if not table.num_rows:
        raise problem(file, "at least one interaction", "none")
    if any(table[name].null_count for name in fields.values()):
        _check_lines(file, fields)
    user, item = (coded(table[fields[role]].dictionary_encode()) for role in ("user", "item"))
    if not all(map(is_id, user.names + item.names)):
        _check_lines(file, fields)
    rating = coded(table[fields["rating"]].dictionary_encode())
    return RawData(
        files=(file,),
        user=user,
        item=item,
        rating=Coded(rating.code, [repr(value) for value in rating.names]),
        times=Times(table[fields["time"]].combine_chunks().to_numpy(), 0),
        label=None,
        locate=lambda row: (file, next(line for number, (line, _) in enumerate(walk(file)) if number == row)),
    )


def read_titles(file: pathlib.Path | None, item: str, title: str) -> dict[str, str]:
    """Title by item id of a JSON lines file, without those that are empty; {} for no file."""
    if file is None:
        return {}
    pairs = ((row.get(item), row.get(title)) for _, row in walk(file))
    return {
        str(key): text.strip() for key, text in pairs if key is not None and isinstance(text, str) and text.strip()
    }


def walk(file: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of every line that is not blank.

    Raises:
      DataError: a line that is no JSON object.
    """
    line = 0
    try:
        with open_text(file, "utf-8") as stream:
            for line, text in enumerate(stream, start=1):
                if text.strip():
                    row = json.loads(text)
                    if not isinstance(row, dict):
                        raise problem(file, "a JSON object", text.strip()[:40], line=line)
                    yield line, row
    except json.JSONDecodeError as error:
        raise problem(file, "a JSON object", error.msg, line=line) from error
    except (UnicodeDecodeError, OSError, EOFError) as error:
        raise problem(file, "UTF-8 text that can be read", str(error), line=line + 1) from error


def _parse(file: pathlib.Path, fields: Mapping[str, str]) -> Any:
    import pyarrow as pa
    from pyarrow import json as arrow_json

    schema = pa.schema([(name, pa.type_for_alias(KINDS[role].arrow)) for role, name in fields.items()])
    return arrow_json.read_json(
        str(file),
        arrow_json.ReadOptions(block_size=BLOCK),
        arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    )


def _check_lines(file: pathlib.Path, fields: Mapping[str, str]) -> None:
    """Raises for the first line that lacks a field or has one of another type."""
    for line, row in walk(file):
        for role, name in fields.items():
            if not KINDS[role].is_good(row.get(name)):
                raise problem(
                    file, KINDS[role].expected, repr(row[name]) if name in row else "none", line=line, field=name
                )
