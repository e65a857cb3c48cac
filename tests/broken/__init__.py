"""For every law of every table a row that breaks it: what shows that the laws find what they are for."""

from __future__ import annotations

from laws import aggregators

from broken import models, outside, rounds

BROKEN = {
    "HOSTS": models.OF_HOSTS,
    "VARIANTS": models.OF_VARIANTS,
    "OBJECTIVES": rounds.OF_OBJECTIVES,
    "FUSION_OPS": models.OF_OPERATORS,
    "ROUTERS": models.OF_ROUTERS,
    "TRANSFORMS": rounds.OF_TRANSFORMS,
    "AGGREGATORS": rounds.OF_AGGREGATORS,
    "METRICS": outside.OF_METRICS,
    "BASELINES": outside.OF_BASELINES,
}
"""By table and law: words of the law's message, and a row."""

PLACES = {aggregators.it_equals_a_dense_computation: "weighted_mean"}
"""Laws that know rows by name; their broken row takes the place of one."""
