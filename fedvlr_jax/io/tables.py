"""The tables people read: a result with the baselines under it, and the sizes of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
from tabulate import tabulate

from fedvlr_jax.evaluation.list_metrics import CALIBRATION, LIST_METRICS
from fedvlr_jax.evaluation.lists import NOVELTY
from fedvlr_jax.evaluation.metrics import CUTOFFS, MAIN_CUTOFF, SELECTION_METRIC, printed_metrics, set_metrics
from fedvlr_jax.types import Dataset, PyTree


def result_table(result: Mapping[str, Any], baselines: Iterable[Mapping[str, Any]]) -> str:
    """The run and the baselines under it, in percent; what is below popularity is called so."""
    baselines = list(baselines)
    table = summary_table(_named(result, baselines))
    lines = [f"{result['dataset']}: test rows at round {result['best_round']}, chosen on validation; percent", table]
    if new := result.get("newcomers"):
        lines.append(
            f"test rows of users who were left out of training; {new['trained']} users trained, a new one learns its "
            f"private part by {new['local_rounds']} local rounds on its own history"
        )
    lines.append(
        f"tied test rows {_percent(result['tie_rate'])} %, users with one score for all items "
        f"{_percent(result['constant_score_rate'])} %, users with non-finite scores {result['nonfinite_users']}, "
        f"client updates left out {result['num_dropped']}"
    )
    lines.append(
        f"compiled {result['seconds_compile']:.1f} s, trained {result['seconds_train']:.1f} s "
        f"({result['client_updates_per_second']:,.0f} client updates/s), evaluated {result['seconds_eval']:.1f} s"
    )
    if lists := result.get("lists"):
        lines.insert(2, list_tables(lists))
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
    if is_below_popularity(result, baselines):
        lines.append(f"This model is BELOW POPULARITY in {SELECTION_METRIC}.")
    return "\n".join(lines)


def result_rows(
    result: Mapping[str, Any], baselines: Iterable[Mapping[str, Any]]
) -> tuple[list[str], list[list[Any]]]:
    """(headers, rows) of test metrics in percent, the run first: a name, then numbers, None where there is none."""
    return _summary_rows(_named(result, baselines))


def is_below_popularity(result: Mapping[str, Any], baselines: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the run is worse than the baseline popularity, in `SELECTION_METRIC` on test."""
    popularity = next((row["summary"] for row in baselines if row["name"] == "popularity"), None)
    return bool(popularity and _below(*(found["test"][SELECTION_METRIC] for found in (result, popularity))))


def summary_table(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """The metrics of summaries (`evaluation.metrics.summarise`) by name, in percent; the first says which."""
    headers, cells = _summary_rows(rows)
    return tabulate(cells, headers, floatfmt=".2f", missingval="-")


def list_tables(lists: Mapping[str, Any]) -> str:
    """Whole lists by length, and how popular they are beside the histories of their users."""
    present = [metric for metric in LIST_METRICS if f"{metric}@{MAIN_CUTOFF}" in lists]
    heads = [f"{metric} (bits)" if metric == NOVELTY else metric for metric in present]
    by_length = [[f"first {k}", *(list_cell(metric, lists[f"{metric}@{k}"]) for metric in present)] for k in CUTOFFS]
    groups = [
        (row["group"], row["users"], *(100 * row[name] for name in ("history", "list", "lift")))
        for row in lists[CALIBRATION]
    ]
    columns = ["train rows", "users", "popularity of the history", f"of the list @{MAIN_CUTOFF}", "lift"]
    return "\n".join(
        [
            "whole lists; percent, novelty in bits",
            tabulate(by_length, ["", *heads], floatfmt=".2f", missingval="-"),
            tabulate(groups, columns, floatfmt=".2f"),
        ]
    )


def list_cell(metric: str, value: float | None) -> float | None:
    """A metric of whole lists as tables show it: in percent, and novelty in bits."""
    return value if metric == NOVELTY else _scaled(value)


def _named(result: Mapping[str, Any], baselines: Iterable[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """The summaries of a run and of the baselines under it, by the names of their rows."""
    own = (f"{result['host']} + {result['variant']}", result)
    return [own, *((_baseline_name(baseline), baseline["summary"]) for baseline in baselines)]


def _summary_rows(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[list[str], list[list[Any]]]:
    metrics = [*printed_metrics(*CUTOFFS), *(m for m in set_metrics(True, MAIN_CUTOFF) if m in rows[0][1]["test"])]
    headers = ["", *metrics, *(f"{group} {SELECTION_METRIC}" for group in ("warm", "cold", "valid"))]
    return headers, [_row(name, summary, metrics) for name, summary in rows]


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
