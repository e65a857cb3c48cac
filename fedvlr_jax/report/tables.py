"""Tables of text cells, as pages, Markdown and LaTeX show them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

NOTHING = "-"
"""A cell that says that there is no such number."""

BOLD = re.compile(r"\*\*(.*)\*\*")
"""A cell that is emphasised."""


class TableBlock(NamedTuple):
    """Rows under one heading (none if the name is empty)."""

    name: str
    rows: Sequence[tuple[str, ...]]


class Table(NamedTuple):
    """A table of text cells; ``about`` describes it, the first ``left`` columns are words, not numbers.

    A cell ``**x**`` is emphasised.
    """

    title: str
    about: str
    columns: tuple[str, ...]
    blocks: Sequence[TableBlock]
    left: int = 1


def percent(value: float | None) -> str:
    """A fraction in percent with two decimals.

    >>> percent(0.12345), percent(None)
    ('12.35', '-')
    """
    return NOTHING if value is None else f"{100 * value:.2f}"


def with_spread(mean: float | None, std: float | None) -> str:
    """A mean in percent, with the standard deviation where there is one.

    >>> with_spread(0.25, 0.01), with_spread(0.25, None)
    ('25.00 ± 1.00', '25.00')
    """
    return percent(mean) + ("" if mean is None or std is None else f" ± {percent(std)}")


def without_empty_columns(table: Table) -> Table:
    """The table without the columns in which no row has anything.

    >>> rows = [("a", "-", "1"), ("b", "-", "-")]
    >>> without_empty_columns(Table("", "", ("name", "x", "y"), [TableBlock("", rows)])).columns
    ('name', 'y')
    """
    rows = [row for block in table.blocks for row in block.rows]
    keep = [c for c in range(len(table.columns)) if not rows or any(row[c] not in (NOTHING, "") for row in rows)]

    def kept(cells: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(cells[c] for c in keep)

    blocks = [TableBlock(block.name, list(map(kept, block.rows))) for block in table.blocks]
    return table._replace(columns=kept(table.columns), blocks=blocks, left=sum(c < table.left for c in keep))
