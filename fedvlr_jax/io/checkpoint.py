"""Checkpoints of a run: the latest and the best state, each with a JSON record (the only file that knows orbax).

Every checkpoint is a folder ``<round>/`` that orbax writes beside its final name and renames when it is complete,
so a run killed at any moment leaves complete checkpoints only. A record that names a best round is saved after
the checkpoint of that round, and a best checkpoint is deleted after its successor is complete; whichever
checkpoint is the latest, the best one it speaks of is there.
"""

from __future__ import annotations

import contextlib
import json
import logging
import pathlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from fedvlr_jax.errors import CheckpointError
from fedvlr_jax.io.files import json_ready, write_json
from fedvlr_jax.types import PyTree

FORMAT = 2
"""Of the arrays and their names: a checkpoint of another one cannot be read. The first was not numbered."""

RECORD_FILE = "metadata"  # what orbax calls the file of a JSON record

WAY_OUT = "choose another --workdir, or --noresume to delete that run and start again"


class Checkpoints:
    """The checkpoints of one workdir; a context manager.

    Saves are synchronous: 20 MB take about 0.1 s, and no second copy of the state is held in memory.
    """

    def __init__(self, folder: pathlib.Path, *, read_only: bool = False):
        """Open the folder; with `read_only` nothing in it is created, cleaned up or written."""
        self._keep = _LatestAndBest()
        with _silent_orbax():
            options = ocp.CheckpointManagerOptions(
                preservation_policy=self._keep,
                enable_async_checkpointing=False,
                cleanup_tmp_directories=not read_only,
                create=not read_only,
                read_only=read_only,
            )
            self._manager = ocp.CheckpointManager(folder.resolve(), options=options, item_names=("state", "record"))

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def record(self) -> dict[str, Any] | None:
        """The JSON record of the latest checkpoint, None if there is none.

        Raises:
          CheckpointError: if it cannot be read.
        """
        step = self._manager.latest_step()
        return None if step is None else self.record_of(step)

    def record_of(self, step: int) -> dict[str, Any]:
        """The JSON record of round `step`.

        Raises:
          CheckpointError: if there is no such checkpoint, it is of another format, or it cannot be read.
        """
        if step not in self._manager.all_steps():
            raise CheckpointError(f"there is no checkpoint of round {step} in {self._manager.directory}")
        record = self._restore(step, record=ocp.args.JsonRestore())
        if (found := record.get("format", 1)) != FORMAT:
            version = "an older" if found < FORMAT else "a newer"
            raise CheckpointError(
                f"the checkpoint of round {step} in {self._manager.directory} was written by {version} version "
                f"(format {found}, expected {FORMAT}) and cannot be read; {WAY_OUT}"
            )
        return record

    def records(self) -> list[dict[str, Any]]:
        """The JSON records of all checkpoints that are kept."""
        return [self.record_of(step) for step in self._manager.all_steps()]

    def require_record(self) -> dict[str, Any]:
        """The record of the latest checkpoint.

        Raises:
          CheckpointError: if there is none, or it cannot be read, or it was saved before the first evaluation.
        """
        record = self.record()
        if record is None or record["best_round"] is None:
            raise CheckpointError(f"there is no evaluated checkpoint in {self._manager.directory}; train first")
        return record

    def restore(self, step: int, like: PyTree) -> PyTree:
        """The state of round `step`, bit for bit, where `like` has it.

        The leaves below ``private`` may have another number of rows than were saved: a state over several devices
        has rows of padding at its end, as many as its devices need. They are cut off or added (as zeros).

        Args:
          step: a round that was saved and kept (the latest or the best).
          like: a state, or `jax.ShapeDtypeStruct` leaves, of the same structure; a leaf without a sharding comes to
            the default device.

        Raises:
          CheckpointError: if there is no such checkpoint or its arrays have other names, shapes or types (orbax
            itself would cast another type in silence).
        """
        stored = self.record_of(step)["arrays"]
        like = jax.tree.map(_placed, like)
        target = jax.tree_util.tree_map_with_path(lambda path, leaf: _as_stored(path, leaf, stored), like)
        _require_same_arrays(stored, describe_arrays(target))
        state = self._restore(step, state=ocp.args.StandardRestore(target))
        return jax.tree.map(_with_rows, state, like)

    def arrays_of(self, step: int, prefix: str | tuple[str, ...] = "") -> dict[str, np.ndarray]:
        """The arrays of round `step` whose names (`describe_arrays`) begin so, in CPU memory, of whatever model.

        Raises:
          CheckpointError: if there is no such checkpoint, or it cannot be read.
        """
        self.record_of(step)
        with _silent_orbax():
            state = self._restore(step, state=ocp.args.StandardRestore())
        named = {
            jax.tree_util.keystr(path, simple=True, separator="/"): leaf
            for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        }
        return {name: np.asarray(leaf) for name, leaf in named.items() if name.startswith(prefix)}

    def save(self, state: PyTree, record: Mapping[str, Any]) -> None:
        """Save one state and delete all checkpoints but this one and the one of ``record["best_round"]``.

        Args:
          state: the state after round ``record["round"]``.
          record: JSON-ready values, among them ``round`` and ``best_round``; the checkpoint of the best round is
            this one or was saved before.

        Raises:
          CheckpointError: if the checkpoint cannot be written (a full disk, say).
        """
        step = record["round"]
        if step in self._manager.all_steps():
            return
        self._keep.best_round = record["best_round"]
        record = json_ready({**record, "format": FORMAT, "arrays": describe_arrays(state)})
        items = {"state": ocp.args.StandardSave(state), "record": ocp.args.JsonSave(record)}
        try:
            saved = self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"the checkpoint of round {step} could not be written to {self._manager.directory}: "
                f"{_first_line(error)}; earlier checkpoints are intact"
            ) from error
        if not saved:
            raise CheckpointError(f"the checkpoint of round {step} was not accepted by {self._manager.directory}")

    def amend(self, record: Mapping[str, Any]) -> None:
        """Replaces the JSON record of the round ``record["round"]``, which is saved, in one step.

        What a round is worth may be known only after its state has to be safe.

        Raises:
          CheckpointError: if there is no such checkpoint, or the record cannot be written.
        """
        step = record["round"]
        arrays = self.record_of(step)["arrays"]
        try:
            path = pathlib.Path(self._manager.directory) / str(step) / "record" / RECORD_FILE
            write_json(path, {**record, "format": FORMAT, "arrays": arrays})
        except OSError as error:
            raise CheckpointError(
                f"the record of round {step} could not be written to {self._manager.directory}: {_first_line(error)}"
            ) from error

    def _restore(self, step: int, **item: Any) -> Any:
        """One item of one checkpoint."""
        ((name, args),) = item.items()
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**{name: args}))[name]
        except (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise CheckpointError(
                f"the checkpoint of round {step} in {self._manager.directory} cannot be read: {_first_line(error)}; "
                f"{WAY_OUT}"
            ) from error


class _LatestAndBest:
    """The preservation policy: the latest checkpoint, and the one of the best round."""

    def __init__(self):
        self.best_round: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        latest = max((info.step for info in checkpoints), default=None)
        return [info.step in (latest, self.best_round) for info in checkpoints]


def delete_folder(folder: pathlib.Path) -> None:
    """Delete a folder of checkpoints; it is renamed first, so that a killed deletion leaves no broken ones."""
    doomed = folder.with_name(f".{folder.name}.deleted")
    shutil.rmtree(doomed, ignore_errors=True)
    if folder.exists():
        folder.rename(doomed)
        shutil.rmtree(doomed)


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    """The leaf's shape and type, and where it lies: the default device if that is left open."""
    at = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at)


