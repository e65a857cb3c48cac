"""A start from the best round of another run: its public parameters, its private ones, or both."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fedvlr_jax.data import fingerprint, load_configured
from fedvlr_jax.errors import ConfigError, require_one_of
from fedvlr_jax.io.checkpoint import Checkpoints, describe_arrays
from fedvlr_jax.training.stored import stored_settings
from fedvlr_jax.types import Dataset, PyTree

PARTS = {"public": ("public",), "private": ("private",), "both": ("public", "private")}
"""By the value of ``init_parts``: the fields of `types.FedState` whose parameters come from the other run."""


def warm_start(state: PyTree, settings: Mapping[str, Any], dataset: Dataset) -> PyTree:
    """The state before the first round, with the parameters that ``init_from`` asks for in place of random ones.

    Optimizers, transforms and rounds start anew. Rows of padding, of states over several devices, stay.

    Args:
      state: a `types.FedState`, fresh.
      settings: nested, with all fields; ``init_from`` is the workdir of the other run, "" for none.
      dataset: of this run.

    Raises:
      CheckpointError: a workdir without an evaluated checkpoint.
      ConfigError: other items, other users where private parameters are asked for, or parameters of other names,
        shapes or types; all of them are named.
      DataError: the data set of the other run is another one than this run's, and cannot be loaded to compare.
    """
    if not settings["init_from"]:
        return state
    require_one_of(PARTS, "init_parts", settings["init_parts"])
    source, parts = pathlib.Path(settings["init_from"]), PARTS[settings["init_parts"]]
    where = f"init_from={source}"
    if "private" in parts and settings["compute"]["store"] != "device":
        store = settings["compute"]["store"]
        raise ConfigError(f"init_parts: expected public with compute.store {store}, found {settings['init_parts']}")
    stored = stored_settings(source)
    with Checkpoints(source / "checkpoints", read_only=True) as checkpoints:
        record = checkpoints.require_record()
        other = _dataset_of(stored, record["data"], dataset, where)
        _require_same_catalogue(other, dataset, parts, where)
        best, prefixes = record["best_round"], tuple(f"{part}/params/" for part in parts)
        _require_same_parameters(checkpoints.record_of(best)["arrays"], describe_arrays(state), prefixes, where)
        arrays = checkpoints.arrays_of(best, prefixes)
    for part in parts:
        params = jax.tree_util.tree_map_with_path(
            lambda path, x, part=part: _in_place(arrays[_name(part, path)], x, dataset.num_users, part),
            getattr(state, part).params,
        )
        state = state.replace(**{part: getattr(state, part).replace(params=params)})
    return state


def refuse_warm_start(settings: Mapping[str, Any], what: str) -> None:
    """For what makes its first states itself.

    Args:
      settings: nested, with all fields.
      what: in words, as "a sweep".

    Raises:
      ConfigError: settings with ``init_from``.
    """
    if settings["init_from"]:
        raise ConfigError(f"init_from: expected none in {what}, which starts its runs anew; train.py has it")


def require_same_ids(
    there: np.ndarray | None, here: np.ndarray | None, sizes: tuple[int, int], what: str, *, most: int = 3
) -> None:
    """Refuses two catalogues that differ, or number the same ids differently.

    Args:
      there, here: the original ids by number, None where the numbers are the ids.
      sizes: how many there and here.
      what: where they are from, for the message.
      most: so many ids of each kind are named.

    Raises:
      ConfigError: saying how many ids only one of them has, and which.
    """
    old, new = (list(map(str, range(n) if ids is None else ids)) for ids, n in zip((there, here), sizes, strict=True))
    if old == new:
        return
    only = [sorted(set(old) - set(new)), sorted(set(new) - set(old))]
    if not any(only):
        raise ConfigError(f"{what}: expected the same order of ids, found the same ids in another order")
    shown = [f" ({', '.join(ids[:most])}{', ...' if len(ids) > most else ''})" if ids else "" for ids in only]
    raise ConfigError(
        f"{what}: expected the same ids there and here, found {len(old)} there and {len(new)} here; only there "
        f"{len(only[0])}{shown[0]}, only here {len(only[1])}{shown[1]}"
    )


def _require_same_catalogue(other: Dataset, dataset: Dataset, parts: tuple[str, ...], where: str) -> None:
    """Refuses other items, and other users where private parameters are asked for."""
    named = {"items": (other.item_ids, dataset.item_ids, other.num_items, dataset.num_items)}
    if "private" in parts:
        named["users"] = (other.user_ids, dataset.user_ids, other.num_users, dataset.num_users)
    for what, (there, here, num_there, num_here) in named.items():
        if there is None and here is None and other.name != dataset.name:
            raise ConfigError(
                f"{where}, {what}: expected original ids, or the data set {other.name}, found {dataset.name} without "
                "any; equal numbers of two data sets are not the same"
            )
        require_same_ids(there, here, (num_there, num_here), f"{where}, {what}")


def _dataset_of(settings: Mapping[str, Any], stored: Mapping[str, Any], dataset: Dataset, where: str) -> Dataset:
    """The data set of the other run: this one where they are the same, else loaded."""
    if stored == fingerprint(dataset):
        return dataset
    other = load_configured(settings["data"], settings["seed"])
    if fingerprint(other) != stored:
        raise ConfigError(
            f"{where}: expected its data set {settings['data']['name']} with the content that it was trained on, "
            "found another, so that nobody can tell whose parameters it has"
        )
    return other


def _require_same_parameters(
    there: Mapping[str, str], here: Mapping[str, str], prefixes: tuple[str, ...], where: str
) -> None:
    names = [name for name in dict.fromkeys([*here, *there]) if name.startswith(prefixes)]
    lines = [
        f"{name}: there {there.get(name, '(absent)')}, here {here.get(name, '(absent)')}"
        for name in names
        if _without_rows(name, there.get(name)) != _without_rows(name, here.get(name))
    ]
    if lines:
        raise ConfigError(f"{where}: expected the same parameters there and here, found\n  " + "\n  ".join(lines))


def _without_rows(name: str, described: str | None) -> str | None:
    """A description such as "float32[204, 64]", of a private array without its users, whom ids are compared for."""
    if described is None or not name.startswith("private/"):
        return described
    kind, _, sizes = described.partition("[")
    return f"{kind}[{sizes.partition(',')[2]}"


def _name(part: str, path: Any) -> str:
    return f"{part}/params/{jax.tree_util.keystr(path, simple=True, separator='/')}"


def _in_place(found: np.ndarray, x: jax.Array, num_users: int, part: str) -> jax.Array:
    """The parameters of the other run where `x` lies, with the padding of `x`."""
    if part == "private" and found.shape != x.shape:
        padded = np.zeros(x.shape, x.dtype)
        padded[:num_users] = found[:num_users]
        found = padded
    return jax.make_array_from_callback(x.shape, x.sharding, lambda index: found[index])
