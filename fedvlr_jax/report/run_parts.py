"""What the page of a training run shows, section by section."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from fedvlr_jax.analysis.routing import DOMINANT, summarise_weights
from fedvlr_jax.evaluation.groups import GROUPINGS, Grouping, by_history, group_means
from fedvlr_jax.evaluation.metrics import SELECTION_METRIC, main_metrics, seed_values
from fedvlr_jax.io.tables import is_below_popularity, result_rows
from fedvlr_jax.report import charts
from fedvlr_jax.report.charts import Series
from fedvlr_jax.report.facts import Facts, changed_settings, data_facts, environment_facts
from fedvlr_jax.report.pages import render, words_of
from fedvlr_jax.report.tables import NOTHING, Table, TableBlock, percent, without_empty_columns
from fedvlr_jax.types import MODALITIES, Dataset, Ranks, given

GROUP_NAMES = {
    "warmth": "Whether the item has train rows",
    "history": "Train rows of the user",
    "popularity": "Popularity of the item, least popular tenth first",
}


class RunFacts(NamedTuple):
    """What the page of a run shows.

    Attributes:
      settings: nested, with all fields.
      dataset: what was trained on.
      result, baselines, environment: contents of result.json, baselines.json ([] without) and environment.json.
      curve: the lines of metrics.jsonl.
      ranks: the held-out rows at the best round.
      views: names of the fused views.
      weights_uj: the router's weights, None without one.
      learned_um: learned preferences where the data set has planted ones, else None.
    """

    settings: Mapping[str, Any]
    dataset: Dataset
    result: Mapping[str, Any]
    baselines: Sequence[Mapping[str, Any]]
    environment: Mapping[str, Any]
    curve: Sequence[Mapping[str, Any]]
    ranks: Ranks
    views: Sequence[str]
    weights_uj: np.ndarray | None
    learned_um: np.ndarray | None


class Part(NamedTuple):
    """A section of the page: its heading, a sentence, charts, a table, a list of pairs, and commands."""

    title: str
    about: str = ""
    charts: Sequence[Markup] = ()
    table: Table | None = None
    facts: Facts = ()
    commands: Sequence[str] = ()


def run_page(found: RunFacts, name: str) -> str:
    """The page.

    Args:
      found: what it shows.
      name: of the folder of the run, for the commands.
    """
    parts = [part for part in _parts(found, name) if part is not None]
    title = "{dataset}: {host} + {variant}, seed {seed}".format(**{"seed": found.settings["seed"], **found.result})
    return render("run.html", title=title, head=data_facts(found.dataset), parts=parts)


def go_on(command: Sequence[str], name: str) -> list[str]:
    """The commands that continue with a run: its own, to which more rounds may be given, and those that read it.

    >>> go_on(["experiments/train.py", "--config=configs/ku.py", "--workdir=runs/x"], "x")[:2]
    ['python experiments/train.py --config=configs/ku.py --workdir=runs/x', \
'python experiments/evaluate.py --workdir=runs/x --recommend=10']

    Args:
      command: of environment.json.
      name: of the folder of the run, which lies in ``runs`` where the command names no other place.
    """
    first = command[0] if command else ""
    is_train = first == "experiments/train.py" or first.endswith("fedvlr-train")
    workdir = f"--workdir={_value_of('workdir', command) or f'runs/{name}'}"
    from_checkout = first.startswith("experiments/")

    def line(what: str, *flags: str) -> str:
        start = ["python", f"experiments/{what}.py"] if from_checkout else [f"fedvlr-{what}"]
        return shlex.join([*start, *flags])

    found = [line("train", *command[1:])] if is_train else []
    return [*found, line("evaluate", workdir, "--recommend=10"), line("analyze", workdir), line("report", workdir)]


def _value_of(flag: str, command: Sequence[str]) -> str:
    """The value of a flag, as --flag=VALUE or --flag VALUE; "" where the command has no such flag."""
    for word, following in itertools.pairwise([*command, ""]):
        if match := re.fullmatch(rf"--?{flag}(?:=(.*))?", word):
            return following if match[1] is None else match[1]
    return ""


def _parts(found: RunFacts, name: str) -> list[Part | None]:
    return [
        _results(found),
        _curves(found),
        _groups(found),
        _weights(found),
        _planted(found),
        Part("Settings", table=changed_settings(found.settings)),
        Part("Times", facts=_times(found.result)),
        Part("Environment", facts=environment_facts(found.environment)),
        Part(
            "How to go on",
            "A finished run that is asked for more rounds goes on from its last one.",
            commands=go_on(found.environment.get("command") or (), name),
        ),
    ]


def _results(found: RunFacts) -> Part:
    result = found.result
    headers, rows = result_rows(result, found.baselines)
    cells = [(name, *(NOTHING if x is None else f"{x:.2f}" for x in numbers)) for name, *numbers in rows]
    blocks = [TableBlock("", cells[:1]), TableBlock("Baselines", cells[1:])]
    about = f"Test rows in percent at round {result['best_round']}, which validation {SELECTION_METRIC} chose. "
    about += "Warm items have train rows, cold ones have none."
    if is_below_popularity(result, found.baselines):
        about += f" This model is below popularity in {SELECTION_METRIC}."
    intervals = result.get("intervals") or {}
    named = [(metric, " to ".join(map(percent, ends))) for metric, ends in intervals.items()]
    facts = [
        *((f"{metric}, 95 % interval over users", ends) for metric, ends in named),
        ("Tied test rows", _rate(result["tie_rate"])),
        ("Users with one score for all items", _rate(result["constant_score_rate"])),
        ("Users with non-finite scores", str(result["nonfinite_users"])),
        ("Client updates left out", str(result["num_dropped"])),
        ("Parameters: public, private of a client", _parameters(result)),
    ]
    if privacy := result.get("privacy"):
        facts.append(("Differential privacy", f"epsilon {privacy['epsilon']:.4g} at delta {privacy['delta']:g}"))
        facts.append(("Not covered by it", "; ".join(privacy["not_covered"])))
    table = Table("Results", about, ("", *headers[1:]), [block for block in blocks if block.rows])
    return Part("Results", about, table=without_empty_columns(table), facts=facts)


def _curves(found: RunFacts) -> Part | None:
    if not found.curve:
        return None
    round_n = np.array([line["round"] for line in found.curve], float)
    loss = Series("loss", round_n, _column(line["loss"] for line in found.curve))
    values = {metric: _column(line["valid"][metric] for line in found.curve) for metric in main_metrics()}
    valid = [Series(f"validation {metric} in percent", round_n, 100 * value_n) for metric, value_n in values.items()]
    drawn = [
        charts.lines([loss], x_name="rounds", mark=found.result["best_round"]),
        charts.lines(valid, x_name="rounds", mark=found.result["best_round"]),
    ]
    return Part("Curves", "Dashed: the round that validation chose.", drawn)


def _groups(found: RunFacts) -> Part | None:
    metrics = main_metrics()
    values = {metric: seed_values([found.ranks], metric) for metric in metrics}
    if not values[SELECTION_METRIC].size:
        return None
    blocks = []
    ranked = found.dataset.ranked
    # The histories of users who are left out do not say how popular an item was in training.
    groupings = GROUPINGS if ranked is found.dataset else {"history": by_history}
    for label, group_rows in groupings.items():
        grouping = group_rows(ranked, ranked.test_item)
        means = [group_means(values[metric], grouping) for metric in metrics]
        rows = [
            (of[0].name, f"{of[0].rows:,}", *(percent(group.mean) for group in of))
            for of in zip(*means, strict=True)
            if of[0].rows
        ]
        blocks.append(TableBlock(GROUP_NAMES[label], rows))
    about = "Test rows in percent; mean over the rows of a user, then over users."
    return Part("Groups", about, table=Table("Groups", about, ("group", "rows", *metrics), blocks))


def _weights(found: RunFacts) -> Part | None:
    if found.weights_uj is None:
        return None
    names, series = _by_history(found.dataset, found.weights_uj, found.views)
    spreads = [Series(one.name, one.x, given(one.spread)) for one in series]
    summary = summarise_weights(found.weights_uj)
    rows = [
        (view, f"{mean:.3f}", f"{spread:.3f}")
        for view, mean, spread in zip(found.views, summary.mean_j, summary.spread_j, strict=True)
    ]
    about = "By the user's train rows: mean and standard deviation over users, and the latter alone. Entropy of a "
    about += f"user's weights: {summary.entropy:.2f} of the largest; users with one view above {DOMINANT:g}: "
    about += f"{100 * summary.dominated:.1f} %."
    drawn = [
        charts.groups(names, series, x_name="train rows of a user: weight"),
        charts.groups(names, spreads, x_name="train rows of a user: spread of the weight"),
    ]
    table = Table("Router weights", about, ("view", "mean", "spread"), [TableBlock("", rows)])
    return Part("Router weights", about, drawn, table=table)


def _planted(found: RunFacts) -> Part | None:
    if found.learned_um is None or found.dataset.planted is None:
        return None
    series = [
        Series(name, found.dataset.planted[:, m], found.learned_um[:, m])
        for m, name in enumerate(MODALITIES.values())
    ]
    correlation = found.result.get("planted_rank_correlation") or {}
    facts = [(f"Rank correlation, {name}", words_of(value)) for name, value in correlation.items()]
    about = "What the router or the scores say that a user goes by (upwards), against what the data were made of."
    return Part("Preferences", about, [charts.clouds(series, x_name="planted preference")], facts=facts)


def _by_history(dataset: Dataset, w_uj: np.ndarray, views: Sequence[str]) -> tuple[list[str], list[Series]]:
    """The groups of activity that have users, and a row of means with spreads over them for each view."""
    grouping: Grouping = by_history(dataclasses.replace(dataset, held_user=None), np.zeros(dataset.num_users, int))
    inside = [np.flatnonzero(grouping.group_h == g) for g in range(len(grouping.names))]
    there = [(name, users) for name, users in zip(grouping.names, inside, strict=True) if users.size]
    place = np.arange(len(there), dtype=float)
    series = []
    for view, w_u in zip(views, w_uj.T, strict=True):
        mean, spread = (np.array([f(w_u[users]) for _, users in there]) for f in (np.mean, np.std))
        series.append(Series(view, place, mean, spread))
    return [name for name, _ in there], series


def _times(result: Mapping[str, Any]) -> Facts:
    clocks = {"compile": "compile", "train": "train", "evaluate": "eval"}
    seconds = [(what, f"{result[f'seconds_{clock}']:.1f} s") for what, clock in clocks.items()]
    return [
        ("Rounds, of them the best", f"{result['rounds']:,}, {result['best_round']:,}"),
        *((f"Time to {what}", value) for what, value in seconds),
        ("Client updates a second", f"{result['client_updates_per_second']:,.0f}"),
    ]


def _parameters(result: Mapping[str, Any]) -> str:
    return ", ".join(f"{result[name]:,}" for name in ("num_public", "num_private_per_client"))


def _column(values: Any) -> np.ndarray:
    """Numbers of JSON, NaN in place of null."""
    return np.array([np.nan if value is None else value for value in values], float)


def _rate(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f} %"
