"""What a finished run says: the contents of result.json and ranks.npz."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedvlr_jax.data.heldout import place_rows
from fedvlr_jax.evaluation.intervals import LEAST_USERS
from fedvlr_jax.evaluation.metrics import MAIN_CUTOFF, main_metrics, set_metrics, summarise, user_values, warm_items
from fedvlr_jax.evaluation.statistics import bootstrap_interval
from fedvlr_jax.models.costs import CostReport
from fedvlr_jax.privacy.accounting import guarantee_of
from fedvlr_jax.training.schedule import RunProgress
from fedvlr_jax.training.uncovered import not_covered
from fedvlr_jax.types import MODALITIES, Dataset, Ranks

VALID_LABEL, TEST_LABEL = 1, 2  # as in the column split_label of inter.csv


def make_result(
    settings: Mapping[str, Any],
    dataset: Dataset,
    cost: CostReport,
    progress: RunProgress,
    ranks: Ranks,
    learned_um: np.ndarray | None,
    lists: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of result.json.

    Args:
      settings: the nested settings of the run.
      dataset: its data.
      cost: sizes of the model.
      progress: where it stands at its end.
      ranks: all held-out items ranked with the state of the best round.
      learned_um: [u, 3], learned preferences of the users for (ID, visual, textual); None without planted ones.
      lists: as `evaluation.list_metrics.summarise_lists`; None where lists were not judged.
    """
    result = {
        "dataset": dataset.name,
        "host": settings["host"]["name"],
        "variant": settings["variant"],
        "seed": settings["seed"],
        "rounds": progress.round,
        "best_round": progress.best_round,
        "seconds_train": progress.seconds_train,
        "seconds_eval": progress.seconds_eval,
        "seconds_compile": progress.seconds_compile,
        "client_updates_per_second": progress.updates_per_second,
        **summarise(ranks, warm_items(dataset.train_item, dataset.num_items)),
        "intervals": main_intervals(ranks),
        "num_public": cost.num_public,
        "num_private_per_client": cost.num_private_per_client,
        "num_dropped": progress.num_dropped,
    }
    if settings["init_from"]:
        origin = progress.origin or {}
        result["init_from"] = {"workdir": settings["init_from"], "parts": settings["init_parts"], **origin}
    if lists is not None:
        result["lists"] = lists
    if (new := dataset.newcomers) is not None:
        count = {name: int((getattr(new, f"{name}_item") >= 0).sum()) for name in ("valid", "test")}
        result["newcomers"] = {
            "trained": dataset.num_users,
            "rows": count,
            "local_rounds": settings["client"]["new_rounds"],
        }
    if settings["secure"]["dropout"] > 0:
        result["secure_sum"] = {"num_lost": progress.num_lost, "failed_rounds": progress.failed_rounds}
    if learned_um is not None:
        result["planted_rank_correlation"] = rank_correlations(learned_um, dataset.planted)
    if (guarantee := guarantee_of(settings, dataset.num_users)) is not None:
        result["privacy"] = guarantee.describe(progress.round, not_covered(settings, dataset, progress.origin))
    return result


def rank_arrays(ranks: Ranks) -> dict[str, np.ndarray]:
    """The content of ranks.npz: one row for every held-out item, validation rows (split 1) before test rows (2)."""
    split, row = np.nonzero(np.asarray(ranks.item) >= 0)
    user = row if ranks.user is None else np.asarray(ranks.user)[row]
    return {
        "user": user.astype(np.int32),
        "split": np.where(split == 0, VALID_LABEL, TEST_LABEL).astype(np.int32),
        "item": np.asarray(ranks.item)[split, row],
        "greater": np.asarray(ranks.greater)[split, row],
        "tied": np.asarray(ranks.tied)[split, row],
    }


def ranks_of(arrays: Mapping[str, np.ndarray]) -> Ranks:
    """The ranks behind `rank_arrays`, with the arrays ``constant`` and ``nonfinite`` [u] beside it."""
    constant = np.asarray(arrays["constant"])
    split = np.asarray(arrays["split"]) - VALID_LABEL
    row, held_user = place_rows(split, np.asarray(arrays["user"]), constant.size)
    shape = (2, constant.size if held_user is None else held_user.size)
    ranks = Ranks(
        item=np.full(shape, -1, np.int32),
        greater=np.zeros(shape, np.int32),
        tied=np.ones(shape, np.int32),
        constant=constant,
        nonfinite=np.asarray(arrays["nonfinite"]),
        user=held_user,
    )
    for field in ("item", "greater", "tied"):
        getattr(ranks, field)[split, row] = arrays[field]
    return ranks


def rank_correlations(learned_um: np.ndarray, planted_um: np.ndarray) -> dict[str, float | None]:
    """Spearman's rank correlation over users for each modality, and the mean of the modalities that have one.

    A modality for which all users have one learned preference has no correlation (None), and none has where the model
    reads a single one: there is nothing to prefer it to, and its share says who is served at all.
    """
    several = np.count_nonzero(np.any(learned_um != 0, axis=0)) > 1
    values: dict[str, float | None] = {}
    for m, name in enumerate(MODALITIES.values()):
        learned_u, planted_u = learned_um[:, m], planted_um[:, m]
        varies = several and np.isfinite(learned_u).all() and np.ptp(learned_u) > 0 and np.ptp(planted_u) > 0
        values[name] = _spearman(learned_u, planted_u) if varies else None
    known = [value for value in values.values() if value is not None]
    return {**values, "mean": float(np.mean(known)) if known else None}


def main_intervals(ranks: Ranks) -> dict[str, tuple[float, float]]:
    """95 % user-bootstrap intervals of the main test metrics; none with fewer than `LEAST_USERS`, as in a table.

    Of few users they are too narrow: that of a single one would be a point.
    """
    metrics = (*main_metrics(), *set_metrics(ranks.user is not None, MAIN_CUTOFF))
    values = {metric: user_values(ranks, metric) for metric in metrics}
    return {name: bootstrap_interval(x) for name, x in values.items() if x.size >= LEAST_USERS}


def _spearman(x_u: np.ndarray, y_u: np.ndarray) -> float:
    """Spearman's rank correlation: Pearson's, of the ranks, with the mean rank for equal values."""
    return float(np.corrcoef(_mean_ranks(x_u), _mean_ranks(y_u))[0, 1])


def _mean_ranks(x_u: np.ndarray) -> np.ndarray:
    _, group_u, count_g = np.unique(x_u, return_inverse=True, return_counts=True)
    return (np.cumsum(count_g) - (count_g - 1) / 2)[group_u]
