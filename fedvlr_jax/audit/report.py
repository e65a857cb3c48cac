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
            how = {"defence": finding.defence, "attack": finding.attack, "draws": finding.draws}
            yield row | how | {**finding.leak._asdict(), "spread": finding.spread}
        else:
            yield row | {"defence": "none", "attack": "router", **finding.leak._asdict()}


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Items by attack: AUC and precision at n_u; what the strongest attack reads under each defence; the routers."""
    rows = list(rows)
    fields = ("method", "round", "defence", "attack", "draws", "auc", "spread", "precision", "chance")
    items = [[row[name] for name in fields] for row in rows if row["attack"] != "router"]
    parts = [tabulate(items, fields, floatfmt=".3f"), _strongest(rows)]
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


def strongest(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, int], dict[str, dict[str, Any]]]:
    """By method and round, and then by defence, the row of the attack whose AUC is farthest from chance."""
    found: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for row in rows:
        if row["attack"] in ("router", "popularity"):
            continue
        best = found.setdefault((row["method"], row["round"]), {})
        if abs(row["auc"] - 0.5) >= abs(best.get(row["defence"], {"auc": 0.5})["auc"] - 0.5):
            best[row["defence"]] = row
    return found


def _strongest(rows: Iterable[dict[str, Any]]) -> str:
    """A line for each method and round, a column for each defence: the AUC of the strongest attack."""
    found = strongest(rows)
    defences = tuple(dict.fromkeys(name for best in found.values() for name in best))
    lines = [[*key, *(best[name]["auc"] for name in defences)] for key, best in found.items()]
    return tabulate(lines, ("strongest attack, AUC", "round", *defences), floatfmt=".3f")
