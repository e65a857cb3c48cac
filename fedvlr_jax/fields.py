"""What a field of the settings is, which values it takes, and nested dicts addressed by dotted names."""

from __future__ import annotations

import copy
import math
import numbers
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from fedvlr_jax.errors import ConfigError, require_one_of


class Bounds(NamedTuple):
    """``low <= value < below``, without `low` itself where `above`; no value is infinite or NaN."""

    low: float
    below: float = math.inf
    above: bool = False

    def hold(self, value: float) -> bool:
        """Whether a value lies within."""
        return (self.low < value if self.above else self.low <= value) and value < self.below

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'at least'} {self.low:g}"
        return low if self.below == math.inf else f"{low} and below {self.below:.10g}"


NOT_NEGATIVE = Bounds(0)
POSITIVE = Bounds(0, above=True)
ONE_OR_MORE = Bounds(1)
SHARE = Bounds(0, below=1)
SEED = Bounds(0, below=2**32)  # a key of JAX takes 32 bits of a seed and drops the others


class Field(NamedTuple):
    """One field of the settings.

    Attributes:
      default: its value where nobody sets it, which also gives its type: bool, int, float or str.
      about: what it is, in one line; symbols as in README.md.
      bounds: which numbers make sense, or None for all.
      choices: the names that a str may have, or where the table is whose rows they are ("models.variants.VARIANTS");
        such a name is looked up, and refused, where the table is used. () for any.
      unit: of a number.
      source: where the default or the idea comes from. "Paper" is FedVLR (arXiv 2410.08478).
      traceable: whether a compiled program can take it as an argument: it is a number that changes no shape.
      is_list: whether it is a comma list of `choices`.
    """

    default: bool | int | float | str
    about: str
    bounds: Bounds | None = None
    choices: tuple[str, ...] | str = ()
    unit: str = ""
    source: str = ""
    traceable: bool = False
    is_list: bool = False

    def check(self, name: str, value: Any) -> None:
        """Refuses a value of another type, outside of the bounds, or that is none of the choices written here.

        Raises:
          ConfigError: naming the field, what was expected, and what was found.
        """
        value = as_type_of(self.default, value, name)
        if self.bounds is not None and not self.bounds.hold(value):
            finite = "a finite number, " if isinstance(self.default, float) else ""
            raise ConfigError(f"{name}: expected {finite}{self.bounds}, found {value}")
        if self.choices and isinstance(self.choices, tuple):
            for chosen in filter(None, value.split(",")) if self.is_list else (value,):
                require_one_of(self.choices, name, chosen)


def as_type_of(default: Any, value: Any, where: str) -> Any:
    """A value in the type of a default: an int widens to float, a list of names becomes "a,b", nothing else changes.

    Raises:
      ConfigError: a value of another type (bool is no int), or a float that is not finite.
    """
    kind = type(default)
    if kind is float and _is(numbers.Real, value):
        value = float(value)
    elif kind is int and _is(numbers.Integral, value):
        value = int(value)
    elif kind is str and isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        value = ",".join(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):
        wanted = "a finite number" if kind is float else f"type {kind.__name__}"
        raise ConfigError(f"{where}: expected {wanted}, found {value!r}")
    return value


def _is(kind: type, value: Any) -> bool:
    """Whether a value is a number of that kind, of Python or of NumPy."""
    return isinstance(value, kind) and not isinstance(value, bool)


def join_names(value: str | Iterable[str]) -> str:
    """A list of names as "a,b", however it was written: "a, b", "('a', 'b')", or a tuple."""
    return ",".join(re.findall(r"[^\s,'\"()\[\]]+", value if isinstance(value, str) else ",".join(value)))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested dict as (dotted name, value), in order."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def nest(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dict of dotted names, in order; the inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for field, value in leaves.items():
        *groups, name = field.split(".")
        place = tree
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = value
    return tree


def with_fields(settings: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The nested settings with the values of some dotted fields replaced; nothing of the original is shared.

    Values are taken as they are (a traced array, say); `settings.override` checks them.

    Raises:
      KeyError: naming the first field that does not exist.
    """
    changed = copy.deepcopy(dict(settings))
    for field, value in values.items():
        *groups, name = field.split(".")
        place = changed
        for group in groups:
            place = place.get(group, {}) if isinstance(place, Mapping) else {}
        if not isinstance(place, dict) or name not in place:
            raise KeyError(field)
        place[name] = value
    return changed
