"""Elements of the pictures: panels, legends, and curves over seeds. Matplotlib is imported only when used."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.benchmark import order
from fedvlr_jax.benchmark.records import CENTRALISED, FEDERATED, CurvePoint, MethodRuns
from fedvlr_jax.evaluation.metrics import SELECTION_METRIC
from fedvlr_jax.io.figures import COLOURS, new_figure
from fedvlr_jax.models.variants import VARIANTS

VARIANT_COLOURS = dict(zip(VARIANTS, ("#5F6B7A", "#E69F00", "#009E73", "#D55E00"), strict=False))
PANEL_COLUMNS = 3

Curve = Sequence[CurvePoint]


class Line(NamedTuple):
    """Mean, lowest and highest value over seeds, in percent, at the rounds that all seeds evaluated."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def over_seeds(
    curves: Sequence[Curve], x_of: Callable[[CurvePoint], float], values_of: Callable[[Curve], Sequence[float]]
) -> Line | None:
    """The line of a method, or None where no round was evaluated by all seeds.

    Args:
      curves: by seed; seeds without a point are left out.
      x_of: x coordinate of a point.
      values_of: value of every point of a curve, fractions.
    """
    seeds = [
        {point.round: (x_of(point), 100 * value) for point, value in zip(curve, values_of(curve), strict=True)}
        for curve in curves
        if curve
    ]
    rounds = sorted(set.intersection(*map(set, seeds))) if seeds else []
    if not rounds:
        return None
    x_sr, value_sr = np.moveaxis(np.array([[seed[r] for r in rounds] for seed in seeds]), 2, 0)
    return Line(x_sr.mean(axis=0), value_sr.mean(axis=0), value_sr.min(axis=0), value_sr.max(axis=0))


def best_so_far(curve: Curve, metric: str) -> list[float]:
    """A validation metric at the best round so far by `SELECTION_METRIC`, for every point."""
    best, values = curve[0], []
    for point in curve:
        best = point if point.valid[SELECTION_METRIC] > best.valid[SELECTION_METRIC] else best
        values.append(best.valid[metric])
    return values


def panels(methods: Sequence[MethodRuns]) -> list[tuple[str, list[MethodRuns]]]:
    """(title, methods): one panel for each federated host, then one for centralised methods; controls have none."""
    found = [
        (host, [m for m in methods if m.family == FEDERATED and m.host == host]) for host in order.hosts_of(methods)
    ]
    central = [m for m in methods if m.family == CENTRALISED]
    return found + ([(order.CENTRAL, central)] if central else [])


def line_colours(methods: Sequence[MethodRuns]) -> list[str]:
    """A colour for each method of one panel: the variant's, where it has one."""
    return [VARIANT_COLOURS.get(method.variant, COLOURS[m % len(COLOURS)]) for m, method in enumerate(methods)]


def short_name(method: MethodRuns) -> str:
    """The name of a method in the panel of its host."""
    return method.variant or method.name


def panel_grid(count: int) -> tuple[Any, list[Any]]:
    """A figure with `count` panels that share their y axis, and its axes."""
    columns = min(PANEL_COLUMNS, count)
    rows = math.ceil(count / columns)
    figure = new_figure(0.6 + 3.6 * columns, 0.7 + 2.9 * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.remove()
    return figure, list(grid[:count])


def head(axes: Any, title: str) -> None:
    """A title, and under it the legend of the panel: above the axes, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    columns = 4 if len(labels) <= 4 else 3
    axes.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        frameon=False,
        fontsize=8,
        handlelength=1.3,
        columnspacing=1.0,
        borderaxespad=0.1,
    )
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", pad=6 + 13 * math.ceil(len(labels) / columns))


def patch(colour: str, label: str) -> Any:
    """A filled entry of a legend."""
    from matplotlib.patches import Patch

    return Patch(color=colour, label=label)


def stroke(label: str, **style: Any) -> Any:
    """An entry of a legend with the style of a line or marker."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **style)
