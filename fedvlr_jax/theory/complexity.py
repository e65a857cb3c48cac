"""The whole check of complexity, and what it writes."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from fedvlr_jax.io.figures import COLOURS, new_figure, png_of, ticks_at
from fedvlr_jax.io.files import write_bytes, write_csv, write_json
from fedvlr_jax.theory.exponents import EXPONENT_COLUMNS, Exponent, exponent_row, exponent_table
from fedvlr_jax.theory.growth import SIZES, GrowthPoint
from fedvlr_jax.theory.messages import Message
from fedvlr_jax.theory.parameters import DIM, Cell, stated_width

GROWTH_COLUMNS = ("size", "value", "program", "operations", "bytes", "memory", "seconds_median")
AGREEING_CELLS = 106  # of Table 3; the other six are printed for another width
SERVER_IN_D = (
    "The server's operations grow faster than d: every operator multiplies each item's row by d x d matrices, "
    "|G| |I| d^2 operations that the paper's O(|G| |I| d) leaves out."
)


def parameter_table(cells: Sequence[Cell]) -> str:
    """How many cells agree, and every cell that does not, with the width that explains it; Markdown."""
    agreeing, counted = sum(cell.agrees for cell in cells), sum(cell.closed_form == cell.counted for cell in cells)
    rows = [
        (cell.model, cell.dataset, f"{cell.published}", f"{cell.closed_form:,}", _explanation(cell))
        for cell in cells
        if not cell.agrees
    ]
    head = (
        f"Table 3: {agreeing} of {len(cells)} published cells equal the closed form to the thousand (d = {DIM}); "
        f"closed form and counted pytrees are equal in {counted} of {len(cells)}. The other cells:"
    )
    columns = ("model", "set", "published, thousands", "closed form", "printed for")
    return f"{head}\n\n{tabulate(rows, columns, tablefmt='pipe', disable_numparse=True)}"


def as_described(cells: Sequence[Cell]) -> bool:
    """Whether 106 cells agree, a width explains the others, and closed forms and counts are equal everywhere."""
    explained = all(cell.width is not None and cell.closed_form == cell.counted for cell in cells)
    return explained and sum(cell.agrees for cell in cells) == AGREEING_CELLS


def _explanation(cell: Cell) -> str:
    found, stated = cell.width, stated_width(cell.model)
    return "no width found" if found is None else f"width {found} instead of {stated}"


def message_table(messages: Sequence[Message], dataset: str) -> str:
    """Kilobytes by host and variant, Markdown."""
    rows = [
        (m.host, m.variant, f"{m.num_private:,}", f"{m.bytes_whole / 1e3:,.1f}", f"{m.bytes_touched / 1e3:,.1f}")
        for m in messages
    ]
    columns = (
        "host",
        "variant",
        "private parameters, never sent",
        "kB each way, all rows",
        "kB each way, touched rows",
    )
    table = tabulate(rows, columns, tablefmt="pipe", disable_numparse=True)
    return f"Messages of one client in one round on {dataset}; an upload has the shape of the download.\n\n{table}"


def growth_table(exponents: Sequence[Exponent]) -> str:
    """Exponents that the paper states something about, and where its form is off; Markdown."""
    claimed = [exponent for exponent in exponents if exponent.expected is not None]
    text = exponent_table(claimed)
    in_d = next((e for e in claimed if e.name == f"server, operations against {SIZES['d']}"), None)
    return f"{text}\n\n{SERVER_IN_D}" if in_d is not None and in_d.low > 1 else text


def write_complexity(
    workdir: pathlib.Path,
    environment: Mapping[str, Any],
    cells: Sequence[Cell],
    messages: Sequence[Message],
    points: Sequence[GrowthPoint],
    exponents: Sequence[Exponent],
    text: str,
) -> None:
    """Writes ``parameters.csv``, ``messages.csv`` and ``verdicts.md``, and with points also ``growth.csv``,
    ``exponents.csv`` and ``growth.png``."""
    write_json(workdir / "environment.json", dict(environment))
    write_csv(workdir / "parameters.csv", (*Cell._fields, "agrees"), [(*cell, cell.agrees) for cell in cells])
    write_csv(workdir / "messages.csv", Message._fields, messages)
    write_bytes(workdir / "verdicts.md", f"{text}\n".encode())
    if points:
        write_csv(workdir / "growth.csv", GROWTH_COLUMNS, [row for point in points for row in _growth_rows(point)])
        write_csv(workdir / "exponents.csv", EXPONENT_COLUMNS, map(exponent_row, exponents))
        write_bytes(workdir / "growth.png", draw(points))


def _growth_rows(point: GrowthPoint) -> list[tuple]:
    return [
        (
            point.size,
            point.value,
            program,
            cost.operations,
            cost.bytes,
            cost.memory,
            float(np.median(cost.seconds)) if cost.seconds.size else None,
        )
        for program, cost in point.costs.items()
    ]


def draw(points: Sequence[GrowthPoint]) -> bytes:
    """A panel for each size: operations (lines) and median times (dashes), relative to the smallest."""
    sizes = list(dict.fromkeys(point.size for point in points))
    figure = new_figure(10, 6)
    for axes, size in zip(figure.subplots(2, 3).ravel(), sizes, strict=False):
        chosen = [point for point in points if point.size == size]
        value_k = np.array([point.value for point in chosen], float)
        for colour, program in zip(COLOURS, ("server", "clients", "round"), strict=False):
            costs = [point.costs[program] for point in chosen]
            seconds_k = np.array([np.median(cost.seconds) for cost in costs])
            axes.loglog(value_k, seconds_k / seconds_k[0], "o--", color=colour, label=f"{program}, time")
            if costs[0].operations is not None:
                operations_k = np.array([cost.operations for cost in costs])
                axes.loglog(value_k, operations_k / operations_k[0], color=colour, label=f"{program}, operations")
        axes.loglog(value_k, value_k / value_k[0], ":", color="black", label="linear")
        axes.set_title(f"{SIZES[size]} grows", loc="left", fontsize=9)
        axes.set_xlabel(SIZES[size])
        ticks_at(axes, value_k)
    figure.axes[0].legend(frameon=False, fontsize=7)
    figure.axes[0].set_ylabel("relative to the smallest")
    return png_of(figure)
