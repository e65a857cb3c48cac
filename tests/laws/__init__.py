"""Laws that every row of a table obeys: plain functions, one a law, that raise AssertionError with a telling message.

A law takes the name of a row and reads the row from its table, so a row that is added is judged by every law without
anybody editing a test (`test_tables.py`). A new law is a function in the file of its table and an entry of its
``LAWS``, which says for which of today's rows it is left to the slow tests; other rows are judged with the fast ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fedvlr_jax.baselines import BASELINES
from fedvlr_jax.evaluation.metrics import METRICS
from fedvlr_jax.federated.aggregation import AGGREGATORS
from fedvlr_jax.federated.objectives import OBJECTIVES
from fedvlr_jax.federated.transforms import TRANSFORMS
from fedvlr_jax.models.fusion import FUSION_OPS
from fedvlr_jax.models.hosts import HOSTS
from fedvlr_jax.models.router import ROUTERS
from fedvlr_jax.models.variants import VARIANTS
from laws import aggregators, baselines, fusion, hosts, metrics, objectives, routers, transforms, variants


class Table(NamedTuple):
    """Rows by name, and laws with the names of the rows that they are slow for and others stand in for."""

    rows: Mapping[str, Any]
    laws: Mapping[Callable[[str], None], tuple[str, ...]]


TABLES = {
    "HOSTS": Table(HOSTS, hosts.LAWS),
    "VARIANTS": Table(VARIANTS, variants.LAWS),
    "OBJECTIVES": Table(OBJECTIVES, objectives.LAWS),
    "FUSION_OPS": Table(FUSION_OPS, fusion.LAWS),
    "ROUTERS": Table(ROUTERS, routers.LAWS),
    "TRANSFORMS": Table(TRANSFORMS, transforms.LAWS),
    "AGGREGATORS": Table(AGGREGATORS, aggregators.LAWS),
    "METRICS": Table(METRICS, metrics.LAWS),
    "BASELINES": Table(BASELINES, baselines.LAWS),
}


def cases() -> list[tuple[str, str, Callable[[str], None]]]:
    """Every law over every row of its table: (table, name of a row, law)."""
    return [(table, name, law) for table, (rows, laws) in TABLES.items() for name in rows for law in laws]


def fast_cases() -> list[tuple[str, str, Callable[[str], None]]]:
    """Those that are judged with the fast tests."""
    return [case for case in cases() if case[1] not in TABLES[case[0]].laws[case[2]]]
