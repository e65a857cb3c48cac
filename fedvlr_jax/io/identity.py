"""What makes two runs the same run: their settings and their data."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from fedvlr_jax.errors import CheckpointError, ConfigError
from fedvlr_jax.fields import flatten
from fedvlr_jax.io.files import json_ready, read_json, write_json

# Settings that may change between a checkpoint and its continuation: they decide how long a run goes on, where
# its data lies (the fingerprint of the data decides whether it is the same), what is printed, on how many devices
# it runs and in how many parts, not what a round computes. A name ending in a dot stands for a whole group.
FREE_SETTINGS = (
    "rounds",
    "dry_run",
    "baselines",
    "writers",
    "compute.devices",
    "compute.bucket_worth",
    "eval.patience",
    "eval.lists",
    "checkpoint.",
    "data.dir",
    "data.source",
    "data.expect.",
)


def differences(
    stored: Mapping[str, Any],
    current: Mapping[str, Any],
    *,
    origin: str = "checkpoint",
    added: Mapping[str, Any] = MappingProxyType({}),
) -> list[str]:
    """One line for each leaf of two nested dicts that differs.

    Args:
      stored, current: the two.
      origin: where `stored` comes from, for the lines.
      added: by dotted name what a leaf of `current` means where `stored` is from before there was that leaf.
    """
    old, new = dict(flatten(json_ready(stored))), dict(flatten(json_ready(current)))
    old |= {name: value for name, value in added.items() if name in new and name not in old}
    return [
        f"{name}: {origin} {_show(old, name)}, now {_show(new, name)}"
        for name in dict.fromkeys([*old, *new])
        if _show(old, name) != _show(new, name)
    ]


def require_same_run(
    record: Mapping[str, Any],
    settings: Mapping[str, Any],
    data: Mapping[str, Any],
    *,
    remedy: str = "choose another --workdir, or --noresume to delete that run and start again",
) -> None:
    """Refuse to continue a checkpoint with other settings (but `FREE_SETTINGS`) or other data.

    Args:
      record: the checkpoint's JSON record, with ``settings`` and ``data``.
      settings: nested settings of this run.
      data: ``data.fingerprint`` of this run's data set.
      remedy: what the user can do about another one.

    Raises:
      CheckpointError: naming every field that differs, with both values.
    """
    lines = [
        line
        for line in differences(record["settings"], settings)
        if not is_covered(line.split(":")[0], _free(settings))
    ]
    lines += [f"data {line}" for line in differences(record["data"], data)]
    if lines:
        raise CheckpointError(
            "the workdir holds a checkpoint of another configuration or data set:\n  "
            + "\n  ".join(lines)
            + f"\n{remedy}"
        )


def _free(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """`FREE_SETTINGS`, without the rounds where the noise was solved for their number."""
    if settings.get("privacy", {}).get("target_epsilon"):
        return tuple(name for name in FREE_SETTINGS if name != "rounds")
    return FREE_SETTINGS


def claim_workdir(
    workdir: pathlib.Path, kind: str, identity: Mapping[str, Any], *, remedy: str, added: Mapping[str, Any]
) -> None:
    """Note in ``<kind>.json`` what the runs of a workdir are of, or refuse a workdir of something else.

    Args:
      workdir: a folder that exists.
      kind: "benchmark" or "sweep".
      identity: nested, everything that makes two of them the same.
      remedy: what the user can do about another one.
      added: as of `differences`.

    Raises:
      ConfigError: naming every field that differs, with both values; or runs that are of no `kind`.
    """
    stored = read_json(workdir / f"{kind}.json")
    if stored is None:
        if (workdir / "runs").exists() or (workdir / "result.json").exists():
            raise ConfigError(f"--workdir={workdir} holds other runs, but no {kind}; choose another --workdir")
        write_json(workdir / f"{kind}.json", identity)
        return
    lines = differences(stored, identity, origin="stored", added=added)
    if lines:
        raise ConfigError(f"--workdir={workdir} holds another {kind}:\n  " + "\n  ".join(lines) + f"\n{remedy}")


def is_covered(name: str, free: Iterable[str]) -> bool:
    """Whether a dotted name is among `free`, where a name ending in a dot stands for a whole group."""
    return any(name.startswith(known) if known.endswith(".") else name == known for known in free)


def _show(leaves: Mapping[str, Any], name: str) -> str:
    return repr(leaves[name]) if name in leaves else "(absent)"
