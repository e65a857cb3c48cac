"""Several files of interactions as one."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from fedvlr_jax.data.formats.raw import Coded, RawData, Times
from fedvlr_jax.data.messages import problem


def concatenate(raws: Sequence[RawData]) -> RawData:
    """The rows of several files, one after the other.

    Raises:
      DataError: a column that one file has and another lacks, or times that do not fit 64 bits together.
    """
    first = raws[0]
    for raw in raws[1:]:
        for name in ("rating", "times", "label"):
            if (getattr(raw, name) is None) != (getattr(first, name) is None):
                raise problem(raw.files[0], f"the columns of {first.files[0].name}", f"another set: {name} differs")
    starts = np.cumsum([0, *(len(raw.user.code) for raw in raws)])

    def locate(row: int) -> tuple[pathlib.Path, int]:
        part = int(np.searchsorted(starts, row, side="right")) - 1
        return raws[part].locate(row - int(starts[part]))

    return first._replace(
        files=tuple(file for raw in raws for file in raw.files),
        user=_join([raw.user for raw in raws]),
        item=_join([raw.item for raw in raws]),
        rating=_join([raw.rating for raw in raws if raw.rating is not None]) if first.rating else None,
        times=_join_times({raw.files[0]: raw.times for raw in raws if raw.times is not None})
        if first.times
        else None,
        label=np.concatenate([raw.label for raw in raws if raw.label is not None])
        if first.label is not None
        else None,
        locate=locate,
    )


def _join(columns: Sequence[Coded]) -> Coded:
    """One coding for several columns."""
    number: dict[str, int] = {}
    codes = []
    for column in columns:
        new = np.array([number.setdefault(name, len(number)) for name in column.names], np.int32)
        codes.append(new[column.code])
    return Coded(np.concatenate(codes), list(number))


def _join_times(times: Mapping[pathlib.Path, Times]) -> Times:
    """Exact times with as many decimals as the finest."""
    decimals = max(part.decimals for part in times.values())
    for file, part in times.items():
        largest = max(map(abs, (int(part.value.min()), int(part.value.max()))))
        if largest * 10 ** (decimals - part.decimals) >= 2**63:
            expected = f"times that fit 64 bits with {decimals} digits after the point, as another file has"
            raise problem(file, expected, f"{largest / 10**part.decimals:g}")
    units = {part.unit for part in times.values()}
    unit = units.pop() if len(units) == 1 else None
    return Times(
        np.concatenate([part.value * 10 ** (decimals - part.decimals) for part in times.values()]), decimals, unit
    )
