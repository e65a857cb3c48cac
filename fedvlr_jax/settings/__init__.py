"""The settings of a run: defaults, changes, and checks."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from typing import Any

from fedvlr_jax.errors import ConfigError, suggest
from fedvlr_jax.ranges import check_ranges


def default_settings() -> dict[str, Any]:
    """All settings with their defaults, as a nested dict that is the caller's own."""
    return importlib.import_module("configs.base").get_config().to_dict()


def override(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with some values changed, by dotted name or nested; nothing of the original is shared."""
    changed = copy.deepcopy(dict(settings))
    for name, value in changes.items():
        group, _, rest = name.partition(".")
        if group not in changed:
            raise ConfigError(f"unknown field {name}{suggest(name, changed)}")
        nested = value if not rest and isinstance(changed[group], dict) else {rest: value}
        changed[group] = override(changed[group], nested) if isinstance(changed[group], dict) else value
    return changed


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuses values that would run and give nonsense."""
    check_ranges(settings)
