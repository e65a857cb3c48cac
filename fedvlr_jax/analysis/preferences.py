"""The paper's Figure 2 for one run: what users go by, how much they differ, and how well they are served."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.evaluation.groups import Grouping, by_history
from fedvlr_jax.evaluation.metrics import main_metrics, row_users, user_values
from fedvlr_jax.evaluation.statistics import bootstrap_interval
from fedvlr_jax.io.figures import COLOURS, new_figure, png_of
from fedvlr_jax.types import MODALITIES, Dataset, Ranks

ALL = "all"


class GroupRow(NamedTuple):
    """One quantity over the users of one group.

    Attributes:
      group: train rows of its users, as in "11-20", or "all".
      quantity: a letter of `MODALITIES`, a user's learned preference for it in [0, 1]; or a metric of the test rows.
      users: how many have it.
      mean, low, high: over these users, with the 95 % bootstrap interval.
      spread: standard deviation over these users; of a preference, their heterogeneity.
    """

    group: str
    quantity: str
    users: int
    mean: float
    low: float
    high: float
    spread: float


def group_rows(dataset: Dataset, ranks: Ranks, preference_um: np.ndarray) -> list[GroupRow]:
    """Preferences [u, 3] and accuracy of all users, and of those of every group of activity that has users."""
    everybody = by_history(dataclasses.replace(dataset, held_user=None), np.zeros(dataset.num_users, int))
    tested = np.unique(row_users(ranks))
    rows = [row for m, letter in enumerate(MODALITIES) for row in _rows(letter, preference_um[:, m], everybody)]
    served = everybody._replace(group_h=everybody.group_h[tested], user_h=tested)
    return rows + [row for metric in main_metrics() for row in _rows(metric, user_values(ranks, metric), served)]


def _rows(quantity: str, value_u: np.ndarray, grouping: Grouping) -> list[GroupRow]:
    """Of a grouping with one row a user."""
    groups = [(ALL, value_u), *((name, value_u[grouping.group_h == g]) for g, name in enumerate(grouping.names))]
    return [
        GroupRow(name, quantity, x.size, float(x.mean()), *bootstrap_interval(x), float(x.std()))
        for name, x in groups
        if x.size
    ]


def draw(rows: list[GroupRow], title: str) -> bytes:
    """Three panels over the groups of activity, PNG: preferences with intervals, their heterogeneity, accuracy."""
    names = list(dict.fromkeys(row.group for row in rows))
    figure = new_figure(12, 3.6)
    preference, heterogeneity, accuracy = figure.subplots(1, 3)
    for m, (letter, name) in enumerate(MODALITIES.items()):
        mine = [row for row in rows if row.quantity == letter]
        _intervals(preference, names, mine, name, m)
        place = [names.index(row.group) for row in mine]
        heterogeneity.plot(place, [row.spread for row in mine], "o", color=COLOURS[m], label=name)
    for m, metric in enumerate(main_metrics()):
        _intervals(accuracy, names, [row for row in rows if row.quantity == metric], metric, m + len(MODALITIES))
    for axes, heading in (
        (preference, "modality preference, mean and 95 % interval"),
        (heterogeneity, "heterogeneity: spread over users"),
        (accuracy, "accuracy on test rows"),
    ):
        axes.set_xticks(range(len(names)), names, fontsize=8, rotation=30)
        axes.set_xlabel("train rows of a user")
        axes.set_ylim(bottom=0)
        axes.set_title(heading, loc="left", fontsize=9)
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    return png_of(figure)


def _intervals(axes: Any, names: list[str], rows: list[GroupRow], label: str, number: int) -> None:
    """Means with their intervals, a little beside those of the other quantities."""
    at = np.array([names.index(row.group) for row in rows]) + 0.12 * (number % len(MODALITIES) - 1)
    mean = np.array([row.mean for row in rows])
    # Rounding may leave the mean of equal values outside of their interval.
    ends = np.maximum(0, [mean - [row.low for row in rows], [row.high for row in rows] - mean])
    axes.errorbar(at, mean, yerr=ends, fmt="o", markersize=4, capsize=2, color=COLOURS[number], label=label)
