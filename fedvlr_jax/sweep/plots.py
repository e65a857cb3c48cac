"""Parallel coordinates of a sweep: a line a point, an axis a field, the colour its validation metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.evaluation.metrics import SELECTION_METRIC
from fedvlr_jax.io.figures import new_figure, png_of
from fedvlr_jax.sweep.leaderboard import LeaderboardRow

LOG_SPAN = 20.0  # positive numbers that span more than this have a logarithmic axis
MOST_TICKS = 8
FAILED = "#B8BDC4"


class Scale(NamedTuple):
    """One axis.

    Attributes:
      height_p: position of every point in [0, 1].
      ticks: (height, label) pairs.
    """

    height_p: np.ndarray
    ticks: list[tuple[float, str]]


def scale_of(values: Sequence[Any]) -> Scale:
    """The axis of a field: numbers by size, by their logarithm where they span much; names evenly, as they come."""
    if any(isinstance(value, str | bool) for value in values):
        names = list(dict.fromkeys(values))
        number_p = np.array([names.index(value) for value in values], float)
        shown = dict(enumerate(map(str, names)))
    else:
        number_p = np.array(values, float)
        if number_p.min() > 0 and number_p.max() > LOG_SPAN * number_p.min():
            number_p = np.log(number_p)
        shown = {number: f"{value:.4g}" for number, value in zip(number_p, values, strict=True)}
    low, span = number_p.min(), np.ptp(number_p)

    def height(number: Any) -> Any:
        return (number - low) / span if span else 0.5 + 0 * number

    ordered = sorted(shown)
    if len(ordered) > MOST_TICKS:
        ordered = [ordered[0], ordered[-1]]
    return Scale(height(number_p), [(float(height(number)), shown[number]) for number in ordered])


def draw_parallel(leaderboard: Sequence[LeaderboardRow]) -> bytes:
    """The picture as a PNG file; points without a value are grey and end before the last axis."""
    from matplotlib import colormaps

    fields = list(leaderboard[0].point)
    scales = [scale_of([s.point[field] for s in leaderboard]) for field in fields]
    done = [p for p, s in enumerate(leaderboard) if s.value is not None]
    result = scale_of([100 * leaderboard[p].value for p in done]) if done else Scale(np.zeros(0), [])
    result = Scale(result.height_p, [result.ticks[0], result.ticks[-1]] if len(result.ticks) > 1 else result.ticks)
    figure = new_figure(1.8 + 1.7 * (len(fields) + 1), 4.2)
    axes = figure.subplots()
    for p in reversed(range(len(leaderboard))):  # the best lines are drawn last, above the others
        heights = [scale.height_p[p] for scale in scales]
        if p in done:
            height = float(result.height_p[done.index(p)])
            colour, wide = colormaps["viridis_r"](height), p == done[0]
            axes.plot([*heights, height], color=colour, linewidth=2.6 if wide else 1.2, alpha=1.0 if wide else 0.75)
        else:
            axes.plot(heights, color=FAILED, linewidth=1, linestyle="--", marker="x" if len(heights) == 1 else None)
    for x, scale in enumerate([*scales, result]):
        axes.axvline(x, color="black", linewidth=0.8, zorder=3)
        for height, label in scale.ticks:
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
            axes.text(x + 0.03, height, label, fontsize=8, va="center", zorder=4, bbox=box)
    axes.set_xticks(range(len(fields) + 1), [*fields, f"validation {SELECTION_METRIC}\nin percent"], fontsize=9)
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(fields) + 0.45)
    axes.set_title("wide: the best point by validation; dashed: failed or not run", fontsize=9, loc="left")
    axes.spines[["left", "bottom"]].set_visible(False)
    return png_of(figure)
