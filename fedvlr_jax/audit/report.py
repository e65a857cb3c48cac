"""Findings as a table for people and as rows for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from tabulate import tabulate

from fedvlr_jax.audit.runner import Finding, RouterFinding


def as_rows(method: str, findings: Iterable[Finding | RouterFinding]) -> Iterator[dict[str, Any]]:
    """One flat dict for each finding on a method, such as "fcf + base, bce"."""
    for finding in findings:
        row = {"method": method, "round": finding.round}
        if isinstance(finding, Finding):
            yield row | {"defence": finding.defence, "attack": finding.attack, **finding.leak._asdict()}
        else:
            yield row | {"defence": "none", "attack": "router", **finding.leak._asdict()}


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Items by attack: AUC and precision at n_u; and under it the routers."""
    rows = list(rows)
    fields = ("method", "round", "defence", "attack", "auc", "precision", "chance")
    items = [[row[name] for name in fields] for row in rows if row["attack"] != "router"]
    parts = [tabulate(items, fields, floatfmt=".3f")]
    routers = [
        [
            row["method"],
            row["round"],
            " ".join(f"{value:.3f}" for value in row["correlation_j"]),
            row["error"],
            row["top"],
        ]
        for row in rows
        if row["attack"] == "router"
    ]
    if routers:
        head = ("method", "round", "correlation by view", "mean error", "top view right")
        parts.append(tabulate(routers, head, floatfmt=".4f"))
    return "\n\n".join(parts)
