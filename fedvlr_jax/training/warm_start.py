"""A start from the best round of another run: its public parameters, its private ones, or both."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fedvlr_jax.assembly import configured_host
from fedvlr_jax.data import fingerprint
from fedvlr_jax.errors import ConfigError, require_one_of
from fedvlr_jax.fields import flatten
from fedvlr_jax.io.checkpoint import Checkpoints, describe_arrays
from fedvlr_jax.io.files import json_ready
from fedvlr_jax.privacy.accounting import guarantee_of
from fedvlr_jax.training.schedule import RunProgress
from fedvlr_jax.training.sources import Compared, Source, compare_sources, source_at
from fedvlr_jax.training.uncovered import warn_of_start
from fedvlr_jax.types import Dataset, PyTree

PARTS = {"public": ("public",), "private": ("private",), "both": ("public", "private")}
"""By the value of ``init_parts``: the fields of `types.FedState` whose parameters come from the other run."""

BASIS_FIELDS = (
    "seed",
    "fusion.modalities",
    "host.order",
    "host.choose_order",
    "host.loss_power",
    "host.strongest",
    "host.candidates",
)
"""Settings that decide, with the data, in which coordinates a host learns weights of score views."""


def warm_start(state: PyTree, settings: Mapping[str, Any], dataset: Dataset) -> tuple[PyTree, RunProgress]:
    """State and progress before the first round, with the parameters of ``init_from`` in place of random ones.

    Optimizers, transforms and rounds start anew. Rows of padding, of states over several devices, stay.

    Args:
      state: a `types.FedState`, fresh.
      settings: nested, with all fields; ``init_from`` is the workdir of the other run, "" for none.
      dataset: of this run.

    Raises:
      CheckpointError: a workdir without an evaluated checkpoint.
      ConfigError: other items, other users where private parameters are asked for, parameters of other names, shapes
        or types, weights of score views in other coordinates, or a run that was trained on rows that are held out
        here; all of them are named. Under a guarantee of privacy also a run whose noise this one would make again.
      DataError: the data set of the other run is another one than this run's, and cannot be loaded to compare.
    """
    if not settings["init_from"]:
        return state, RunProgress()
    require_one_of(PARTS, "init_parts", settings["init_parts"])
    workdir, parts = pathlib.Path(settings["init_from"]), PARTS[settings["init_parts"]]
    if "private" in parts and settings["compute"]["store"] != "device":
        store = settings["compute"]["store"]
        raise ConfigError(f"init_parts: expected public with compute.store {store}, found {settings['init_parts']}")
    source = source_at(workdir)
    found = compare_sources(source, dataset, parts)
    _require_same_basis(source, settings, dataset)
    origin: dict[str, Any] = {"compared": {older: known.users for older, known in found.items()}}
    if guarantee_of(settings, dataset.num_users) is not None:
        _require_other_noise(found, settings["seed"])
        origin["privacy"] = {older: known.spent for older, known in found.items()}
        warn_of_start(origin["privacy"])
    prefixes = tuple(f"{part}/params/" for part in parts)
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        best = source.record["best_round"]
        there, here = checkpoints.record_of(best)["arrays"], describe_arrays(state)
        _require_same_parameters(there, here, prefixes, f"init_from={workdir}")
        arrays = checkpoints.arrays_of(best, prefixes)
    for part in parts:
        params = jax.tree_util.tree_map_with_path(
            lambda path, x, part=part: _in_place(arrays[_name(part, path)], x, dataset.num_users, part),
            getattr(state, part).params,
        )
        state = state.replace(**{part: getattr(state, part).replace(params=params)})
    return state, RunProgress(origin=origin)


def _require_other_noise(found: Mapping[str, Compared], seed: int) -> None:
    """Refuses to make the noise of a run behind the start again.

    Rounds start anew, and noise goes by the seed and the number of the round: of both runs' sums of one round, a
    weighted difference would have no noise at all.
    """
    same = [older for older, known in found.items() if known.noise_seed == seed]
    if same:
        raise ConfigError(
            f"seed: expected another seed than that of the runs behind init_from, since noise of the same seed is "
            f"the same noise and their budgets would not add up; found {seed} here and in {', '.join(same)}"
        )


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


def _require_same_basis(source: Source, settings: Mapping[str, Any], dataset: Dataset) -> None:
    """Refuses weights of score views that would be read in other coordinates than they were learned in.

    The coordinates are chosen anew for the data and the draws of a run (`federated/view_basis.py`): the same numbers
    are other weights there, of views that may not even be those that they were learned for.
    """
    if configured_host(settings, dataset.num_items).view_weights is None:
        return
    there, here = (dict(flatten(json_ready(x))) for x in (source.settings, settings))
    other = [
        f"{name} {there.get(name)!r} there and {here[name]!r} here"
        for name in BASIS_FIELDS
        if there.get(name) != here[name]
    ]
    if source.record["data"] != json_ready(fingerprint(dataset)):
        other.append("another data set or split")
    if other:
        raise ConfigError(
            f"init_from={source.workdir}: host {settings['host']['name']} learns weights of score views in "
            "coordinates that a run chooses for its data and its draws, so expected a start with the same ones, "
            f"found {'; '.join(other)}"
        )


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
