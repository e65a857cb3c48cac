"""Parts of the pictures: figures, panels, legends, and curves over seeds. Matplotlib is imported only when used."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.benchmark import order
from fedvlr_jax.benchmark.records import CENTRALISED, FEDERATED, CurvePoint, MethodRuns
from fedvlr_jax.variants import VARIANTS

DPI = 105
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#8C6D31")
VARIANT_COLOURS = dict(zip(VARIANTS, ("#5F6B7A", "#E69F00", "#009E73", "#D55E00"), strict=True))
PANEL_COLUMNS = 3
PALETTE = 256  # colours of a PNG file; without it the files are three times as large

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
      x_of: place of a point.
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
    """A validation metric at the best round so far by validation NDCG@50, for every point."""
    best, values = curve[0], []
    for point in curve:
        best = point if point.valid["NDCG@50"] > best.valid["NDCG@50"] else best
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


def new_figure(width: float, height: float) -> Any:
    """An empty figure, inches; it belongs to no window and no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def panel_grid(count: int) -> tuple[Any, list[Any]]:
    """A figure with `count` panels that share their y axis, and its axes."""
    columns = min(PANEL_COLUMNS, count)
    rows = math.ceil(count / columns)
    figure = new_figure(0.6 + 3.6 * columns, 0.7 + 2.9 * rows)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.remove()
    return figure, list(grid[:count])


def png_of(figure: Any) -> bytes:
    """The figure as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    for axes in figure.axes:
        axes.grid(axis="both", color="#E6E6E6", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    buffer = io.BytesIO()
    image.quantize(PALETTE, Image.Quantize.MAXCOVERAGE).save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def log_axis(axes: Any, values: np.ndarray) -> None:
    """A logarithmic x axis with plain numbers at its ticks, more of them where the values span little."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    positive = values[values > 0]
    narrow = positive.size and positive.max() < 50 * positive.min()
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.10g}"))
    axes.minorticks_off()  # they take longer to draw than everything else together


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
