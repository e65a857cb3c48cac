"""The settings of a run: defaults, changes, and checks, all from one table of fields (``settings/table.py``).

To add a setting, give it a row in that table (a host's own setting belongs into the host's row of ``HOSTS``) and
write the page anew: ``python -m fedvlr_jax.settings > docs/settings.md``. Its default must be what was done before
there was the setting, since what an older version stored lacks it and means that.

No JAX is loaded here, so that a slip on the command line is answered at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fedvlr_jax.errors import ConfigError, suggest
from fedvlr_jax.fields import as_type_of, flatten, join_names, nest, with_fields
from fedvlr_jax.settings.table import RENAMED, RENAMED_VALUES, all_fields


def default_settings() -> dict[str, Any]:
    """All settings with their defaults, as a nested dict that is the caller's own.

    >>> default_settings()["rounds"]
    400
    """
    return nest(defaults())


def defaults(prefix: str = "") -> dict[str, Any]:
    """The default of every field by dotted name, each name after `prefix`."""
    return {prefix + name: field.default for name, field in all_fields().items()}


def traceable_fields() -> frozenset[str]:
    """Dotted names of the numbers that change no shape: runs that differ in these alone share a compiled program."""
    return frozenset(name for name, field in all_fields().items() if field.traceable)


def override(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with some values changed; nothing of the original is shared.

    >>> override(default_settings(), {"rounds": 40, "host.name": "fedrap", "client": {"lr": 1}})["client"]["lr"]
    1.0

    Args:
      settings: nested, with all fields, as of `default_settings`.
      changes: values by dotted name, or nested, or both. A list of names may be "a,b" or a list.

    Raises:
      ConfigError: a field that does not exist (with a suggestion), or a value of another type. Ranges are checked by
        `check_settings`, when something is made of the settings.
    """
    fields = all_fields()
    typed = {name: as_type_of(fields[name].default, value, name) for name, value in _dotted(changes, "")}
    return with_fields(settings, {name: _tidy(name, value) for name, value in typed.items()})


def tidy(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with every list of names as "a,b", however it was written, and with the names of today.

    Fields that are not in the table stay as they are, and so do missing ones. An old name is a `FutureWarning`.
    """
    found, fields = dict(flatten(settings)), all_fields()
    return with_fields(settings, {name: _tidy(name, found[name]) for name in fields if name in found})


def upgrade(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that an earlier version stored, as this version has them: what they lack has its default."""
    leaves = {RENAMED.get(name, name): value for name, value in flatten(stored)}
    return tidy(nest({**defaults(), **leaves}))


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuses values that would run and give nonsense: types, ranges, and fields that contradict each other.

    A name among the rows of a table (a host, say) is looked up, and refused, where that table is used.

    Raises:
      ConfigError: naming the field, what was expected, and what was found.
    """
    found = dict(flatten(settings))
    for name, field in all_fields().items():
        if name not in found:
            raise ConfigError(f"{name}: expected a value, found none; settings start from default_settings()")
        field.check(name, found[name])
    if found["client.move_items"] and found["client.item_lr"] == 0:
        raise ConfigError("client.item_lr: expected a positive rate with client.move_items, found 0")
    if found["privacy.target_epsilon"] > 0 and found["privacy.delta"] == 0:
        raise ConfigError(
            f"privacy.delta: expected a positive number with privacy.target_epsilon "
            f"{found['privacy.target_epsilon']:g}, well below one over the number of clients, found 0"
        )
    if found["secure.dropout"] > 0 and not found["secure.sum"]:
        raise ConfigError(
            f"secure.dropout: clients are lost on the way of a secure sum, so expected secure.sum with "
            f"{found['secure.dropout']:g}, found False"
        )
    store, devices = found["compute.store"], found["compute.devices"]
    if store != "device" and found["server.sampling"] == "poisson":
        raise ConfigError(
            f"compute.store: expected device with server.sampling poisson, whose cohorts vary in size, found {store}"
        )
    if found["aggregation.clip_quantile"] > 0 and (store != "device" or devices != 1):
        raise ConfigError(
            f"aggregation.clip_quantile: expected compute.store device and compute.devices 1 with a bound that "
            f"moves, found {store} and {devices}"
        )
    if found["host.swapped"] and (store != "device" or devices != 1):
        raise ConfigError(
            f"host.swapped: expected compute.store device and compute.devices 1, where every client can be given the "
            f"state of another, found {store} and {devices}"
        )
    if store != "device" and devices != 1:
        raise ConfigError(f"compute.devices: expected 1 with compute.store {store}, found {devices}")


def unknown_field(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The message about a field that does not exist: what it is called now, or a name that is spelled alike.

    Args:
      name: dotted, as it was written.
      known: the fields that exist.
      prefix: stands before every name, as "--config.".
    """
    if name in RENAMED:
        return f"unknown field {prefix}{name}; it is called {prefix}{RENAMED[name]} now"
    return f"unknown field {prefix}{name}{suggest(name, known, prefix)}"


def _dotted(changes: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """The changes by the dotted name of a field; ConfigError where there is no such field."""
    fields = all_fields()
    for key, value in changes.items():
        name = f"{prefix}{key}"
        if name in fields:
            yield name, value
        elif not any(field.startswith(f"{name}.") for field in fields):
            raise ConfigError(unknown_field(name, fields))
        elif not isinstance(value, Mapping):
            raise ConfigError(f"{name}: expected fields with their values, found {value!r}")
        else:
            yield from _dotted(value, f"{name}.")


def _tidy(name: str, value: Any) -> Any:
    """The value of a field as this version writes it."""
    now = RENAMED_VALUES.get(name, {})
    if isinstance(value, str) and value in now:
        warnings.warn(f'{name}: "{value}" is called "{now[value]}" now', FutureWarning, stacklevel=3)
        return now[value]
    return join_names(value) if all_fields()[name].is_list else value