def _as_stored(path: Any, leaf: jax.ShapeDtypeStruct, stored: Mapping[str, str]) -> jax.ShapeDtypeStruct:
    """`leaf` with the number of rows that was saved, if it is private and they differ; then on every device whole."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    found = re.fullmatch(r".*\[(\d+)((?:, \d+)*)\]", stored.get(name, ""))
    if not name.startswith("private/") or found is None or int(found[1]) == leaf.shape[0]:
        return leaf
    at = leaf.sharding
    if isinstance(at, jax.sharding.NamedSharding):
        at = jax.sharding.NamedSharding(at.mesh, jax.sharding.PartitionSpec())
    return jax.ShapeDtypeStruct((int(found[1]), *leaf.shape[1:]), leaf.dtype, sharding=at)


def _with_rows(x: jax.Array, like: jax.ShapeDtypeStruct) -> jax.Array:
    """`x` with the rows of `like`, cut off or filled up with zeros."""
    if x.shape == like.shape:
        return x
    more = max(like.shape[0] - x.shape[0], 0)
    resize = jax.jit(
        lambda x: jnp.pad(x, [(0, more)] + [(0, 0)] * (x.ndim - 1))[: like.shape[0]], out_shardings=like.sharding
    )
    return resize(x)


def describe_arrays(state: PyTree) -> dict[str, str]:
    """The type and shape of every leaf by name, such as "public/params/variant/D": "float32[560, 64]"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def _require_same_arrays(stored: Mapping[str, str], expected: Mapping[str, str]) -> None:
    lines = [
        f"{name}: checkpoint {stored.get(name, '(absent)')}, now {expected.get(name, '(absent)')}"
        for name in dict.fromkeys([*stored, *expected])
        if stored.get(name) != expected.get(name)
    ]
    if lines:
        raise CheckpointError("the checkpoint holds other arrays than this model:\n  " + "\n  ".join(lines))


@contextlib.contextmanager
def _silent_orbax() -> Iterator[None]:
    """Without the warnings that something was opened to be read only, which is what was asked for."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
