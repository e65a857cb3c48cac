"""Writes docs/layout.md: every file of the project with the start of its docstring, folder by folder.

python tests/docs_layout.py
"""

from __future__ import annotations

import ast
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]
LAYOUT = ROOT / "docs" / "layout.md"
FOLDERS = ("fedvlr_jax", "configs", "experiments", "examples", "benchmarks")
HEAD = (
    "# Where things are",
    "",
    "Every file with the start of its docstring; `python tests/docs_layout.py` writes this page. Imports of the",
    "package run downwards only; `tests/test_imports.py` has the order and enforces it.",
)


def summary(path: pathlib.Path) -> str:
    """The start of a module's docstring, up to a line that ends with a full stop or the first empty line."""
    first, _, _ = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n\n")
    return re.split(r"(?<=\.)\n", first)[0].replace("\n", " ")


def layout() -> str:
    """The text of the page."""
    lines = [*HEAD]
    for folder in sorted({path.parent for top in FOLDERS for path in (ROOT / top).rglob("*.py")}, key=_by_top):
        about, files = folder / "__init__.py", sorted(set(folder.glob("*.py")) - {folder / "__init__.py"})
        lines += ["", f"## `{folder.relative_to(ROOT).as_posix()}/`", ""]
        lines += [summary(about), ""] if about.exists() and summary(about) else []
        cells = [f"| `{path.name}` | {summary(path).replace('|', chr(92) + '|')} |" for path in files]
        lines += ["| file | |", "|---|---|", *cells] if cells else []
    return "\n".join(lines).rstrip() + "\n"


def _by_top(folder: pathlib.Path) -> tuple:
    top, *below = folder.relative_to(ROOT).parts
    return FOLDERS.index(top), below


if __name__ == "__main__":
    LAYOUT.write_text(layout())
