"""The content of a sweep file, checked against the fields of a configuration, and its points.

Pure, and free of JAX: a typing error in a sweep file is reported at once.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.errors import ConfigError, require_one_of, suggest
from fedvlr_jax.fields import SEED, as_type_of

KINDS = ("grid", "random", "optuna")
FIXED = ("dry_run", "baselines", "writers", "data.source", "checkpoint.seconds")  # change nothing that is computed
DIGITS = 6  # significant digits of a drawn number, so that it can be typed again

SweepPoint = dict[str, Any]
"""The value of every swept field, by dotted name."""


class Range(NamedTuple):
    """A uniform distribution over [low, high], of the logarithm if `log`."""

    low: float
    high: float
    log: bool


class Sweep(NamedTuple):
    """A checked sweep.

    Attributes:
      kind: one of `KINDS`.
      axes: by dotted field a tuple of values, or (random, optuna) a `Range`; in the order of the file.
      whole: fields whose numbers are whole.
      samples: points that are drawn (random, optuna).
      seed: of the draws.
      seeds: values of the field seed, each run at every point; a point with a field seed runs that one alone.
      batch: points that optuna proposes before it learns how they did.
      group: most runs side by side in one program; 0 = all that share it.
    """

    kind: str
    axes: Mapping[str, tuple[Any, ...] | Range]
    whole: frozenset[str]
    samples: int
    seed: int
    seeds: tuple[int, ...]
    batch: int
    group: int


def read_sweep(raw: Mapping[str, Any], leaves: Mapping[str, Any], known: Mapping[str, Any]) -> Sweep:
    """Checks what ``get_sweep()`` returned.

    Args:
      raw: the fields of configs/sweeps/base.py; `fields` may be nested or have dotted names.
      leaves: values of the configuration that is swept, by dotted name; they give the types.
      known: every field that a sweep has, with its default.

    Raises:
      ConfigError: naming the field, what was expected, and what was found.
    """
    for name in raw:
        if name not in known:
            raise ConfigError(f"sweep: there is no {name!r}{suggest(name, known)}; known are {', '.join(known)}")
    full = {**known, **raw}
    kind = full["kind"]
    require_one_of(KINDS, "sweep: kind", kind)
    for name, least in {"samples": 1, "seed": 0, "batch": 1, "group": 0}.items():
        if type(full[name]) is not int or full[name] < least:
            raise ConfigError(f"sweep: {name}: expected an integer of at least {least}, found {full[name]!r}")
    if not SEED.hold(full["seed"]):
        raise ConfigError(f"sweep: seed: expected an integer, {SEED}, found {full['seed']}")
    axes = {field: _axis(field, value, leaves[field], kind) for field, value in _flat(full["fields"], leaves).items()}
    if not axes:
        raise ConfigError("sweep: fields: expected at least one field with its values, found none")
    return Sweep(
        kind,
        axes,
        frozenset(field for field in axes if type(leaves[field]) is int),
        full["samples"],
        full["seed"],
        _seeds(full["seeds"], axes, leaves["seed"]),
        full["batch"],
        full["group"],
    )


def expand(sweep: Sweep) -> list[SweepPoint]:
    """The points of a grid (the last field changes fastest) or of a random draw (without repetitions).

    Every field is drawn from a stream of its own: another field or more samples leave the earlier draws alone.
    """
    if sweep.kind == "grid":
        return [dict(zip(sweep.axes, values, strict=True)) for values in itertools.product(*sweep.axes.values())]
    columns = [
        _draw(
            axis, np.random.default_rng([sweep.seed, zlib.crc32(field.encode())]), sweep.samples, field in sweep.whole
        )
        for field, axis in sweep.axes.items()
    ]
    return [dict(zip(sweep.axes, values, strict=True)) for values in dict.fromkeys(zip(*columns, strict=True))]


def seeds_of(sweep: Sweep, point: SweepPoint) -> tuple[int, ...]:
    """The seeds that run at a point."""
    return (point["seed"],) if "seed" in point else sweep.seeds


def tidy(value: float, axis: Range) -> float:
    """A number of the range with `DIGITS` significant digits."""
    return min(max(float(f"{value:.{DIGITS}g}"), axis.low), axis.high)


def name_of(point: SweepPoint) -> str:
    """A point in words: "server.lr=0.01, variant=base"."""
    return ", ".join(f"{field}={value}" for field, value in point.items())


def _flat(fields: Any, leaves: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted fields of a mapping that may be nested; a mapping below a leaf is a distribution."""
    if not isinstance(fields, Mapping):
        raise ConfigError(f"sweep: {prefix or 'fields'}: expected names with their values, found {fields!r}")
    found: dict[str, Any] = {}
    for name, value in fields.items():
        field = prefix + name
        if field in FIXED:
            raise ConfigError(f"sweep: {field} changes nothing that a run computes; expected another field")
        if field in leaves:
            found[field] = value
        elif any(leaf.startswith(f"{field}.") for leaf in leaves):
            found |= _flat(value, leaves, f"{field}.")
        else:
            raise ConfigError(f"sweep: unknown field {field}{suggest(field, leaves)}")
    return found


