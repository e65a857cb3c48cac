"""The pictures of the report, as PNG files in memory. Matplotlib is imported only when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedvlr_jax.benchmark import order
from fedvlr_jax.benchmark import plots_elements as elements
from fedvlr_jax.benchmark.groups import RowGroups
from fedvlr_jax.benchmark.plots_budgets import draw_budgets
from fedvlr_jax.benchmark.records import CENTRALISED, FEDERATED, CurvePoint, MethodRuns
from fedvlr_jax.benchmark.table import TableRow
from fedvlr_jax.evaluation.metrics import SELECTION_METRIC, VALID, main_metrics, seed_user_values
from fedvlr_jax.io.figures import COLOURS, log_axis, new_figure, png_of
from fedvlr_jax.models.variants import VARIANTS
from fedvlr_jax.report.pages import Picture

_BLOCK_COLOURS = dict(zip(order.BLOCKS, ("#0072B2", "#D55E00", "#9A9A9A", "#009E73"), strict=True))
_PALE = {"color": "#D5D9DE", "linewidth": 0.9, "zorder": 1}
_HOLLOW = {"marker": "D", "markerfacecolor": "none", "markeredgecolor": "black", "markersize": 5, "linestyle": "none"}
_OTHER = "other"


def draw_all(rows: Sequence[TableRow], groupings: Sequence[RowGroups]) -> list[Picture]:
    """Every picture that there is data for."""
    rows = [row for row in rows if row.method.seeds]
    history = next((groups for groups in groupings if groups.grouping == "history"), None)
    found = [
        draw_bars(rows),
        draw_curves([row.method for row in rows]),
        draw_communication([row.method for row in rows]),
        draw_history([row.method for row in rows], history) if history else None,
    ]
    if budgets := draw_budgets(rows):
        found.append(Picture(*budgets))
    return [picture for picture in found if picture]


def draw_bars(rows: Sequence[TableRow]) -> Picture | None:
    """`SELECTION_METRIC` on test of all methods with intervals, sorted; published numbers as hollow markers."""
    rows = [row for row in rows if row.scores[SELECTION_METRIC].mean is not None]
    rows = sorted(rows, key=lambda row: row.scores[SELECTION_METRIC].mean)
    if not rows:
        return None
    figure = new_figure(9.5, 1.3 + 0.2 * len(rows))
    axes = figure.subplots()
    for y, row in enumerate(rows):
        score = row.scores[SELECTION_METRIC]
        axes.barh(y, 100 * score.mean, height=0.72, color=_BLOCK_COLOURS[row.block])
        if score.low is not None:
            axes.plot([100 * score.low, 100 * score.high], [y, y], color="black", linewidth=1)
        if score.published is not None:
            axes.plot(100 * score.published, y, **_HOLLOW)
    axes.set_yticks(range(len(rows)), [row.method.name for row in rows], fontsize=8)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.set_xlabel(f"test {SELECTION_METRIC} in percent")
    handles = [
        elements.patch(colour, block)
        for block, colour in _BLOCK_COLOURS.items()
        if any(r.block == block for r in rows)
    ]
    if any(row.scores[SELECTION_METRIC].published is not None for row in rows):
        handles.append(elements.stroke("published (see note)", **_HOLLOW))
    figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), frameon=False, fontsize=9)
    caption = "Mean over users and seeds, with 95 % intervals over users and seeds; hollow: as printed in the paper."
    return Picture("bars.png", "All methods", caption, png_of(figure))


def draw_curves(methods: Sequence[MethodRuns]) -> Picture | None:
    """`SELECTION_METRIC` on validation against rounds, one panel a host and one for centralised methods."""
    lines = {m.name: line for m in methods if (line := elements.over_seeds(m.curves, _round, _selected))}
    panels = elements.panels([method for method in methods if method.name in lines])
    if not panels:
        return None
    figure, all_axes = elements.panel_grid(len(panels))
    for axes, (title, members) in zip(all_axes, panels, strict=True):
        for method, colour in zip(members, elements.line_colours(members), strict=True):
            line = lines[method.name]
            axes.plot(line.x, line.mean, color=colour, linewidth=1.5, label=elements.short_name(method))
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.18, linewidth=0)
        axes.set_xlabel("epochs" if title == order.CENTRAL else "rounds")
        elements.head(axes, title)
    figure.supylabel(f"validation {SELECTION_METRIC} in percent", fontsize=10)
    caption = "Mean over seeds and their whole range, up to the round that all seeds of a method reached."
    return Picture("learning_curves.png", "Learning curves", caption, png_of(figure))


def draw_communication(methods: Sequence[MethodRuns]) -> Picture | None:
    """Validation metrics of the best round so far against megabytes, one column a variant."""
    methods = [method for method in methods if method.family == FEDERATED and method.megabytes_per_round]
    metrics = (SELECTION_METRIC, *(metric for metric in main_metrics() if metric != SELECTION_METRIC))
    lines = {metric: [(m, line) for m in methods if (line := _against_megabytes(m, metric))] for metric in metrics}
    metrics = [metric for metric in metrics if lines[metric]]
    methods = [method for method, _ in lines[SELECTION_METRIC]]
    if not methods:
        return None
    columns = [column for column in (*VARIANTS, _OTHER) if any(_column(m) == column for m in methods)]
    owners = dict.fromkeys(map(_owner, methods))
    colour_of = {owner: COLOURS[o % len(COLOURS)] for o, owner in enumerate(owners)}
    figure = new_figure(1.6 + 2.4 * len(columns), 3.0 * len(metrics))
    grid = figure.subplots(len(metrics), len(columns), sharex=True, sharey="row", squeeze=False)
    for metric, row_axes in zip(metrics, grid, strict=True):
        for column, axes in zip(columns, row_axes, strict=True):
            for method, line in lines[metric]:
                colour = colour_of[_owner(method)]
                inside = _column(method) == column
                axes.plot(
                    line.x, line.mean, **({"color": colour, "linewidth": 1.6, "zorder": 3} if inside else _PALE)
                )
                if inside:
                    axes.plot(line.x[-1], line.mean[-1], "o", color=colour, markersize=4, zorder=4)
            log_axis(axes, np.concatenate([line.x for _, line in lines[metric]]))
        row_axes[0].set_ylabel(f"validation {metric} in percent")
    for column, axes in zip(columns, grid[0], strict=True):
        axes.set_title(column, fontsize=10)
    figure.supxlabel("megabytes between the server and all clients, both directions", fontsize=10)
    handles = [elements.stroke(owner, color=colour) for owner, colour in colour_of.items()]
    figure.legend(handles=handles, loc="outside right upper", fontsize=9)
    caption = f"The best round so far by validation {SELECTION_METRIC}, mean over seeds, against what was moved "
    caption += "until then. Grey: the methods of the other panels. A dot alone: a method with a single exchange."
    return Picture("communication.png", "Quality against communication", caption, png_of(figure))


def draw_history(methods: Sequence[MethodRuns], groups: RowGroups) -> Picture | None:
    """`SELECTION_METRIC` on test by the length of the user's history, one panel a host, with two references."""
    panels = [(title, members) for title, members in elements.panels(methods) if title != order.CENTRAL]
    if not panels or not groups.names:
        return None
    strongest = order.best_on_validation(m for m in methods if m.family == CENTRALISED)
    references = dict.fromkeys(
        m.name for m in (strongest, next((m for m in methods if m.name == order.POPULARITY), None)) if m
    )
    figure, all_axes = elements.panel_grid(len(panels))
    ticks = [f"{name}\n({size})" for name, size in zip(groups.names, groups.sizes, strict=True)]
    for axes, (title, members) in zip(all_axes, panels, strict=True):
        for name, style in zip(references, ("--", ":"), strict=False):
            values = 100 * np.array(groups.means[name][SELECTION_METRIC])
            axes.plot(range(len(ticks)), values, style, color="black", linewidth=1, label=f"{name}, centralised")
        for method, colour in zip(members, elements.line_colours(members), strict=True):
            values = 100 * np.array(groups.means[method.name][SELECTION_METRIC])
            axes.plot(
                range(len(ticks)),
                values,
                "o-",
                color=colour,
                linewidth=1.4,
                markersize=4,
                label=elements.short_name(method),
            )
        axes.set_xticks(range(len(ticks)), ticks, fontsize=8 if len(ticks) < 7 else 7)
        elements.head(axes, title)
    figure.supxlabel("train rows of the user (number of test rows)", fontsize=10)
    figure.supylabel(f"test {SELECTION_METRIC} in percent", fontsize=10)
    caption = "Mean over rows and seeds; black: popularity and the centralised method that validation prefers."
    return Picture("history.png", "Quality by length of the history", caption, png_of(figure))


def _round(point: CurvePoint) -> int:
    return point.round


def _selected(curve: elements.Curve) -> list[float]:
    return [point.valid[SELECTION_METRIC] for point in curve]


def _against_megabytes(method: MethodRuns, metric: str) -> elements.Line | None:
    """The curve of a method over megabytes; a single point where it has no training loop.

    None where an earlier version, which did not have the metric, made the curve.
    """
    if any(metric not in point.valid for curve in method.curves for point in curve):
        return None
    if any(method.curves):
        return elements.over_seeds(
            method.curves, lambda p: p.megabytes, lambda curve: elements.best_so_far(curve, metric)
        )
    values_su = seed_user_values(method.ranks, metric, split=VALID)
    if not values_su.size:
        return None
    mean = np.array([100 * values_su.mean()])
    return elements.Line(np.array([method.megabytes_per_round * np.mean(method.best_rounds)]), mean, mean, mean)


def _column(method: MethodRuns) -> str:
    return method.variant if method.variant in VARIANTS else _OTHER


def _owner(method: MethodRuns) -> str:
    return method.host or method.name
