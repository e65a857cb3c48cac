"""The tables people read: a result with the baselines under it, and the sizes of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
from tabulate import tabulate

from fedvlr_jax.evaluation.metrics import CUTOFFS, MAIN_CUTOFF, SELECTION_METRIC, printed_metrics, set_metrics
from fedvlr_jax.types import Dataset, PyTree


def result_table(result: Mapping[str, Any], baselines: Iterable[Mapping[str, Any]]) -> str:
    """The run and the baselines under it, in percent; what is below popularity is called so."""
    baselines = list(baselines)
    metrics = [*printed_metrics(*CUTOFFS), *(m for m in set_metrics(True, MAIN_CUTOFF) if m in result["test"])]
    headers = [
        "",
        *metrics,
        *(f"{group} {SELECTION_METRIC}" for group in ("warm", "cold", "valid")),
    ]
    rows = [_row(f"{result['host']} + {result['variant']}", result, metrics)]
    rows += [_row(_baseline_name(baseline), baseline["summary"], metrics) for baseline in baselines]
    table = tabulate(rows, headers, floatfmt=".2f", missingval="-")
    lines = [f"{result['dataset']}: test rows at round {result['best_round']}, chosen on validation; percent", table]
    lines.append(
        f"tied test rows {_percent(result['tie_rate'])} %, users with one score for all items "
        f"{_percent(result['constant_score_rate'])} %, users with non-finite scores {result['nonfinite_users']}, "
        f"client updates left out {result['num_dropped']}"
    )
    lines.append(
        f"compiled {result['seconds_compile']:.1f} s, trained {result['seconds_train']:.1f} s "
        f"({result['client_updates_per_second']:,.0f} client updates/s), evaluated {result['seconds_eval']:.1f} s"
    )
    if lost := result.get("secure_sum"):
        lines.append(
            f"secure sums lost {lost['num_lost']} client updates on the way; rounds with too few left "
            f"{lost['failed_rounds']}"
        )
    if spent := result.get("privacy"):
        lines.append(
            f"differential privacy: epsilon {spent['epsilon']:.4g} at delta {spent['delta']:g} after "
            f"{spent['rounds']} rounds ({spent['neighbours']}; {spent['sampling']}; {spent['accountant']}); "
            "not covered: " + "; ".join(spent["not_covered"])
        )
    if correlation := result.get("planted_rank_correlation"):
        shown = ", ".join(f"{name} {'-' if value is None else f'{value:.2f}'}" for name, value in correlation.items())
        lines.append(f"rank correlation of learned and planted preferences over users: {shown}")
    popularity = next((row["summary"] for row in baselines if row["name"] == "popularity"), None)
    if popularity and _below(*(summary["test"][SELECTION_METRIC] for summary in (result, popularity))):
        lines.append(f"This model is BELOW POPULARITY in {SELECTION_METRIC}.")
    return "\n".join(lines)


def cost_table(dataset: Dataset, cost: Any, evaluation: Mapping[str, Any]) -> str:
    """The parameters, messages and estimated memory of a run, from shapes and ``config.eval`` alone."""
    rows = [("public", name, shape, size) for name, shape, size in _leaves(cost.public)]
    rows += [("private, each client", name, shape, size) for name, shape, size in _leaves(cost.private)]
    rows += [
        ("public", "total", "", cost.num_public),
        ("private, each client", "total", "", cost.num_private_per_client),
    ]
    features = sum(x.nbytes for x in (dataset.V, dataset.C) if x is not None)
    item_chunk = min(evaluation["item_chunk"] or dataset.num_items, dataset.num_items)
    scores = 4 * min(evaluation["chunk"], dataset.num_users) * item_chunk
    sizes = [
        ("down, each client and round", cost.bytes_down_per_client),
        ("up, each client and round", cost.bytes_up_per_client),
        ("state of server and clients with optimizers", cost.bytes_state),
        ("item features", features),
        ("scores and their order keys while evaluating", 3 * scores),
        # The state again: the best one waits in memory, or the gradients of a step, whichever is alive.
        ("estimated memory", 2 * cost.bytes_state + features + 3 * scores),
    ]
    head = f"{dataset.name}: {dataset.num_users:,} users, {dataset.num_items:,} items, "
    head += f"{len(dataset.train_item):,} train rows"
    parameters = tabulate(rows, ["part", "parameter", "shape", "numbers"], intfmt=",")
    return "\n\n".join([head, parameters, tabulate(sizes, ["size", "bytes"], intfmt=",")])


def _row(name: str, summary: Mapping[str, Any], metrics: Iterable[str]) -> list[Any]:
    test = [_scaled(summary["test"].get(metric)) for metric in metrics]
    groups = ("test_warm", "test_cold", "valid")
    return [name, *test, *(_scaled(summary[group][SELECTION_METRIC]) for group in groups)]


def _baseline_name(baseline: Mapping[str, Any]) -> str:
    hyper = ", ".join(f"{name}={value:g}" for name, value in baseline["hyper"].items())
    return f"{baseline['name']}({hyper})" if hyper else baseline["name"]


def _scaled(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _below(value: float | None, other: float | None) -> bool:
    return value is not None and other is not None and value < other


def _leaves(tree: PyTree) -> list[tuple[str, str, int]]:
    """Name, shape and size of every leaf."""
    return [
        (jax.tree_util.keystr(path, simple=True, separator="."), "x".join(map(str, leaf.shape)) or "1", leaf.size)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
