"""How much of a benchmark fits into a number of minutes: fewer points, then fewer seeds, then fewer methods. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

SHARE = 0.9
"""Of what is left of a budget, what is planned for: runs differ in their rounds, and the report takes time too."""


class Extent(NamedTuple):
    """How much a method is tuned and repeated: points of its grid, seeds of each of them, seeds of the chosen one."""

    points: int
    search_seeds: int
    seeds: int


FIRST = Extent(1, 1, 1)
"""The run by which a method is measured."""
LEAST = Extent(2, 1, 2)
"""What a method gets at least, as far as the configuration asks for it; methods that cannot have it are left out."""


def whole_extent(config: Mapping[str, Any]) -> Extent:
    """What a configuration asks for; 0 points are all of a grid."""
    return Extent(0, config["search_seeds"], config["seeds"])


def num_runs(extent: Extent, points: int, *, is_random: bool = True) -> int:
    """How many runs a method with a grid of so many points has.

    Args:
      extent: what it gets.
      points: of its grid.
      is_random: whether seeds make a difference; methods without randomness run once.
    """
    tried = min(extent.points or points, points)
    if not is_random:
        return 1
    return extent.seeds if tried <= 1 else tried * extent.search_seeds + max(0, extent.seeds - extent.search_seeds)


def ladder(whole: Extent, points: int) -> list[Extent]:
    """Extents from the whole one down to `LEAST`: first fewer seeds of the search, points, then seeds.

    Args:
      whole: what the configuration asks for.
      points: of the largest grid.
    """
    most = whole._replace(points=min(whole.points or points, points))
    found = [most]
    for field, least in (("search_seeds", 1), ("points", LEAST.points), ("seeds", LEAST.seeds)):
        while getattr(found[-1], field) > least:
            found.append(found[-1]._replace(**{field: getattr(found[-1], field) - 1}))
    return found


def middle_first(count: int) -> list[int]:
    """0 to `count` - 1: the middle, then the middles of both halves, and so on; every beginning is spread evenly."""
    found, stretches = [], [(0, count)]
    while stretches:
        begin, end = stretches.pop(0)
        if begin < end:
            middle = (begin + end) // 2
            found.append(middle)
            stretches += [(begin, middle), (middle + 1, end)]
    return found


def points_within(extent: Extent, count: int) -> list[int]:
    """The points of a grid of `count` that an extent allows, ascending."""
    return sorted(middle_first(count)[: extent.points or count])


def by_priority(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Names by the first pattern that fits; those that none fits come last, equals in the order given."""

    def place(name: str) -> int:
        return next((k for k, pattern in enumerate(patterns) if fnmatchcase(name, pattern)), len(patterns))

    return sorted(names, key=place)
