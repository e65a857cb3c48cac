"""The table of settings for readers: the end of ``--help``, and docs/settings.md."""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Iterator

from fedvlr_jax.fields import Field
from fedvlr_jax.settings.table import GROUPS, group_fields

WIDTH = 100
PIPE = r"\|"  # inside a cell of a Markdown table

HEAD = """# Settings

Every field of a configuration, with its default. A file in `configs/` changes some of them, the command line any:
`python experiments/train.py --config=configs/ku.py --config.host.name=fedrap --config.rounds=100`; in Python,
`settings.override(default_settings(), {"host.name": "fedrap", "rounds": 100})`. Numbers are finite. Runs that differ
only in the seed and in fields marked *traced* share one compiled program in a sweep or a benchmark. "Paper" is
[FedVLR](https://arxiv.org/abs/2410.08478); symbols are those of the README.

This page is written by `python -m fedvlr_jax.settings > docs/settings.md`.
"""


def help_text() -> str:
    """What ``--help`` says about the fields of a configuration."""
    lines = ["fields of a training configuration (in a benchmark below --config.train):"]
    for group, (about, _) in GROUPS.items():
        lines += ["", f"  {about}:"]
        for name, field in group_fields(group).items():
            facts = "; ".join(_facts(field))
            lines.append(f"    --config.{name}={field.default}")
            lines += textwrap.wrap(facts, WIDTH, initial_indent=8 * " ", subsequent_indent=8 * " ")
    return "\n".join(lines)


def page() -> str:
    """docs/settings.md."""
    parts = [HEAD]
    for group, (about, _) in GROUPS.items():
        title = f"`{group}`: {about}" if group else about[0].upper() + about[1:]
        rows = [_row(name, field) for name, field in group_fields(group).items()]
        head = ["| field | default | unit | values | what it is |", "|---|---|---|---|---|"]
        parts.append("\n".join([f"## {title}", "", *head, *rows, ""]))
    return "\n".join(parts)


def choices_of(field: Field) -> tuple[str, ...]:
    """The names that a field may have, those of a table as it is now; loads JAX for most tables."""
    if isinstance(field.choices, tuple):
        return field.choices
    module, _, table = field.choices.rpartition(".")
    return tuple(getattr(importlib.import_module(f"fedvlr_jax.{module}"), table))


def _row(name: str, field: Field) -> str:
    notes = [field.about, field.source, "*traced*" if field.traceable else ""]
    default = f"`{field.default}`" if field.default != "" else "empty"
    cells = (f"`{name}`", default, field.unit, _values(field), "; ".join(filter(None, notes)))
    return f"| {' | '.join(cell.replace('|', PIPE) for cell in cells)} |"


def _facts(field: Field) -> Iterator[str]:
    """What there is to say about a field beside its name and default."""
    unit = f"unit {field.unit}" if field.unit else ""
    source = f"source {field.source}" if field.source else ""
    yield from filter(None, (field.about, unit, _values(field), source))


def _values(field: Field) -> str:
    """Which values a field may have, "" for any."""
    if choices := choices_of(field):
        return f"{'comma list of' if field.is_list else 'one of'} {', '.join(choices)}"
    if isinstance(field.default, bool):
        return "True, False"
    return "" if field.bounds is None else str(field.bounds)
