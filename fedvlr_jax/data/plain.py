"""A fast reader of plain tables: unsigned decimal numbers between commas, and nothing else.

Whatever else CSV allows (quotes, signs, exponents, blank lines, broken rows) is not read here but answered with None;
a slower reader that knows CSV, and the line of every fault, takes over.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

COMMA, NEWLINE, DOT, ZERO = b",\n.0"
MAX_WIDTH = 18  # so many digits fit int64
MARK = b"\xef\xbb\xbf"  # of UTF-8, at the start of some files


class Column(NamedTuple):
    """A column of decimal numbers, exactly ``number / 10**places``.

    Attributes:
      number: int64 [rows].
      places: digits behind the point of the longest fraction; 0 where no value has a point.
      width: characters of the longest value.
    """

    number: np.ndarray
    places: int
    width: int


def read_plain(content: bytes) -> dict[str, Column] | None:
    """The columns of a plain table by the names in its first line, None where it is not plain or has no rows."""
    content = content.removeprefix(MARK).replace(b"\r\n", b"\n")
    head, _, body = content.partition(b"\n")
    names = head.decode("ascii", "replace").split(",")
    data = np.frombuffer(body if body.endswith(b"\n") else body + b"\n", np.uint8)
    end = np.flatnonzero((data == COMMA) | (data == NEWLINE))
    if end.size % len(names) or len(set(names)) < len(names):
        return None
    width_rc = np.diff(end, prepend=-1).reshape(-1, len(names)) - 1
    end_rc = end.reshape(-1, len(names))
    is_last = data[end_rc] == NEWLINE
    if is_last[:, :-1].any() or not is_last[:, -1].all():
        return None
    columns = {}
    for c, name in enumerate(names):
        column = _read_column(data, end_rc[:, c], width_rc[:, c])
        if column is None:
            return None
        columns[name] = column
    return columns


def _read_column(data: np.ndarray, end: np.ndarray, width: np.ndarray) -> Column | None:
    """The fields of the given widths in front of `end`, read digit by digit from the right, all rows at once."""
    widest = int(width.max())
    if width.min() < 1 or widest > MAX_WIDTH:
        return None
    number, power = np.zeros(len(end), np.int64), np.ones(len(end), np.int64)
    places = np.zeros(len(end), np.int64)
    for k in range(widest):
        inside = width > k
        character = np.where(inside, data[end - 1 - k], ZERO)
        is_dot = character == DOT
        digit = np.where(is_dot, 0, character - ZERO)  # unsigned: characters below "0" become large
        if (digit > 9).any():
            return None
        number += digit * power
        if is_dot.any():
            if k == 0 or (is_dot & ((places > 0) | (width == k + 1))).any():
                return None  # "5.", "1.2.3" or ".5"
            places[is_dot] = k
        power = np.where(is_dot, power, 10 * power) if k < MAX_WIDTH - 1 else power
    most = int(places.max())
    if int(number.max()) * 10**most >= 2**63:
        return None
    return Column(number * 10 ** (most - places), most, widest)
