"""The lists of a fitted baseline, judged as wholes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from fedvlr_jax.evaluation.list_metrics import summarise_lists
from fedvlr_jax.evaluation.lists import item_facts, list_all
from fedvlr_jax.types import Bucket, Dataset, PyTree, Score

_CHUNK = 256  # users scored at once
_lists = jax.jit(list_all, static_argnames=("score", "num_users", "chunk"))


def judged_lists(score: Score, params: PyTree, buckets: Sequence[Bucket], dataset: Dataset) -> dict[str, Any]:
    """`evaluation.list_metrics.summarise_lists` of ``score(params, chunk)`` for all users of a data set."""
    lists = _lists(score, params, buckets, item_facts(dataset), num_users=dataset.num_users, chunk=_CHUNK)
    return summarise_lists(jax.device_get(lists), dataset)
