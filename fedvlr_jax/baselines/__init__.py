"""Simple centralised baselines that stand under every result: one file each, one table.

A new baseline is a file with a `Baseline` (`base.py`) and a row in `BASELINES`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fedvlr_jax.baselines.base import Baseline
from fedvlr_jax.baselines.cold_first import cold_first
from fedvlr_jax.baselines.constant import constant
from fedvlr_jax.baselines.ease import ease
from fedvlr_jax.baselines.item_knn import item_knn
from fedvlr_jax.baselines.popularity import popularity
from fedvlr_jax.errors import ConfigError, DataError
from fedvlr_jax.evaluation.metrics import summarise, warm_items
from fedvlr_jax.evaluation.ranking import rank_all
from fedvlr_jax.types import Bucket, Dataset, Ranks

BASELINES: dict[str, Baseline] = {
    "popularity": popularity,
    "item_knn": item_knn,
    "ease": ease,
    "constant": constant,
    "cold_first": cold_first,
}

_CHUNK = 256  # users scored at once: 4 MB of scores for 4,000 items
_MERGE = 1 << 24  # most history slots for which all users go into one bucket
_rank = jax.jit(rank_all, static_argnames=("score", "chunk"))


class Selected(NamedTuple):
    """A baseline at the hyper-parameters that validation chose."""

    hyper: dict[str, Any]
    ranks: Ranks
    summary: dict


class BaselineRow(NamedTuple):
    """One row of the table under a result; ``summary`` as `evaluation.metrics.summarise` gives it."""

    name: str
    hyper: dict[str, Any]
    summary: dict


def select(dataset: Dataset, buckets: Sequence[Bucket], name: str) -> Selected:
    """Fit a baseline at every point of its grid and keep the best validation NDCG@50 (the first of equals).

    Args:
      dataset: fitted on its train rows; its test rows are ranked, but choose nothing.
      buckets: all users of `dataset` with their train histories.
      name: a key of `BASELINES`.

    Raises:
      ConfigError: if there is no such baseline.
      DataError: if there is something to choose, but no validation row to choose by.
    """
    if name not in BASELINES:
        raise ConfigError(f"unknown baseline {name!r}: expected one of {', '.join(BASELINES)}")
    baseline = BASELINES[name]
    if len(baseline.grid) > 1 and not (dataset.valid_item >= 0).any():
        raise DataError(f"{dataset.name} has no validation row, but {name} is chosen by validation NDCG@50")
    warm_i = warm_items(dataset.train_item, dataset.num_items)
    target_tu = np.stack([dataset.valid_item, dataset.test_item])
    buckets = _merge(buckets, dataset.num_items)

    def evaluate(hyper: dict[str, Any]) -> Selected:
        params = baseline.fit(dataset, **hyper)
        ranks = jax.device_get(_rank(baseline.score, params, buckets, target_tu, chunk=_CHUNK))
        return Selected(hyper, ranks, summarise(ranks, warm_i))

    return max(map(evaluate, baseline.grid), key=lambda found: found.summary["valid"]["NDCG@50"])


def run_baselines(
    dataset: Dataset, buckets: Sequence[Bucket], names: Iterable[str] = tuple(BASELINES)
) -> list[BaselineRow]:
    """One row for each of the named baselines, every hyper-parameter chosen on validation (see `select`)."""
    rows = []
    for name in names:
        best = select(dataset, buckets, name)
        rows.append(BaselineRow(name, best.hyper, best.summary))
    return rows


def _merge(buckets: Sequence[Bucket], num_items: int) -> tuple[Bucket, ...]:
    """All users in one bucket where that is small: compiling one program a bucket takes longer than running it."""
    width = max(bucket.history.shape[1] for bucket in buckets)
    if width * sum(bucket.user.shape[0] for bucket in buckets) > _MERGE:
        return tuple(buckets)
    padded = [
        np.pad(bucket.history, ((0, 0), (0, width - bucket.history.shape[1])), constant_values=num_items)
        for bucket in buckets
    ]
    return (Bucket(np.concatenate([bucket.user for bucket in buckets]), np.concatenate(padded)),)
