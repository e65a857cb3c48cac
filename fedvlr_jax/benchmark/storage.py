"""One folder a run: ``config.json``, ``curve.json``, ``ranks.npz``, and last ``result.json``, which marks it done."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from fedvlr_jax.benchmark.records import CurvePoint
from fedvlr_jax.errors import CheckpointError, ConfigError
from fedvlr_jax.io.files import json_ready, read_arrays, read_json, write_arrays, write_json
from fedvlr_jax.io.identity import differences
from fedvlr_jax.training.results import rank_arrays, ranks_of
from fedvlr_jax.types import Ranks


class Stored:
    """A finished run as it was read back."""

    def __init__(self, folder: pathlib.Path, result: Mapping[str, Any]):
        file = folder / "ranks.npz"
        try:
            self.ranks: Ranks = ranks_of(read_arrays(file))
        except KeyError as error:
            raise CheckpointError(f"{file}: expected the arrays of a run, found no {error}; delete it") from error
        self.result = result
        self.curve = tuple(CurvePoint(**point) for point in read_json(folder / "curve.json", list) or ())


def find(
    folder: pathlib.Path, config: Mapping[str, Any], *, added: Mapping[str, Any] = MappingProxyType({})
) -> Stored | None:
    """The run in `folder` if it is done, None if it is not, or failed.

    Args:
      folder: of one run.
      config: what the run must be of.
      added: as of `identity.differences`.

    Raises:
      ConfigError: if the folder holds a run of another configuration, naming every field that differs.
    """
    stored = read_json(folder / "config.json")
    if stored is None:
        return None
    lines = differences(stored, config, origin="stored", added=added)
    if lines:
        raise ConfigError(
            f"{folder} holds a run of another configuration:\n  " + "\n  ".join(lines) + "\nchoose another --workdir"
        )
    result = read_json(folder / "result.json")
    return None if result is None else Stored(folder, result)


def save(
    folder: pathlib.Path,
    config: Mapping[str, Any],
    result: Mapping[str, Any],
    ranks: Ranks,
    curve: Sequence[CurvePoint],
) -> None:
    """Write a run; a kill in between leaves a folder that counts as not done."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "failure.json").unlink(missing_ok=True)
    write_json(folder / "config.json", config)
    write_json(folder / "curve.json", [point._asdict() for point in curve])
    write_arrays(folder / "ranks.npz", rank_arrays(ranks) | user_arrays(ranks))
    write_json(folder / "result.json", json_ready(result))


def save_failure(folder: pathlib.Path, config: Mapping[str, Any], reason: str) -> None:
    """Write why a run failed; it is tried again when the benchmark is continued."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    write_json(folder / "failure.json", {"reason": reason})


def find_failure(folder: pathlib.Path) -> str:
    """Why the run in `folder` failed, "" if it did not."""
    return (read_json(folder / "failure.json") or {}).get("reason", "")


def user_arrays(ranks: Ranks) -> dict[str, np.ndarray]:
    """What `results.rank_arrays` leaves out: per user whether all scores are one, and how many are not finite."""
    return {"constant": np.asarray(ranks.constant), "nonfinite": np.asarray(ranks.nonfinite)}
