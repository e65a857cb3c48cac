"""The report as one HTML file that opens without a network: styles, script and pictures are inside it."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from fedvlr_jax.benchmark.formats import split_bold
from fedvlr_jax.benchmark.plots import Picture
from fedvlr_jax.benchmark.tables import Table, TableBlock

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1b1b; max-width: 1500px; }
body { margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
nav a { margin-right: 1.2rem; white-space: nowrap; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 9px; text-align: right; white-space: nowrap; border-bottom: 1px solid #e4e4e4; }
th { background: #f2f4f7; border-bottom: 2px solid #9aa3af; vertical-align: bottom; white-space: normal; }
td.word, th.word { text-align: left; } td.word { white-space: normal; min-width: 11rem; }
td:first-child, th:first-child { position: sticky; left: 0; background: #fff; }
th:first-child { background: #f2f4f7; }
table.sortable th { cursor: pointer; }
tr.block td { background: #fafafa; font-weight: 600; text-align: left; padding-top: 9px; }
tbody tr:not(.block):hover td { background: #eef4fb; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; }
code { background: #f2f4f7; padding: 0 3px; }
"""

# A click on a column's head sorts the rows of every block by it: numbers by value, largest first, words by letter.
_SCRIPT = """
for (const head of document.querySelectorAll('table.sortable th')) head.addEventListener('click', () => {
  const at = head.cellIndex, up = head.dataset.order === 'down';
  head.dataset.order = up ? 'up' : 'down';
  const key = row => { const text = row.cells[at].textContent.replace(/[,<]/g, ''), number = parseFloat(text);
    return Number.isNaN(number) ? text : number; };
  const before = (a, b) => typeof a !== typeof b ? (typeof a === 'number' ? -1 : 1)
    : typeof a === 'number' ? (up ? a - b : b - a) : (up ? b.localeCompare(a) : a.localeCompare(b));
  for (const body of head.closest('table').tBodies) [...body.rows].filter(row => row.className !== 'block')
    .sort((a, b) => before(key(a), key(b))).forEach(row => body.append(row));
});
"""


def page(
    title: str,
    tables: Sequence[Table],
    notes: Sequence[str],
    pictures: Sequence[Picture],
    environment: Mapping[str, Any],
) -> str:
    """The whole page.

    Args:
      title: of the page.
      tables, notes: as in the other formats; a click on the head of a column sorts a table by it.
      pictures: shown under the first table.
      environment: shown as a list, without the workdir.
    """
    headings = [*(table.title for table in tables), *(picture.title for picture in pictures), "Notes", "Environment"]
    links = "".join(f'<a href="#{_anchor(heading)}">{escape(heading)}</a>' for heading in headings)
    parts = [f"<h1>{escape(title)}</h1>", f"<nav>{links}</nav>"]
    main, *others = tables
    parts.append(_table(main))
    parts += map(_picture, pictures)
    parts += map(_table, others)
    parts.append(_heading("Notes") + _list(map(_inline, notes)))
    shown = {name: value for name, value in environment.items() if name != "workdir"}
    parts.append(_heading("Environment") + _list(f"{escape(name)}: {_value(value)}" for name, value in shown.items()))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + f"\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _table(table: Table) -> str:
    """Heading, sentence and table; one ``tbody`` for each block, within which rows are sorted."""
    parts = [_heading(table.title), f"<p>{_inline(table.about)}</p>"]
    if any(block.rows for block in table.blocks):
        head = "".join(f"<th{_class(c, table)}>{escape(name)}</th>" for c, name in enumerate(table.columns))
        bodies = "\n".join(_body(block, table) for block in table.blocks)
        parts.append(
            f'<div class="wide"><table class="sortable"><thead><tr>{head}</tr></thead>\n{bodies}\n</table></div>'
        )
    return "\n".join(parts)


def _body(block: TableBlock, table: Table) -> str:
    lines = []
    if block.name:
        lines.append(f'<tr class="block"><td colspan="{len(table.columns)}">{escape(block.name)}</td></tr>')
    for row in block.rows:
        cells = "".join(f"<td{_class(c, table)}>{_cell(cell)}</td>" for c, cell in enumerate(row))
        lines.append(f"<tr>{cells}</tr>")
    return "<tbody>" + "\n".join(lines) + "</tbody>"


def _class(column: int, table: Table) -> str:
    return ' class="word"' if column < table.left else ""


def _cell(cell: str) -> str:
    text, bold = split_bold(cell)
    return f"<b>{escape(text)}</b>" if bold else escape(text)


def _picture(picture: Picture) -> str:
    source = f"data:image/png;base64,{base64.b64encode(picture.png).decode()}"
    title, caption = escape(picture.title), escape(picture.caption)
    image = f'<img alt="{title}" src="{source}">'
    return f"{_heading(picture.title)}<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _heading(text: str) -> str:
    return f'<h2 id="{_anchor(text)}">{escape(text)}</h2>'


def _anchor(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower())


def _list(items) -> str:
    return "<ul>" + "\n".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _inline(text: str) -> str:
    """Escaped text with `code` marks as ``<code>``."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return escape(", ".join(f"{name} {item}" for name, item in value.items()))
    if isinstance(value, list | tuple):
        return escape(" ".join(map(str, value)))
    return escape(str(value))
