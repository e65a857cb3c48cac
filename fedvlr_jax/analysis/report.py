"""What an analysis writes into its folder, and the lines that it prints."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from fedvlr_jax.analysis import modalities, preferences
from fedvlr_jax.analysis.diagnosis import diagnose
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.evaluation.metrics import SELECTION_METRIC
from fedvlr_jax.io.files import write_bytes, write_csv, write_json
from fedvlr_jax.training.experiment import Experiment
from fedvlr_jax.training.job import preferences as preferences_of
from fedvlr_jax.training.loop import rank_best


def analyse_run(experiment: Experiment, workdir: pathlib.Path, out: pathlib.Path) -> str:
    """Writes ``figure2.csv`` and ``figure2.png`` of the best round of a run, and ``analysis.json``,
    ``rankings.csv`` and ``history.csv`` where it has a router.

    Returns:
      The diagnosis in a few lines.

    Raises:
      ConfigError: for private states in a store or on several devices.
      CheckpointError: as `training.loop.rank_best`.
    """
    compute = experiment.settings["compute"]
    if (compute["store"], compute["devices"]) != ("device", 1):
        raise ConfigError(
            f"expected a run with compute.store device and compute.devices 1, found {compute['store']} and "
            f"{compute['devices']}"
        )
    trained = rank_best(experiment, workdir)
    host, variant = experiment.settings["host"]["name"], experiment.settings["variant"]
    rows = preferences.group_rows(experiment.dataset, trained.ranks, preferences_of(experiment, trained))
    write_csv(out / "figure2.csv", preferences.GroupRow._fields, rows)
    write_bytes(out / "figure2.png", preferences.draw(rows, f"{experiment.dataset.name}: {host} + {variant}"))
    if experiment.algorithm.router_weights is None:
        return f"variant {variant} has no router to diagnose"
    found = diagnose(experiment, trained.state)
    write_json(out / "analysis.json", {"best_round": trained.progress.best_round, **found})
    for name in ("rankings", "history"):
        columns = list(found[name][0]) if found[name] else []
        write_csv(out / f"{name}.csv", columns, [[row[c] for c in columns] for row in found[name]])
    return summary(found)


def compare_modalities(folders: Sequence[pathlib.Path], out: pathlib.Path) -> str:
    """Writes ``figure3.csv`` and ``figure3.png`` of the runs in some folders and below; their rows as a table.

    Raises:
      ConfigError: as `modalities.modality_rows`.
    """
    rows = modalities.modality_rows(folders)
    write_csv(out / "figure3.csv", modalities.ModalityRow._fields, rows)
    write_bytes(out / "figure3.png", modalities.draw(rows))
    return tabulate(rows, modalities.ModalityRow._fields, tablefmt="pipe", floatfmt=".4f")


def summary(found: dict[str, Any]) -> str:
    """The weights by view, then what other weights would give, as two tables."""
    weights = found["weights"]
    by_view = [
        (view, mean, spread, row["norm"], row["share"], reliable)
        for view, mean, spread, row, reliable in zip(
            found["view_names"],
            weights["mean_j"],
            weights["spread_j"],
            found["views"],
            found["reliability"],
            strict=True,
        )
    ]
    columns = ("split", "weighting", SELECTION_METRIC, f"warm {SELECTION_METRIC}", "difference", "p_value")
    heads = ("view", "mean weight", "spread", "norm", "share", "reliability")
    return "\n\n".join(
        [
            tabulate(by_view, heads, tablefmt="pipe", floatfmt=".3f"),
            f"entropy {weights['entropy']:.3f} of log |G|, between users {weights['between']:.3f}, "
            f"users with one view above 0.9: {weights['dominated']:.3f}",
            tabulate([[row[c] for c in columns] for row in found["rankings"]], columns, "pipe", floatfmt=".4f"),
            "the best of many weightings for each user: {biased:.4f} chosen on the test row itself, {chosen:.4f} on "
            "the validation row; one for all: {best_for_all:.4f}".format(**found["oracle"]),
        ]
    )