def _axis(field: str, value: Any, default: Any, kind: str) -> tuple[Any, ...] | Range:
    if isinstance(value, Mapping):
        if kind == "grid":
            raise ConfigError(f"sweep: {field}: kind grid expects a list of values, found a distribution")
        return _range(field, value, default)
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        found = "no values" if value in ((), []) else repr(value)
        raise ConfigError(f"sweep: {field}: expected a list of values, found {found}")
    values = tuple(_typed(f"{field}, value {k + 1} of {len(value)}", v, default) for k, v in enumerate(value))
    if len(set(values)) < len(values):
        raise ConfigError(f"sweep: {field}: expected distinct values, found {list(values)}")
    return values


def _range(field: str, value: Mapping[str, Any], default: Any) -> Range:
    if type(default) not in (int, float):
        raise ConfigError(f"sweep: {field}: expected a list of choices, since it is no number, found a distribution")
    if not {"low", "high"} <= set(value) <= {"low", "high", "log"}:
        raise ConfigError(f"sweep: {field}: expected low, high and perhaps log, found {', '.join(value)}")
    low, high = (_typed(f"{field}, {name}", value[name], default) for name in ("low", "high"))
    log = value.get("log", False)
    if not isinstance(log, bool):
        raise ConfigError(f"sweep: {field}, log: expected True or False, found {log!r}")
    if low >= high or (log and low <= 0):
        rule = "0 < low < high" if log else "low < high"
        raise ConfigError(f"sweep: {field}: expected {rule}, found low={low}, high={high}")
    return Range(low, high, log)


def _typed(where: str, value: Any, default: Any) -> Any:
    """The value in the type of the field's default; names may be a list, as in a configuration file."""
    if isinstance(value, np.generic):
        value = value.item()
    return as_type_of(default, value, f"sweep: {where}")


def _seeds(seeds: Any, axes: Mapping[str, Any], default: int) -> tuple[int, ...]:
    if not isinstance(seeds, list | tuple) or any(type(s) is not int or not SEED.hold(s) for s in seeds):
        raise ConfigError(f"sweep: seeds: expected a list of integers of {SEED}, found {seeds!r}")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"sweep: seeds: expected distinct seeds, found {list(seeds)}")
    if seeds and "seed" in axes:
        raise ConfigError("sweep: expected seeds (runs of every point) or a field seed (points), found both")
    return tuple(seeds) or (default,)


def _draw(axis: tuple[Any, ...] | Range, rng: np.random.Generator, samples: int, whole: bool) -> list[Any]:
    """One value for each sample."""
    if not isinstance(axis, Range):
        return [axis[rng.integers(len(axis))] for _ in range(samples)]
    low, high, log = axis
    share_s = rng.random(samples)
    if whole:  # all whole numbers of a linear range are equally likely
        low, high = (math.log(low), math.log(high + 1)) if log else (low, high + 1)
        drawn = (math.floor(math.exp(x) if log else x) for x in low + share_s * (high - low))
        return [min(max(value, int(axis.low)), int(axis.high)) for value in drawn]
    low, high = (math.log(low), math.log(high)) if log else (low, high)
    return [tidy(math.exp(x) if log else x, axis) for x in low + share_s * (high - low)]
