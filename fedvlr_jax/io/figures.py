"""Figures without windows or global state, as compact PNG files. Matplotlib is imported only when one is drawn."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

import numpy as np

DPI = 105
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#8C6D31")
PALETTE = 256  # colours of a PNG file; without it the files are three times as large


def new_figure(width: float, height: float) -> Any:
    """An empty figure, inches; it belongs to no window and no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


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


def ticks_at(axes: Any, values: Iterable[float]) -> None:
    """Ticks at these values of the x axis and nowhere else, as plain numbers."""
    values = sorted(set(values))
    axes.set_xticks(values, [f"{x:,.10g}" for x in values])
    axes.set_xticks([], minor=True)
