"""Small charts as HTML with inline SVG: lines, points with their spread by group, and clouds of points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape

WIDTH, HEIGHT = 460, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 8, 40  # around the area of the data
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8C6D31", "#000000")
MOST_POINTS = 300  # of a line or a cloud; more say nothing at this size


class Series(NamedTuple):
    """One line, or one row of points.

    Attributes:
      name: for the legend.
      x, y: [n], where; a y that is not finite is left out.
      spread: [n], half the length of an upright bar through each point; None for none.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    spread: np.ndarray | None = None


class _Axis(NamedTuple):
    """Data from `low` to `high` at the pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> str:
        share = (value - self.low) / (self.high - self.low)
        return f"{self.start + share * (self.end - self.start):.1f}"


def lines(series: Sequence[Series], *, x_name: str, mark: float | None = None) -> Markup:
    """Lines over a common x axis.

    Args:
      series: at least one, with at least one point.
      x_name: what x is.
      mark: where an upright dashed line stands.
    """
    series = [one._replace(x=one.x[keep], y=one.y[keep]) for one in series if (keep := _kept(one)).any()]
    if not series:
        return Markup("")
    x_axis, y_axis = _axes(series, pad=0.0)
    parts = [_frame(x_axis, y_axis, _ticks(x_axis), x_name)]
    if mark is not None:
        at = x_axis.at(mark)
        parts.append(f'<line x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" class="mark"/>')
    for colour, one in zip(_colours(), series, strict=False):
        points = " ".join(f"{x_axis.at(x)},{y_axis.at(y)}" for x, y in zip(one.x, one.y, strict=True))
        if one.x.size == 1:
            parts.append(_dot(x_axis.at(one.x[0]), y_axis.at(one.y[0]), colour))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
    return _chart([one.name for one in series], parts)


def groups(names: Sequence[str], series: Sequence[Series], *, x_name: str) -> Markup:
    """Points with their spread over named groups, the series beside each other; their x are places of `names`."""
    shift = [0.16 * (s - (len(series) - 1) / 2) for s in range(len(series))]
    moved = [one._replace(x=one.x + by) for one, by in zip(series, shift, strict=True)]
    _, y_axis = _axes(moved, pad=0.0)
    x_axis = _Axis(-0.5, len(names) - 0.5, LEFT, WIDTH - RIGHT)
    parts = [_frame(x_axis, y_axis, list(enumerate(names)), x_name)]
    for colour, one in zip(_colours(), moved, strict=False):
        spreads = np.zeros(one.x.size) if one.spread is None else one.spread
        for x, y, spread in zip(one.x, one.y, spreads, strict=True):
            at, low, high = x_axis.at(x), y_axis.at(y - spread), y_axis.at(y + spread)
            parts.append(f'<line x1="{at}" x2="{at}" y1="{low}" y2="{high}" stroke="{colour}" stroke-width="1.4"/>')
            parts.append(_dot(at, y_axis.at(y), colour))
    return _chart([one.name for one in series], parts)


def clouds(series: Sequence[Series], *, x_name: str) -> Markup:
    """Points that are not joined, such as one for each user."""
    thinned = [one._replace(x=_thin(one.x), y=_thin(one.y)) for one in series]
    x_axis, y_axis = _axes(thinned, pad=0.02)
    parts = [_frame(x_axis, y_axis, _ticks(x_axis), x_name)]
    for colour, one in zip(_colours(), thinned, strict=False):
        dots = "".join(_dot(x_axis.at(x), y_axis.at(y), colour) for x, y in zip(one.x, one.y, strict=True))
        parts.append(f'<g opacity="0.55">{dots}</g>')
    return _chart([one.name for one in series], parts)


def round_ticks(low: float, high: float, *, most: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, about `most`: multiples of 1, 2 or 5 times a power of ten.

    >>> round_ticks(0.03, 0.27)
    [0.05, 0.1, 0.15, 0.2, 0.25]
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= 0.999 * rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def _kept(one: Series) -> np.ndarray:
    """bool [n], the points of a line that are drawn."""
    finite = np.isfinite(one.y)
    every = max(1, -(-len(one.y) // MOST_POINTS))
    return finite & ((np.arange(len(one.y)) % every == 0) | (np.arange(len(one.y)) == len(one.y) - 1))


def _thin(x: np.ndarray) -> np.ndarray:
    return x[:: max(1, -(-len(x) // MOST_POINTS))]


def _axes(series: Sequence[Series], *, pad: float) -> tuple[_Axis, _Axis]:
    x = np.concatenate([one.x for one in series])
    spread = [0.0 if one.spread is None else one.spread for one in series]
    y = np.concatenate([end for one, s in zip(series, spread, strict=True) for end in (one.y - s, one.y + s)])
    left, right = _ends(x, pad)
    low, high = _ends(y, 0.06)
    return _Axis(left, right, LEFT, WIDTH - RIGHT), _Axis(low, high, HEIGHT - BOTTOM, TOP)


def _ends(values: np.ndarray, pad: float) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    span = high - low or abs(high) or 1.0
    return (low - pad * span, high + pad * span) if high > low else (low - 0.5 * span, high + 0.5 * span)


def _ticks(axis: _Axis) -> list[tuple[float, str]]:
    return [(value, f"{value:,.10g}") for value in round_ticks(axis.low, axis.high)]


def _frame(x_axis: _Axis, y_axis: _Axis, ticks: Sequence[tuple[float, str]], x_name: str) -> str:
    """Lines at the ticks, their labels, and the name of the x axis."""
    foot, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value, label in _ticks(y_axis):
        y = y_axis.at(value)
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{y}" y2="{y}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y}" dy="4" text-anchor="end">{label}</text>')
    for value, label in ticks:
        parts.append(f'<text x="{x_axis.at(value)}" y="{foot + 15}" text-anchor="middle">{escape(label)}</text>')
    parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{foot}" y2="{foot}" class="foot"/>')
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_name)}</text>')
    return "".join(parts)


def _dot(x: str, y: str, colour: str) -> str:
    return f'<circle cx="{x}" cy="{y}" r="2.8" fill="{colour}"/>'


def _colours() -> tuple[str, ...]:
    return COLOURS * 4


def _chart(names: Sequence[str], parts: Sequence[str]) -> Markup:
    """The legend, which wraps, above the picture."""
    entries = [
        f'<span><i style="background:{colour}"></i>{escape(name)}</span>'
        for colour, name in zip(_colours(), names, strict=False)
    ]
    picture = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" class="chart">{"".join(parts)}</svg>'
    return Markup(f'<p class="legend">{"".join(entries)}</p>{picture}')
