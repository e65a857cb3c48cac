"""Tables as Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fedvlr_jax.report.tables import BOLD, Table

_LATEX = {
    "\\": r"\textbackslash{}",
    **{c: rf"\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "†": r"\dag{}",
    "‡": r"\ddag{}",
    "§": r"\S{}",
    "¶": r"\P{}",
}


def split_bold(cell: str) -> tuple[str, bool]:
    """The text of a cell, and whether it is emphasised."""
    match = BOLD.fullmatch(cell)
    return (match[1], True) if match else (cell, False)


def markdown(title: str, tables: Sequence[Table], notes: Sequence[str] = ()) -> str:
    """A page with the tables and the notes under the last of them."""
    parts = [f"# {title}"]
    for table in tables:
        parts += [f"## {table.title}", table.about]
        if any(block.rows for block in table.blocks):
            parts.append(_markdown_table(table))
    if notes:
        parts += ["## Notes", "\n".join(f"* {note}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def latex(table: Table, notes: Sequence[str] = ()) -> str:
    r"""One table as a booktabs ``tabular`` to be \input; title, sentence and notes precede it as comments."""
    columns = len(table.columns)
    lines = [
        r"% needs \usepackage{booktabs}; to fit a page: \resizebox{\textwidth}{!}{\input{table}}",
        *("% " + " ".join(text.split()) for text in (table.title, table.about, *notes)),
        rf"\begin{{tabular}}{{{'l' * table.left}{'r' * (columns - table.left)}}}",
        r"\toprule",
        _latex_row(table.columns),
    ]
    for block in table.blocks:
        lines.append(r"\midrule")
        if block.name:
            lines.append(rf"\multicolumn{{{columns}}}{{l}}{{\emph{{{latex_escape(block.name)}}}}} \\")
        lines += [_latex_row(row) for row in block.rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def latex_escape(text: str) -> str:
    """Text for LaTeX with every special character of it escaped, and the marks of the tables translated."""
    return "".join(_LATEX.get(character, character) for character in text)


def _latex_row(cells: Sequence[str]) -> str:
    pairs = [split_bold(cell) for cell in cells]
    texts = [rf"\textbf{{{latex_escape(text)}}}" if bold else latex_escape(text) for text, bold in pairs]
    return " & ".join(texts) + r" \\"


def _markdown_table(table: Table) -> str:
    """Columns padded to one width, so that the file can be read as it is."""
    lines: list[Sequence[str]] = [table.columns]
    for block in table.blocks:
        if block.name:
            lines.append((f"**{block.name}**", *[""] * (len(table.columns) - 1)))
        lines += block.rows
    cells = [[_markdown_cell(cell) for cell in line] for line in lines]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    padded = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    rule = " | ".join("-" * width if c < table.left else "-" * (width - 1) + ":" for c, width in enumerate(widths))
    return "\n".join(f"| {line} |" for line in (padded[0], rule, *padded[1:]))


def _markdown_cell(cell: str) -> str:
    """One line, without what would end the cell or read as an HTML tag."""
    return re.sub(r"<(?=[A-Za-z/!])", "&lt;", " ".join(cell.split()).replace("|", r"\|"))
