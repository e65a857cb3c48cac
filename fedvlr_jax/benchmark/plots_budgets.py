"""The picture of utility against epsilon, where methods come again under budgets of privacy."""

from __future__ import annotations

from collections.abc import Sequence

from fedvlr_jax.benchmark import plots_elements as elements
from fedvlr_jax.benchmark.methods import LOCAL_ONLY
from fedvlr_jax.benchmark.table import TableRow
from fedvlr_jax.evaluation.metrics import SELECTION_METRIC
from fedvlr_jax.io.figures import COLOURS, new_figure, png_of

BUDGET = "eps "
"""What the label of a method under a budget begins with, before the epsilon: ``"fcf+base, eps 8"``."""


def budget_curves(rows: Sequence[TableRow]) -> dict[str, list[tuple[float, float]]]:
    """By method, (epsilon, test `SELECTION_METRIC` in percent), ascending; methods without budgets are left out."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        name, _, label = row.method.name.partition(", ")
        mean = row.scores[SELECTION_METRIC].mean
        if label.startswith(BUDGET) and mean is not None:
            curves.setdefault(name, []).append((float(label.removeprefix(BUDGET)), 100 * mean))
    return {name: sorted(points) for name, points in curves.items()}


def draw_budgets(rows: Sequence[TableRow]) -> tuple[str, str, str, bytes] | None:
    """File, title, caption and PNG; None where no method has a budget."""
    curves = budget_curves(rows)
    if not curves:
        return None
    mean_of = {row.method.name: row.scores[SELECTION_METRIC].mean for row in rows}
    figure = new_figure(6.5, 4.2)
    axes, handles = figure.subplots(), []
    for k, (name, points) in enumerate(curves.items()):
        colour = COLOURS[k % len(COLOURS)]
        epsilons, values = zip(*points, strict=True)
        axes.plot(epsilons, values, "o-", color=colour, markersize=4)
        if (without := mean_of.get(name)) is not None:
            axes.axhline(100 * without, color=colour, linestyle="--", linewidth=0.9)
        handles.append(elements.stroke(name, color=colour))
    if (alone := mean_of.get(LOCAL_ONLY)) is not None:
        axes.axhline(100 * alone, color="black", linestyle=":", linewidth=1.2)
        handles.append(elements.stroke("no federation at all", color="black", linestyle=":"))
    ticks = sorted({epsilon for points in curves.values() for epsilon, _ in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{epsilon:g}" for epsilon in ticks])
    axes.set_xlabel("epsilon of all rounds")
    axes.set_ylabel(f"test {SELECTION_METRIC} in percent")
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9)
    caption = "Dashed: the same method without noise. Dotted: what clients have without any federation. "
    caption += "What epsilon does not cover is in the notes."
    return "budgets.png", "Utility against epsilon", caption, png_of(figure)
