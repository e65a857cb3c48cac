"""What the check of convergence writes: CSV files, a page of verdicts, and a picture."""

from __future__ import annotations

import pathlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from fedvlr_jax.io.figures import COLOURS, new_figure, png_of, ticks_at
from fedvlr_jax.io.files import write_bytes, write_csv, write_json
from fedvlr_jax.theory.bounds import sampling_factor
from fedvlr_jax.theory.convergence import Findings
from fedvlr_jax.theory.exponents import EXPONENT_COLUMNS, exponent_row, exponent_table
from fedvlr_jax.theory.statements import (
    DRIFT,
    SAMPLING,
    STATEMENTS,
    TELESCOPED,
    THEOREM,
    StatementRow,
    stationarity_of,
)


def write_findings(findings: Findings, workdir: pathlib.Path, environment: Mapping[str, Any]) -> None:
    """Writes ``statements.csv``, ``exponents.csv``, ``constants.json``, ``verdicts.md`` and ``convergence.png``."""
    write_csv(workdir / "statements.csv", StatementRow._fields, findings.rows)
    write_csv(workdir / "exponents.csv", EXPONENT_COLUMNS, map(exponent_row, findings.exponents))
    record = findings.constants._asdict() | dict(zip(("L_public", "L_private"), findings.blocks, strict=True))
    write_json(workdir / "constants.json", record | {"outside": findings.outside, "environment": dict(environment)})
    write_bytes(workdir / "verdicts.md", f"{verdicts(findings)}\n".encode())
    write_bytes(workdir / "convergence.png", draw(findings))


def verdicts(findings: Findings) -> str:
    """A line for each statement and for each exponent, as Markdown."""
    groups: dict[str, list[StatementRow]] = defaultdict(list)
    for row in findings.rows:
        groups[row.statement].append(row)
    c, (public, private) = findings.constants, findings.blocks
    parts = [
        f"Constants: L = {c.L:.4g} (public block alone {public:.3g}, private {private:.3g}), G^2 = {c.G2:.4g}, "
        f"sigma^2 = {c.sigma2:.4g}, zeta^2 = {c.zeta2:.4g}",
        tabulate(
            [_verdict(name, rows) for name, rows in groups.items()],
            ("statement", "settings", "measured", "bound", "bound / measured, median", "least", "most", "verdict"),
            tablefmt="pipe",
            disable_numparse=True,
        ),
        exponent_table(findings.exponents),
    ]
    if findings.unstated:
        parts.append(f"L grew during the runs until eta > 1 / (L A): no theorem at {'; '.join(findings.unstated)}.")
    if findings.outside:
        reasons = "\n".join(f"* {reason}" for reason in findings.outside)
        parts.insert(0, f"OUTSIDE THE ASSUMPTIONS, the verdicts are observations only:\n\n{reasons}")
    return "\n\n".join(parts)


def _verdict(name: str, rows: Sequence[StatementRow]) -> tuple[str, ...]:
    """Both sides where the bound is tightest, and ratios over all settings."""
    ratios = [row.ratio for row in rows if np.isfinite(row.ratio)] or [np.nan]
    compared = [row for row in rows if row.measured > 0 and np.isfinite(row.ratio)]
    tightest = min(compared, key=lambda row: row.bound / row.measured, default=rows[0])
    failed = sum(not row.holds for row in rows)
    return (
        f"{name}: {STATEMENTS[name]}",
        str(len(rows)),
        f"{tightest.measured:.3e}",
        f"{tightest.bound:.3e}",
        f"{np.median(ratios):.3g}",
        f"{min(ratios):.3g}",
        f"{max(ratios):.3g}",
        f"VIOLATED at {failed}" if failed else "holds",
    )


def draw(findings: Findings) -> bytes:
    """Four panels: drift, sampling variance, stationarity against T, and how loose every bound is."""
    figure = new_figure(10, 7)
    axes = figure.subplots(2, 2).ravel()
    _draw_drift(axes[0], findings)
    _draw_sampling(axes[1], findings)
    _draw_stationarity(axes[2], findings)
    _draw_ratios(axes[3], findings)
    return png_of(figure)


def _draw_drift(axes: Any, findings: Findings) -> None:
    longest, c = max(findings.runs, key=lambda run: run.steps), findings.constants
    step_a = np.arange(1, longest.steps + 1)
    for r, eta in enumerate(findings.grid.rates):
        drift_a = longest.probe.drift_au[:, r, 0, 0].mean(axis=(0, 2))
        axes.loglog(step_a, drift_a, "o-", color=COLOURS[r], label=f"eta = {eta:.3g}")
        axes.loglog(step_a, step_a**2 * eta**2 * c.G2, ":", color=COLOURS[r])
    ticks_at(axes, step_a)
    _name(axes, f"{DRIFT}: measured (line), bound (dots)", "local steps a", "squared drift")


def _draw_sampling(axes: Any, findings: Findings) -> None:
    n = findings.grid.num_clients
    rows = [row for row in findings.rows if row.statement == SAMPLING and row.cohort < n]
    factor_of = {row.cohort: sampling_factor(n, row.cohort) for row in rows}
    shares = [row.measured / row.bound * factor_of[row.cohort] for row in rows]
    axes.loglog([row.cohort for row in rows], shares, "o", color=COLOURS[0], alpha=0.5, label="measured / zeta^2")
    axes.loglog(list(factor_of), list(factor_of.values()), "k_", markersize=24, label="f")
    ticks_at(axes, factor_of)
    _name(axes, f"{SAMPLING} at every setting", "n_s", "share of zeta^2")


def _draw_stationarity(axes: Any, findings: Findings) -> None:
    grid, m = findings.grid, len(findings.grid.cohorts) - 1
    share = grid.cohorts[m] / grid.num_clients
    for s, run in enumerate(findings.runs):
        mean = [stationarity_of(run, r, m, share)[:, :t].mean() for r, t in enumerate(grid.rounds)]
        axes.loglog(grid.rounds, mean, "o-", color=COLOURS[s], label=f"A = {run.steps}")
    first = mean[0] * 1.5
    axes.loglog(grid.rounds, first * np.sqrt(grid.rounds[0] / np.asarray(grid.rounds)), "k--", label="T^(-1/2)")
    ticks_at(axes, grid.rounds)
    _name(axes, f"mean stationarity at eta ~ 1/sqrt(T), n_s = {grid.cohorts[m]}", "rounds T", "mean of M_t")


def _draw_ratios(axes: Any, findings: Findings) -> None:
    names = [name for name in STATEMENTS if name != SAMPLING]
    for height, name in enumerate(names):
        ratios = [row.ratio for row in findings.rows if row.statement == name and np.isfinite(row.ratio)]
        colour = COLOURS[3] if name in (THEOREM, TELESCOPED) else COLOURS[2]
        axes.semilogx(ratios, np.full(len(ratios), height), "|", color=colour, markersize=14)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(names)), names)
    _name(axes, "how loose: bound / measured, every setting", "ratio", "")


def _name(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=9)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=8)
