"""What a run left in its workdir, read back and looked at before anything is made of it."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from fedvlr_jax.errors import CheckpointError, ConfigError
from fedvlr_jax.io.files import read_json
from fedvlr_jax.settings import check_settings, upgrade

GROUPS = ("valid", "test", "test_warm", "test_cold")
RATE = (int, float, type(None))  # None where it was not finite
RESULT_FIELDS = {
    **dict.fromkeys(("dataset", "host", "variant"), str),
    **dict.fromkeys(("rounds", "best_round", "num_dropped", "nonfinite_users"), int),
    **dict.fromkeys(("seconds_train", "seconds_eval", "seconds_compile", "client_updates_per_second"), (int, float)),
    **dict.fromkeys(("tie_rate", "constant_score_rate"), RATE),
    **dict.fromkeys(GROUPS, dict),
}
"""What has to be in result.json to show it, with types."""


def stored_settings(workdir: pathlib.Path) -> dict[str, Any]:
    """The settings that a run wrote, as this version has them.

    Raises:
      CheckpointError: if there are none.
      ConfigError: if they make no sense.
    """
    file = workdir / "config.json"
    stored = read_json(file)
    if stored is None:
        raise CheckpointError(f"--workdir={workdir}: no config.json there; give the folder of a training run")
    try:
        settings = upgrade(stored)
        check_settings(settings)
    except (ConfigError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"{file}: expected the settings of a run, found other content: {error}") from error
    return settings


def stored_result(workdir: pathlib.Path) -> dict[str, Any] | None:
    """The content of result.json, None if there is no such file.

    Raises:
      ConfigError: if it is not what a run writes.
    """
    result = read_json(workdir / "result.json")
    if result is not None:
        _require_fields(workdir / "result.json", result, RESULT_FIELDS)
    return result


def stored_baselines(workdir: pathlib.Path) -> list[dict[str, Any]] | None:
    """The rows of baselines.json, None if there is no such file.

    Raises:
      ConfigError: as `stored_result`.
    """
    rows = read_json(workdir / "baselines.json", list)
    for row in rows or ():
        _require_fields(workdir / "baselines.json", row, {"name": str, "hyper": dict, "summary": dict})
        _require_fields(workdir / "baselines.json", row["summary"], dict.fromkeys(GROUPS, dict))
    return rows


def _require_fields(file: pathlib.Path, found: Any, fields: Mapping[str, Any]) -> None:
    """Refuses a value read from a file that is no object with these fields, of these types."""
    for name, kind in fields.items():
        if not isinstance(found, dict) or not isinstance(found.get(name), kind):
            raise ConfigError(f"{file}: expected a field {name} as a run writes it, found none; delete this file")
