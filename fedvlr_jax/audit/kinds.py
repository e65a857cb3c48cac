"""The audits there are, each from its configuration to rows for programs and a table for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate

from fedvlr_jax.assembly import parse_names
from fedvlr_jax.audit.canaries import canary_finding
from fedvlr_jax.audit.plans import check_plan
from fedvlr_jax.audit.poisoning import TOP, promotion
from fedvlr_jax.audit.report import as_rows, table
from fedvlr_jax.audit.runner import audit
from fedvlr_jax.data import load_configured
from fedvlr_jax.errors import choose
from fedvlr_jax.settings import override
from fedvlr_jax.training.experiment import make_experiment

Rows = Iterator[dict[str, Any]]


class Kind(NamedTuple):
    """One kind of audit.

    Attributes:
      rows: ``(settings, plan) -> rows``, one after the other as they are found.
      table: ``(rows) -> text``.
    """

    rows: Callable[[Mapping[str, Any], Mapping[str, Any]], Rows]
    table: Callable[[Iterable[dict[str, Any]]], str]


def make_kind(plan: Mapping[str, Any]) -> Kind:
    """The kind that a plan names.

    Raises:
      ConfigError: for an unknown one, and numbers that make no sense (`check_plan`).
    """
    kind = choose(KINDS, "audit.kind", plan["kind"])
    check_plan(plan)
    return kind


def _uploads(settings: Mapping[str, Any], plan: Mapping[str, Any]) -> Rows:
    """What uploads give away, method after method."""
    dataset = load_configured(settings["data"], settings["seed"])
    for objective in parse_names(plan["objectives"]):
        for method in parse_names(plan["methods"]):
            host, _, variant = method.partition("+")
            changes = {"host.name": host, "variant": variant, "objective": objective}
            experiment = make_experiment(override(settings, changes), dataset)
            yield from as_rows(f"{host} + {variant}, {objective}", audit(experiment, plan))


def _promotion(settings: Mapping[str, Any], plan: Mapping[str, Any]) -> Rows:
    """What promoters of items reach, aggregator after aggregator."""
    findings = promotion(settings, lambda seed: load_configured(settings["data"], seed), plan)
    return (finding._asdict() for finding in findings)


def _canaries(settings: Mapping[str, Any], plan: Mapping[str, Any]) -> Rows:
    """Lower bounds on epsilon, noise multiplier after noise multiplier."""
    for noise in plan["noise_multipliers"]:
        found = canary_finding(noise, plan["delta"], plan["trials"], plan["confidence"], plan["seed"])
        yield {"noise_multiplier": noise, **found._asdict(), "holds": found.holds}


def _plain_table(rows: Iterable[dict[str, Any]]) -> str:
    return tabulate(list(rows), headers="keys", floatfmt=".3f")


def _promotion_table(rows: Iterable[dict[str, Any]]) -> str:
    """A line for each aggregator and attack: means over seeds, and standard deviations where there are several."""
    cases: dict[tuple[Any, ...], list[tuple[float, float]]] = {}
    for row in rows:
        case = (row["aggregator"], row["attackers"], row["promoters"])
        cases.setdefault(case, []).append((row["exposure"], row["ndcg"]))
    lines = [
        [*case, len(found), *np.mean(found, axis=0), *np.std(found, axis=0, ddof=min(1, len(found) - 1))]
        for case, found in cases.items()
    ]
    head = ("aggregator", "attackers", "promoters %", "seeds", f"ER@{TOP}", f"NDCG@{TOP}", "+- ER", "+- NDCG")
    return tabulate(lines, head, floatfmt=".1f")


KINDS: dict[str, Kind] = {
    "uploads": Kind(_uploads, table),
    "promotion": Kind(_promotion, _promotion_table),
    "canaries": Kind(_canaries, _plain_table),
}
"""By the name in ``config.audit.kind``."""
