"""Simple centralised baselines, shown under every result: one file each, one table.

A new baseline is a file with a `Baseline` (`base.py`) and a row in `BASELINES`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
from threadpoolctl import threadpool_limits

from fedvlr_jax.baselines.base import Baseline, Hyper
from fedvlr_jax.baselines.bm3 import bm3
from fedvlr_jax.baselines.bpr_mf import bpr_mf
from fedvlr_jax.baselines.cold_first import cold_first
from fedvlr_jax.baselines.constant import constant
from fedvlr_jax.baselines.content_ease import content_ease
from fedvlr_jax.baselines.content_knn import content_knn
from fedvlr_jax.baselines.ease import ease
from fedvlr_jax.baselines.fed_ease import fed_content_ease, fed_ease
from fedvlr_jax.baselines.fed_prior import fed_prior
from fedvlr_jax.baselines.freedom import freedom
from fedvlr_jax.baselines.item_knn import item_knn
from fedvlr_jax.baselines.judging import judged_lists
from fedvlr_jax.baselines.learner import Learner
from fedvlr_jax.baselines.lightgcn import lightgcn
from fedvlr_jax.baselines.mgcn import mgcn
from fedvlr_jax.baselines.multvae import multvae
from fedvlr_jax.baselines.pgl import pgl
from fedvlr_jax.baselines.popularity import popularity
from fedvlr_jax.baselines.vbpr import vbpr
from fedvlr_jax.data.buckets import heldout_targets, merge_buckets
from fedvlr_jax.data.heldout import WAY_OUT
from fedvlr_jax.errors import ConfigError, DataError
from fedvlr_jax.evaluation.metrics import SELECTION_METRIC, summarise, warm_items
from fedvlr_jax.evaluation.ranking import rank_all
from fedvlr_jax.types import Bucket, Dataset, Ranks

BASELINES: dict[str, Baseline | Learner] = {
    "popularity": popularity,
    "item_knn": item_knn,
    "ease": ease,
    "content_knn": content_knn,
    "content_ease": content_ease,
    "fed_ease": fed_ease,
    "fed_content_ease": fed_content_ease,
    "constant": constant,
    "cold_first": cold_first,
    "bpr_mf": bpr_mf,
    "vbpr": vbpr,
    "bm3": bm3,
    "mgcn": mgcn,
    "pgl": pgl,
    "lightgcn": lightgcn,
    "multvae": multvae,
    "freedom": freedom,
    "fed_prior": fed_prior,
}

_CHUNK = 256  # users scored at once: 4 MB of scores for 4,000 items
_rank = jax.jit(rank_all, static_argnames=("score", "chunk"))


class Selected(NamedTuple):
    """A baseline at the hyper-parameters that validation chose; with its params where lists are judged by them."""

    hyper: dict[str, Any]
    ranks: Ranks
    summary: dict
    params: Any = None


class BaselineRow(NamedTuple):
    """One row of the table under a result; ``summary`` as of `select`."""

    name: str
    hyper: dict[str, Any]
    summary: dict


def select(dataset: Dataset, buckets: Sequence[Bucket], name: str, *, lists: bool = False) -> Selected:
    """Fit a baseline at every point of its grid and keep the best on validation (the first of equals).

    Its summary is that of `evaluation.metrics.summarise`; with `lists` it also has ``lists``, that of
    `evaluation.list_metrics.summarise_lists`.

    Args:
      dataset: fitted on its train rows; test rows are ranked, but choose nothing.
      buckets: the ranked users of `dataset` with their train histories.
      name: a key of `BASELINES`.
      lists: judge whole lists too.

    Raises:
      ConfigError: if there is no such baseline.
      DataError: if there is something to choose, but no validation row to choose by.
    """
    if name not in BASELINES:
        raise ConfigError(f"unknown baseline {name!r}: expected one of {', '.join(BASELINES)}")
    baseline = BASELINES[name]
    if len(baseline.grid) > 1 and not (dataset.ranked.valid_item >= 0).any():
        raise DataError(
            f"{dataset.name} has no validation row, but {name} is chosen by validation {SELECTION_METRIC}; {WAY_OUT}"
        )
    warm_i = warm_items(dataset.train_item, dataset.num_items)
    targets = heldout_targets(dataset.ranked)
    buckets = merge_buckets(buckets, dataset.num_items)

    def evaluate(fitted: tuple[Hyper, Any]) -> Selected:
        hyper, params = fitted
        ranks = jax.device_get(_rank(baseline.score, params, buckets, targets, chunk=_CHUNK))
        return Selected(hyper, ranks, summarise(ranks, warm_i), params if lists else None)

    # Many small products and factorisations: BLAS threads would mostly wait for each other on a busy machine (KU's
    # content-EASE takes 2 s with one thread and 40 s with two), and the last bits would depend on their number.
    with threadpool_limits(1, user_api="blas"):
        found = map(evaluate, _fit_grid(baseline, dataset))
        best = max(found, key=lambda selected: selected.summary["valid"][SELECTION_METRIC])
    if not lists:
        return best
    judged = judged_lists(baseline.score, best.params, buckets, dataset)
    return best._replace(summary={**best.summary, "lists": judged}, params=None)


def run_baselines(
    dataset: Dataset, buckets: Sequence[Bucket], names: Iterable[str] | None = None
) -> list[BaselineRow]:
    """One row for each of the named baselines, every hyper-parameter chosen on validation (see `select`).

    Without names: the printed ones, those that read features only if the data set has some.
    """
    if names is None:
        has_features = dataset.V is not None or dataset.C is not None
        printed = {name: row for name, row in BASELINES.items() if row.printed}
        names = [name for name, row in printed.items() if has_features or not row.needs_features]
    rows = []
    for name in names:
        best = select(dataset, buckets, name)
        rows.append(BaselineRow(name, best.hyper, best.summary))
    return rows


def _fit_grid(baseline: Baseline, dataset: Dataset) -> Iterator[tuple[Hyper, Any]]:
    """Every point of the grid with its params."""
    if baseline.fit_grid is not None:
        return baseline.fit_grid(dataset, baseline.grid)
    return ((hyper, baseline.fit(dataset, **hyper)) for hyper in baseline.grid)
