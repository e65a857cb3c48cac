"""The settings of a preparation: one table of fields, and the options of each format beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fedvlr_jax.data.formats import FORMATS
from fedvlr_jax.data.times import COUNT, UNITS
from fedvlr_jax.errors import ConfigError, choose, suggest
from fedvlr_jax.fields import SHARE, Bounds, Field, flatten, nest

SPLITS = ("leave-one-out", "global-time", "ratio", "labels")
FIELDS: dict[str, Field] = {
    "format": Field("csv", "how the raw files are written", choices=tuple(FORMATS)),
    "min_rating": Field("", 'smallest rating that counts as an interaction; "" = all, ratings are otherwise unused'),
    "duplicates": Field(
        "first", "which of a user's repeated rows of an item stays, in time", choices=("first", "last", "keep")
    ),
    "core.per_user": Field(5, "interactions that every user has at least, again and again; 0 = any", Bounds(0)),
    "core.per_item": Field(5, "interactions that every item has at least, again and again; 0 = any", Bounds(0)),
    "split.by": Field("leave-one-out", "who is held out", choices=SPLITS, source="Paper"),
    "split.valid": Field(0.1, "share of validation rows; global-time and ratio", SHARE),
    "split.test": Field(0.1, "share of test rows; global-time and ratio", SHARE),
    "time.unit": Field(
        "", 'of the raw times; "" = found by their size, mixed ones refused', choices=("", COUNT, *UNITS)
    ),
    "order": Field(
        "time", "of the rows of inter.csv: by user, time and item, or as in the file", choices=("time", "file")
    ),
}


def fields_of(format_: str) -> dict[str, Field]:
    """All fields of a preparation by dotted name; ``read.*`` are those of the format.

    Raises:
      ConfigError: an unknown format.
    """
    options = choose(FORMATS, "format", format_).options
    return FIELDS | {f"read.{name}": field for name, field in options.items()}


def default_settings(format_: str) -> dict[str, Any]:
    """The paper's filters and split, for one format, as a nested dict; ``read`` is there even if it is empty."""
    return {"read": {}} | nest(
        {name: field.default for name, field in fields_of(format_).items()} | {"format": format_}
    )


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuses fields that do not exist, values out of range, and settings that contradict each other.

    Raises:
      ConfigError: naming the field, what was expected and what was found.
    """
    if "format" not in settings:
        raise ConfigError("--config: expected a preparation, such as configs/prepare/movielens.py, found another one")
    fields, found = fields_of(settings["format"]), dict(flatten(settings))
    for name, value in found.items():
        if name not in fields:
            raise ConfigError(f"unknown field {name} of format {settings['format']}{suggest(name, fields)}")
        fields[name].check(name, value)
    lacking = [name for name in fields if name not in found]
    if lacking:
        raise ConfigError(f"expected the field {lacking[0]}, found none")
    if settings["split"]["valid"] + settings["split"]["test"] >= 1:
        raise ConfigError("split.valid + split.test: expected below 1, found 1 or more")
    if settings["duplicates"] == "keep" and settings["split"]["by"] != "labels":
        raise ConfigError("duplicates=keep: expected split.by=labels, or a pair could be in two splits")
    least_rating(settings)


def least_rating(settings: Mapping[str, Any]) -> float | None:
    """The threshold of ratings, None where there is none."""
    text = settings["min_rating"]
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f'min_rating: expected a finite number or "", found {text!r}')
    return value


def help_text() -> str:
    """What ``--help`` says about the fields of a preparation and the options of every format."""
    lines = ["fields of a preparation:"]
    lines += [_line(name, field) for name, field in FIELDS.items()]
    for name, format_ in FORMATS.items():
        lines += ["", f"format {name}: {format_.about}"]
        lines += [_line(f"read.{option}", field) for option, field in format_.options.items()]
    return "\n".join(lines)


def _line(name: str, field: Field) -> str:
    choices = f"; one of {', '.join(choice or chr(34) * 2 for choice in field.choices)}" if field.choices else ""
    return f"    --config.{name}={field.default}\n        {field.about}{choices}"
