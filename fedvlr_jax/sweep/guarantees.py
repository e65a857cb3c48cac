"""What the noise of the points of a sweep is worth: by point, and in sentences for the notes under its table."""

from __future__ import annotations

from collections.abc import Sequence

from fedvlr_jax.benchmark.guarantees import ADD_UP, Worth, worth_of
from fedvlr_jax.sweep.layout import name_points
from fedvlr_jax.sweep.runs import SweepStore
from fedvlr_jax.sweep.space import SweepPoint


def worth_of_points(store: SweepStore, points: Sequence[SweepPoint]) -> list[Worth | None]:
    """Of every point, what the noise of one run is worth; None where there is no guarantee.

    Raises:
      ConfigError: a budget of privacy that cannot be had.
    """
    settings = map(store.settings_of, points)
    return [worth_of(of_point, store.datasets.of(of_point)) for of_point in settings]


def say_worth(worth: Sequence[Worth | None]) -> list[str]:
    """One sentence for each kind of guarantee, which names its points, those without one, and `ADD_UP`.

    Points that differ in epsilon alone share a sentence with the range of it: the table has each. Nothing where no
    point has a guarantee.
    """
    of_kind: dict[Worth | None, list[int]] = {}
    for k, found in enumerate(worth):
        of_kind.setdefault(found and found._replace(epsilon=0.0), []).append(k)
    without = of_kind.pop(None, [])
    if not of_kind:
        return []
    said = [
        f"{name_points(points)}: {kind.sentence(_range([w.epsilon for k in points if (w := worth[k])]))}"
        for kind, points in of_kind.items()
        if kind
    ]
    bare = [f"{name_points(without)}: no guarantee of privacy"] if without else []
    return [*said, *bare, ADD_UP]


def _range(epsilons: Sequence[float]) -> str:
    low, high = f"{min(epsilons):.4g}", f"{max(epsilons):.4g}"
    return low if low == high else f"{low} to {high} (see the table)"
