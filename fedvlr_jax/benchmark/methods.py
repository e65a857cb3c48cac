"""Which methods a benchmark has, and the settings and grid of each: from its configuration, before anything runs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from fedvlr_jax.assembly import parse_names
from fedvlr_jax.baselines import BASELINES
from fedvlr_jax.benchmark.guarantees import worth_of_noise
from fedvlr_jax.benchmark.programs import TracedPoint
from fedvlr_jax.benchmark.published import PAPER_HOSTS, PAPER_VARIANTS
from fedvlr_jax.benchmark.records import CENTRALISED, CONTROL, FEDERATED
from fedvlr_jax.errors import ConfigError, suggest
from fedvlr_jax.fields import flatten, with_fields
from fedvlr_jax.types import Dataset

LOCAL_ONLY = "local-only"
"""A private item table for each client and no server: FedRAP whose public table is zero and stays so."""

CONTROLS: dict[str, dict[str, Any]] = {
    "shuffled features": {"data.features": "shuffled"},
    "random features": {"data.features": "random"},
    "without D": {"fusion.modalities": "V,C"},
    "without V": {"fusion.modalities": "D,C"},
    "without C": {"fusion.modalities": "D,V"},
}

VIEW_HOSTS = ("fedblend",)
"""Hosts that weigh score views: all their variants read features, and have these controls beside."""

VIEW_CONTROLS: dict[str, dict[str, Any]] = {
    "ID only": {"fusion.modalities": "D"},
    "swapped deviations": {"host.swapped": True},
    "best view alone": {"server.lr": 0.0, "client.lr": 0.0},  # where learning starts
}

NOT_OF_FEATURES = ("swapped deviations", "best view alone")
"""Controls that say something without any item features."""


class Method(NamedTuple):
    """One row of the table before it has run.

    Attributes:
      name: unique, as in the table.
      family: of `records`.
      host, variant: of federated methods, else "".
      settings: nested, with all fields; {} for baselines.
      grid: the points among which validation chooses; dotted fields for federated methods, hyper-parameters for
        baselines.
      follows: a control takes the point of its grid that was chosen for this method.
      fixed: dotted fields that make a control what it is, whatever the point says.
    """

    name: str
    family: str
    host: str
    variant: str
    settings: Mapping[str, Any]
    grid: tuple[dict[str, Any], ...]
    follows: str = ""
    fixed: Mapping[str, Any] = {}


class Methods(NamedTuple):
    """The methods in the order in which they run, and sentences about budgets and those that the data rules out."""

    methods: tuple[Method, ...]
    notes: tuple[str, ...]


def list_methods(config: Mapping[str, Any], dataset: Dataset) -> Methods:
    """All methods that the configuration names and the data set allows.

    Args:
      config: nested mapping with the fields of configs/benchmark/base.py.
      dataset: its features decide which controls make sense.

    Raises:
      ConfigError: a pattern that fits no method, a field or grid that does not exist, a grid without points, or a
        budget of privacy that cannot be had.
    """
    baselines = [Method(name, _family(name), "", "", {}, ()) for name in BASELINES]
    candidates = [*baselines, *_federated(config), *_controls(config)]
    patterns = parse_names(config["methods"]) or ("*",)
    names = [method.name for method in candidates]
    _check_patterns("methods", (*patterns, *config["settings"], *config["grid"]), names, "method")
    wanted = [m for m in candidates if _fits(m.name, patterns)]
    missing = {m.follows for m in wanted if m.follows} - {m.name for m in wanted}
    wanted = [m for m in candidates if m in wanted or m.name in missing]
    notes, kept = worth_of_noise(wanted, dataset), []
    for method in wanted:
        if reason := _impossible(method, dataset):
            notes.append(f"{method.name} is left out: {reason}")
        else:
            kept.append(method)
    return Methods(tuple(kept), tuple(notes))


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_patterns(field: str, patterns: Sequence[str], names: Sequence[str], what: str) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            hint = suggest(pattern, names, "'", "'")
            raise ConfigError(f"{field}: {pattern!r} fits no {what}{hint}; known are {'; '.join(names)}")


def _family(baseline: str) -> str:
    return CENTRALISED if BASELINES[baseline].megabytes is None else FEDERATED


def _federated(config: Mapping[str, Any]) -> list[Method]:
    methods = []
    for host in parse_names(config["hosts"]) or PAPER_HOSTS:
        for variant in parse_names(config["variants"]) or PAPER_VARIANTS:
            methods.append(_method(config, f"{host}+{variant}", host, variant, {}))
    for name in parse_names(config["own"]):
        host, _, variant = name.partition("+")
        methods.append(_method(config, name, host, variant, {}))
    methods += _changed(config, methods)
    local = {"server.lr": 0.0, "server.init_scale": 0.0}
    return [*methods, _method(config, LOCAL_ONLY, "fedrap", "base", local)._replace(host="", variant="")]


def _changed(config: Mapping[str, Any], methods: Sequence[Method]) -> list[Method]:
    """Methods once more for every entry of ``config.changed``: the same grid but for the settings that it changes.

    A pattern of ``config.settings`` with a comma and a label, as "fedprior+*, eps *", is for these alone.
    """
    found, patterns = [], parse_names(config["changed_of"])
    labelled = {pattern: values for pattern, values in config["settings"].items() if ", " in pattern}
    if config["changed"]:
        _check_patterns("changed_of", patterns, [method.name for method in methods], "federated method")
    for label in sorted(config["changed"], key=_natural):
        for method in (m for m in methods if _fits(m.name, patterns)):
            name = f"{method.name}, {label}"
            fixed = dict(flatten(config["changed"][label])) | _fields_of(name, labelled)
            settings = _checked(name, method.settings, fixed)
            found.append(method._replace(name=name, settings=settings, grid=_without_axes(method.grid, fixed)))
    return found


def _natural(label: str) -> tuple[tuple[str, int], ...]:
    """An order in which "eps 4" is before "eps 32"."""
    return tuple((text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", label))


def _fields_of(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The dotted fields of all patterns that fit a name; later patterns win."""
    fields: dict[str, Any] = {}
    for pattern, values in settings.items():
        if fnmatchcase(name, pattern):
            fields |= dict(flatten(values))
    return fields


