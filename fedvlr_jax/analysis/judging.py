"""Scores of any other library judged as this project judges its own, and compared with runs on the same rows."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fedvlr_jax.baselines.judging import judged_lists
from fedvlr_jax.data.buckets import heldout_targets, make_buckets, merge_buckets
from fedvlr_jax.data.score_files import ForeignScores, matrix_scores, read_scores
from fedvlr_jax.errors import CheckpointError
from fedvlr_jax.evaluation.comparison import Comparison, compare, holm
from fedvlr_jax.evaluation.foreign import listed, score_listed
from fedvlr_jax.evaluation.metrics import main_metrics, seed_user_values, summarise, warm_items
from fedvlr_jax.evaluation.ranking import rank_all
from fedvlr_jax.evaluation.targets import item_of
from fedvlr_jax.io.files import read_arrays
from fedvlr_jax.training.results import main_intervals, ranks_of
from fedvlr_jax.training.stored import stored_result
from fedvlr_jax.types import Dataset, Ranks

_CHUNK = 256  # users scored at once
_rank = jax.jit(rank_all, static_argnames=("score", "chunk"))


class Judged(NamedTuple):
    """Scores of a file and what they are worth.

    Attributes:
      ranks: of all held-out rows.
      result: as `evaluation.metrics.summarise`, with ``intervals``, ``lists`` and what was read: ``form``,
        ``listed_least`` and ``listed_most`` (candidates with a score, of the user with fewest and most),
        ``unlisted_rows`` (share of test rows whose item has none) and ``ignored_train_rows``.
    """

    ranks: Ranks
    result: dict[str, Any]


class RunTest(NamedTuple):
    """One paired test: the scores of the file minus those of a run; `p_holm` is corrected over all tests."""

    run: str
    metric: str
    result: Comparison
    p_holm: float


def judge(scores: ForeignScores, dataset: Dataset) -> Judged:
    """Rank all held-out rows by the scores; items without one are tied behind all others, train items are left out.

    Args:
      scores: of every user with held-out rows.
      dataset: what they are about.
    """
    sizes = {"num_users": dataset.num_users, "num_items": dataset.num_items}
    lists = jax.device_put(listed(scores.user, scores.item, scores.value, **sizes))
    score = score_listed(dataset.num_items)
    buckets = merge_buckets(make_buckets(dataset), dataset.num_items)
    ranks = jax.device_get(_rank(score, lists, buckets, heldout_targets(dataset), chunk=_CHUNK))
    listed_u = np.bincount(scores.user, minlength=dataset.num_users)
    result = {
        "dataset": dataset.name,
        "form": scores.form,
        "listed_least": int(listed_u.min()),
        "listed_most": int(listed_u.max()),
        "unlisted_rows": _unlisted_rows(scores, dataset),
        "ignored_train_rows": scores.ignored,
        **summarise(ranks, warm_items(dataset.train_item, dataset.num_items)),
        "intervals": main_intervals(ranks),
        "lists": judged_lists(score, lists, buckets, dataset),
    }
    return Judged(ranks, result)


def judge_scores(dataset: Dataset, scores: np.ndarray | str | os.PathLike[str]) -> dict[str, Any]:
    """What scores of any other library are worth on a data set: tie-exact, train items left out, as for every run.

    >>> dataset = load_dataset("synthetic")
    >>> by_popularity = np.tile(np.bincount(dataset.train_item, minlength=dataset.num_items), (dataset.num_users, 1))
    >>> on_test = judge_scores(dataset, by_popularity)["test"]
    >>> round(on_test["NDCG@50"], 4)
    0.073

    Args:
      dataset: with held-out rows.
      scores: [u, i], larger is better, in the order of the numbers of users and items, or a frame of pandas with
        their ids as index and columns; or a file, as `read_scores` reads it.

    Returns:
      ``Judged.result``.

    Raises:
      DataError: as of `data.score_files.read_scores`.
    """
    if isinstance(scores, (str, os.PathLike)):
        return judge(read_scores(pathlib.Path(scores), dataset), dataset).result
    return judge(matrix_scores(scores, dataset), dataset).result


def run_of(workdir: pathlib.Path, dataset: Dataset) -> tuple[str, Judged]:
    """The name, the ranks and the result of a finished run on the same held-out rows.

    Raises:
      CheckpointError: if the folder has none, or they are of other rows.
    """
    result = stored_result(workdir)
    if result is None:
        raise CheckpointError(f"--against={workdir}: expected a finished run, found no result.json")
    arrays = read_arrays(workdir / "ranks.npz")
    none_u = np.zeros(dataset.num_users, np.int32)
    item_th = item_of(heldout_targets(dataset))
    try:
        ranks = ranks_of({"constant": none_u > 0, "nonfinite": none_u, **arrays})
        pairs = ((ranks.item, item_th), (ranks.user, dataset.held_user))
        same = all(np.array_equal(np.asarray(found), np.asarray(expected)) for found, expected in pairs)
    except (KeyError, IndexError, ValueError):
        same = False
    if not same:
        raise CheckpointError(
            f"{workdir / 'ranks.npz'}: expected ranks of the held-out rows of {dataset.name}, found others (a run on "
            f"{result['dataset']})"
        )
    return f"{result['host']} + {result['variant']}, seed {result.get('seed', 0)}", Judged(ranks, result)


def compare_with(judged: Judged, runs: Sequence[tuple[str, Judged]]) -> list[RunTest]:
    """Paired permutation tests over users of all main metrics on test rows against every run, corrected together."""
    pairs = [(name, run, metric) for name, run in runs for metric in main_metrics()]
    results = [compare(*(seed_user_values([one.ranks], metric) for one in (judged, run))) for _, run, metric in pairs]
    corrected = holm([result.p_value for result in results])
    rows = zip(pairs, results, corrected, strict=True)
    return [RunTest(name, metric, result, float(p)) for (name, _, metric), result, p in rows]


def _unlisted_rows(scores: ForeignScores, dataset: Dataset) -> float | None:
    """The share of test rows whose item has no score; None without test rows."""
    user_h = np.arange(dataset.num_users) if dataset.held_user is None else dataset.held_user
    has_row = dataset.test_item >= 0
    pair_h = user_h.astype(np.int64)[has_row] * dataset.num_items + dataset.test_item[has_row]
    known_h = np.isin(pair_h, scores.user * dataset.num_items + scores.item)
    return float(1 - known_h.mean()) if known_h.size else None
