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
    """The rows of a table by name, and what is left to the slow tests since other rows stand in for it.

    Attributes:
      rows: by name.
      laws: every law with the names of the rows that it is slow for.
      slow: names of rows that every law is left to the slow tests for.
    """

    rows: Mapping[str, Any]
    laws: Mapping[Callable[[str], None], tuple[str, ...]]
    slow: tuple[str, ...] = ()


TABLES = {
    "HOSTS": Table(HOSTS, hosts.LAWS),
    "VARIANTS": Table(VARIANTS, variants.LAWS, ("mlp", "vbpr", "attention", "gfmfr")),
    "OBJECTIVES": Table(OBJECTIVES, objectives.LAWS, ("bpr", "squared")),
    "FUSION_OPS": Table(FUSION_OPS, fusion.LAWS, ("gate", "attention", "visual", "text")),
    "ROUTERS": Table(
        ROUTERS,
        routers.LAWS,
        ("common", "shared_bias", "shared_low_rank", "statistics", "statistics_bias"),
    ),
    "TRANSFORMS": Table(TRANSFORMS, transforms.LAWS, ("local_noise", "top_rows", "round8")),
    "AGGREGATORS": Table(
        AGGREGATORS,
        aggregators.LAWS,
        ("norm_bound", "fools_gold", "trimmed_rows", "trimmed_mean", "krum", "multi_krum", "geometric_median"),
    ),
    "METRICS": Table(METRICS, metrics.LAWS),
    "BASELINES": Table(
        BASELINES,
        baselines.LAWS,
        ("vbpr", "bm3", "mgcn", "pgl", "lightgcn", "multvae", "freedom"),
    ),
}


def cases() -> list[tuple[str, str, Callable[[str], None]]]:
    """Every law over every row of its table: (table, name of a row, law)."""
    return [(table, name, law) for table, (rows, laws, _) in TABLES.items() for name in rows for law in laws]


def fast_cases() -> list[tuple[str, str, Callable[[str], None]]]:
    """Those that are judged with the fast tests."""
    return [
        (table, name, law)
        for table, name, law in cases()
        if name not in TABLES[table].laws[law] and name not in TABLES[table].slow
    ]