def _method(config: Mapping[str, Any], name: str, host: str, variant: str, fixed: Mapping[str, Any]) -> Method:
    fields = _fields_of(name, config["settings"])
    axes: dict[str, Sequence[Any]] = {}
    for pattern, values in config["grid"].items():
        if fnmatchcase(name, pattern):
            axes = dict(flatten(values))  # the last pattern that fits, as a whole
    settings = _checked(name, config["train"], {**fields, "host.name": host, "variant": variant, **fixed})
    for field, values in axes.items():
        if not values:
            raise ConfigError(f"grid: {field} of {name} has no values; expected at least one")
        _checked(name, settings, {field: values[0]})
    grid = tuple(dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values()))
    return Method(name, FEDERATED, host, variant, settings, _without_axes(grid, fixed))


def _without_axes(grid: Sequence[dict[str, Any]], fixed: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """A grid without the fields that are fixed, each point that is left once."""
    points = [left_open(point, fixed) for point in grid]
    return tuple(point for k, point in enumerate(points) if point not in points[:k])


def left_open(point: Mapping[str, Any], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """What a point of a grid says of a method of which some fields are fixed."""
    return {field: value for field, value in point.items() if field not in fixed}


def _controls(config: Mapping[str, Any]) -> list[Method]:
    requested = tuple(name.strip() for name in config["controls"].split(",") if name.strip())
    for name in requested:
        if name not in CONTROLS:
            raise ConfigError(f"controls: expected some of {', '.join(CONTROLS)}, found {name!r}")
    found = []
    for m in _federated(config):
        if ", " in m.name:  # a method with changed settings has no controls of its own
            continue
        views = VIEW_CONTROLS if m.host in VIEW_HOSTS else {}
        common = {name: CONTROLS[name] for name in requested} if views or m.variant == "fedvlr" else {}
        for name, changes in (common | views).items():
            settings = _checked(m.name, m.settings, changes)
            control = Method(f"{m.name}, {name}", CONTROL, m.host, m.variant, settings, m.grid, m.name, changes)
            found.append(control)
    return found


def _checked(name: str, settings: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return with_fields(settings, fields)
    except KeyError as error:
        raise ConfigError(f"settings of {name}: configs/base.py has no field {error.args[0]!r}") from error


def _impossible(method: Method, dataset: Dataset) -> str:
    """Why the data set rules a method out, or ""."""
    has = {"V": dataset.V is not None, "C": dataset.C is not None}
    if not any(has.values()) and _is_about_features(method):
        return f"{dataset.name} has neither visual nor textual features"
    _, _, control = method.name.partition(", without ")
    if control in has and not has[control]:
        return f"{dataset.name} does not have that modality at all"
    return ""


def _is_about_features(method: Method) -> bool:
    if method.name in BASELINES:
        return BASELINES[method.name].needs_features
    _, _, control = method.name.partition(", ")
    is_control = method.family == CONTROL and control not in NOT_OF_FEATURES
    return is_control or method.variant in ("vbpr", "gfmfr")


def split_point(point: TracedPoint, traceable: frozenset[str]) -> tuple[dict[str, Any], TracedPoint]:
    """A point as (fields that change the program, numbers that it takes as arguments)."""
    static = {field: value for field, value in point.items() if field not in traceable}
    return static, {field: float(value) for field, value in point.items() if field in traceable}
