"""The paper's Figure 3: what a host loses without a modality, from the results of finished runs."""

from __future__ import annotations

import pathlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.assembly import parse_names
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.evaluation.metrics import main_metrics
from fedvlr_jax.fields import flatten
from fedvlr_jax.io.figures import COLOURS, new_figure, png_of
from fedvlr_jax.io.files import read_arrays, read_json
from fedvlr_jax.training.stored import stored_result
from fedvlr_jax.types import MODALITIES

Run = tuple[pathlib.Path, dict[str, Any]]
"""The folder of a run, and its settings by dotted name."""


class ModalityRow(NamedTuple):
    """Runs of one host with the same modalities.

    Attributes:
      dataset, host: what was trained on what.
      modalities: "all", or "without V" and the like.
      metric: of the test rows.
      runs: how many.
      mean, spread: over runs; the standard deviation is None with one run.
    """

    dataset: str
    host: str
    modalities: str
    metric: str
    runs: int
    mean: float
    spread: float | None


def modality_rows(folders: Sequence[pathlib.Path]) -> list[ModalityRow]:
    """The rows of all finished runs of variant fedvlr in some folders and below them.

    Raises:
      ConfigError: if there are none, if one has no settings, if runs of one host on one data set differ in more than
        their modalities and seeds, if one of them is there twice, or if they were tested on other rows.
    """
    found: defaultdict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    first: dict[tuple[str, str], Run] = {}
    folder_of: dict[tuple[str, str, str, int], pathlib.Path] = {}
    files = {file.resolve(): file for folder in folders for file in folder.rglob("result.json")}
    for file in sorted(files.values()):  # each once, also where one folder is within another
        result, settings = stored_result(file.parent), _settings_of(file.parent)
        if result is None or result["variant"] != "fedvlr":
            continue
        own = file.parent, settings
        _require_same_settings(first.setdefault((result["dataset"], result["host"]), own), own)
        _require_same_rows(first[result["dataset"], result["host"]][0], file.parent)
        key = result["dataset"], result["host"], _label(settings["fusion.modalities"])
        if (other := folder_of.setdefault((*key, settings["seed"]), file.parent)) != file.parent:
            raise ConfigError(
                f"{other} and {file.parent}: expected one run of {key[1]} with modalities "
                f"{settings['fusion.modalities']} and seed {settings['seed']}, found two; give one of them"
            )
        found[key].append(result)
    if not found:
        where = ", ".join(map(str, folders))
        raise ConfigError(f"--runs: expected finished runs of variant fedvlr, found none in {where} or below")
    return [
        row
        for key in sorted(found, key=lambda key: (key[0], key[1], _order(key[2])))
        for row in _rows(*key, found[key])
    ]


def _require_same_settings(first: Run, second: Run) -> None:
    """Refuses two runs that differ in more than their modalities and seeds.

    A run of a sweep or benchmark does not note settings that change nothing of what it computes.
    """
    (folder, settings), (other, others) = first, second
    both = (settings.keys() & others.keys()) - {"fusion.modalities", "seed"}
    differing = sorted(name for name in both if settings[name] != others[name])
    if differing:
        raise ConfigError(
            f"{other} and {folder}: expected runs that differ in host, modalities and seed alone, found other "
            f"settings in {', '.join(differing)}; give one of them"
        )


def _require_same_rows(first: pathlib.Path, second: pathlib.Path) -> None:
    """Refuses two runs whose held-out rows differ: two data sets may have one name."""
    files = [folder / "ranks.npz" for folder in (first, second)]
    if first == second or not all(file.is_file() for file in files):
        return
    one, other = (read_arrays(file) for file in files)
    if not all(
        np.array_equal(np.asarray(one.get(name)), np.asarray(other.get(name))) for name in ("user", "split", "item")
    ):
        raise ConfigError(
            f"{first} and {second}: expected runs on the same held-out rows, found others; give one of them"
        )


def _settings_of(folder: pathlib.Path) -> dict[str, Any]:
    """The settings by dotted name that a run left in its folder, alone or as one of a sweep or benchmark."""
    stored = read_json(folder / "config.json") or {}
    settings = dict(flatten(stored.get("settings", stored)))
    if "fusion.modalities" not in settings:
        raise ConfigError(f"{folder / 'config.json'}: expected the settings of a run, found none")
    return settings


def _rows(dataset: str, host: str, label: str, results: Sequence[dict[str, Any]]) -> list[ModalityRow]:
    values = {metric: np.array([result["test"][metric] for result in results]) for metric in main_metrics()}
    return [
        ModalityRow(
            dataset, host, label, metric, x.size, float(x.mean()), float(x.std(ddof=1)) if x.size > 1 else None
        )
        for metric, x in values.items()
    ]


def _label(modalities: str) -> str:
    missing = [letter for letter in MODALITIES if letter not in parse_names(modalities)]
    return f"without {', '.join(missing)}" if missing else "all"


def _order(label: str) -> tuple[int, list[int]]:
    letters = [k for k, letter in enumerate(MODALITIES) if letter in label.removeprefix("without")]
    return (0, []) if label == "all" else (len(letters), letters)


def draw(rows: Sequence[ModalityRow]) -> bytes:
    """Bars by host, one panel for each data set and metric, PNG; a line is the standard deviation over runs."""
    panels = list(dict.fromkeys((row.dataset, row.metric) for row in rows))
    labels = sorted({row.modalities for row in rows}, key=_order)
    figure = new_figure(1 + 4.5 * len(panels), 3.4)
    for axes, (dataset, metric) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        inside = [row for row in rows if (row.dataset, row.metric) == (dataset, metric)]
        hosts = list(dict.fromkeys(row.host for row in inside))
        width = 0.8 / len(labels)
        for k, label in enumerate(labels):
            mine = [row for row in inside if row.modalities == label]
            at = [hosts.index(row.host) + (k - (len(labels) - 1) / 2) * width for row in mine]
            spread = [row.spread or 0.0 for row in mine]
            axes.bar(at, [row.mean for row in mine], width, yerr=spread, color=COLOURS[k % len(COLOURS)], label=label)
        axes.set_xticks(range(len(hosts)), hosts)
        axes.set_title(f"{dataset}: {metric}, test", loc="left", fontsize=9)
        axes.legend(frameon=False, fontsize=8)
    return png_of(figure)
