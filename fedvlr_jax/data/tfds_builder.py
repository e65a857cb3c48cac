"""Prepared copies of data sets in the format of tensorflow-datasets, written and read without TensorFlow.

A prepared copy holds two tfds data sets in array_record files, both usable with tfds alone:

    clients/1.1.0   split "clients", one example per user: user, train (items, ascending), valid and test (item or
                    -1; several where some user has several), and planted where the truth is known
    items/1.1.0     split "items", one example per item: item, and image and text where the set has them

They hold a checked `Dataset`: repeated rows are dropped, features have unit norm. Reading one back gives an equal
`Dataset`. The folder of a copy is named after the hash of its source files, so a changed source is prepared anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import pathlib
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from fedvlr_jax.data.annotations import read_annotations
from fedvlr_jax.data.facts import fingerprint
from fedvlr_jax.data.folder import read_folder, require_files
from fedvlr_jax.data.histories import split_by_user
from fedvlr_jax.errors import ConfigError, DataError
from fedvlr_jax.extras import require_extra
from fedvlr_jax.types import Dataset

VERSION = "1.3.0"  # of the layout above and of the checks; a new one prepares every copy anew


def load_prepared(folder: pathlib.Path, cache: pathlib.Path | None = None) -> Dataset:
    """The data set of a canonical folder through its prepared copy, which is made first where there is none.

    Args:
      folder: canonical folder; its files decide which copy is right.
      cache: where copies are kept; by default ``.tfds`` beside the folder, or, where that cannot be written,
        ``fedvlr_jax/tfds`` in the user's cache folder.

    Raises:
      DataError: as `read_folder`, or if the copy is damaged.
      ConfigError: if the extra tfds is not installed.
    """
    folder = pathlib.Path(folder)
    cache = _default_cache(folder) if cache is None else pathlib.Path(cache)
    copy = cache / folder.name / _hash_files(require_files(folder))
    if not copy.is_dir():
        prepare(read_folder(folder), copy)
    dataset = read_prepared(copy)
    named = read_annotations(folder, dataset.num_users, dataset.num_items)  # not in the copy
    return dataclasses.replace(dataset, **named._asdict())


def prepare(dataset: Dataset, copy: pathlib.Path) -> None:
    """Writes a prepared copy of a data set to the folder `copy`, all of it or nothing.

    Raises:
      DataError: if the folder cannot be written.
      ConfigError: if the extra tfds is not installed.
    """
    try:
        with _quiet_tfds() as tfds, _scratch_beside(copy) as scratch:
            made = scratch / "copy"
            _write(tfds, made, "clients", _client_features(tfds, dataset), _clients(dataset), _facts(dataset))
            _write(tfds, made, "items", _item_features(tfds, dataset), _items(dataset), {})
            shutil.rmtree(made / "downloads", ignore_errors=True)
            try:
                made.rename(copy)
            except OSError:
                if not copy.is_dir():  # else another process was faster, and its copy is the same
                    raise
    except OSError as error:
        raise DataError(f"{copy}: expected a folder that can be written, found {error}") from error


@contextlib.contextmanager
def _scratch_beside(copy: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary folder in the one that `copy` is to be in, which is made."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=copy.parent, prefix=".preparing-") as scratch:
        yield pathlib.Path(scratch)


def read_prepared(copy: pathlib.Path) -> Dataset:
    """Reads a prepared copy back.

    Raises:
      DataError: if it is missing, incomplete or differs from what was written.
      ConfigError: if the extra tfds is not installed.
    """
    try:
        with _quiet_tfds() as tfds:
            facts, clients = _read(tfds, copy, "clients")
            _, items = _read(tfds, copy, "items")
        dataset = _assemble(facts, clients, items)
    except ConfigError:  # tfds is not installed
        raise
    except Exception as error:  # tfds and array_record raise anything from ValueError to RuntimeError
        raise _damaged(copy, f"{type(error).__name__}: {error}") from error
    if fingerprint(dataset) != facts["fingerprint"]:
        raise _damaged(copy, "other content")
    return dataset


def _damaged(copy: pathlib.Path, found: str) -> DataError:
    return DataError(f"{copy}: expected a prepared data set as it was written, found {found}; delete this folder")


def _default_cache(folder: pathlib.Path) -> pathlib.Path:
    beside = folder.parent / ".tfds"
    if os.access(beside if beside.exists() else folder.parent, os.W_OK):
        return beside
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fedvlr_jax" / "tfds"


def _hash_files(files: Iterable[pathlib.Path]) -> str:
    digest = hashlib.sha256(VERSION.encode())
    for file in files:
        try:
            with open(file, "rb") as stream:
                digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise DataError(f"{file}: expected a readable file, found {error.strerror or error}") from error
    return digest.hexdigest()[:32]


def _facts(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "num_users": dataset.num_users,
        "num_items": dataset.num_items,
        "dropped_duplicates": dataset.dropped_duplicates,
        "time_span": dataset.time_span,
        "fingerprint": fingerprint(dataset),
    }


def _clients(dataset: Dataset) -> Iterator[dict[str, Any]]:
    rows = {"train": dataset.train_item} | ({} if dataset.train_age is None else {"age": dataset.train_age})
    of_user = {name: split_by_user(dataset, values) for name, values in rows.items()}
    of_split = {"valid": dataset.valid_item, "test": dataset.test_item}
    if dataset.held_user is not None:
        last_u = np.searchsorted(dataset.held_user, np.arange(dataset.num_users), side="right")
        of_split = {name: np.split(values, last_u[:-1]) for name, values in of_split.items()}
    for user in range(dataset.num_users):
        held_out = {name: values[user] for name, values in of_split.items()}
        planted = {} if dataset.planted is None else {"planted": dataset.planted[user]}
        yield {"user": user, **{name: values[user] for name, values in of_user.items()}, **held_out, **planted}


def _items(dataset: Dataset) -> Iterator[dict[str, Any]]:
    present = {name: x for name, x in (("image", dataset.V), ("text", dataset.C)) if x is not None}
    for item in range(dataset.num_items):
        yield {"item": item, **{name: x[item] for name, x in present.items()}}


def _client_features(tfds: ModuleType, dataset: Dataset) -> dict[str, Any]:
    held, age = ("valid", "test"), () if dataset.train_age is None else ("age",)
    numbers = dict.fromkeys(("user", *(held if dataset.held_user is None else ())), np.int32)
    ragged = ("train", *age, *(() if dataset.held_user is None else held))
    rows = {name: tfds.features.Tensor(shape=(None,), dtype=np.int32) for name in ragged}
    planted = {} if dataset.planted is None else {"planted": tfds.features.Tensor(shape=(3,), dtype=np.float32)}
    return {**numbers, **rows, **planted}


def _item_features(tfds: ModuleType, dataset: Dataset) -> dict[str, Any]:
    present = {name: x for name, x in (("image", dataset.V), ("text", dataset.C)) if x is not None}
    vector = {n: tfds.features.Tensor(shape=x.shape[1:], dtype=np.float32) for n, x in present.items()}
    return {"item": np.int32, **vector}


def _write(
    tfds: ModuleType,
    folder: pathlib.Path,
    split: str,
    features: Mapping[str, Any],
    examples: Iterable[Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> None:
    """Writes one tfds data set of one split, both called `split`."""

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = split
        VERSION = tfds.core.Version(VERSION)

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                metadata=tfds.core.MetadataDict(facts),
                disable_shuffling=True,
            )

        def _split_generators(self, _: Any) -> dict[str, Any]:
            return {split: self._generate_examples()}

        def _generate_examples(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
            yield from enumerate(examples)

    Builder(data_dir=folder, file_format="array_record").download_and_prepare()


def _read(tfds: ModuleType, copy: pathlib.Path, split: str) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    """Metadata and examples, in the order of their ids."""
    builder = tfds.builder_from_directory(copy / split / VERSION)
    source = builder.as_data_source(split)
    return builder.info.metadata or {}, list(source.__getitems__(range(len(source))))


def _assemble(facts: Mapping[str, Any], clients: list[dict[str, Any]], items: list[dict[str, Any]]) -> Dataset:
    def stack(examples: list[dict[str, Any]], name: str) -> np.ndarray | None:
        if name not in examples[0]:
            return None
        values = np.stack([example[name] for example in examples])
        return values.astype(np.int32) if values.dtype.kind == "i" else values

    several = np.ndim(clients[0]["valid"]) > 0
    held_out = {name: [np.atleast_1d(client[name]) for client in clients] for name in ("valid", "test")}
    places_u = [len(items) for items in held_out["valid"]]
    return Dataset(
        name=facts["name"],
        num_users=facts["num_users"],
        num_items=facts["num_items"],
        train_user=np.repeat(stack(clients, "user"), [len(client["train"]) for client in clients]),
        train_item=np.concatenate([client["train"] for client in clients]),
        valid_item=np.concatenate(held_out["valid"]).astype(np.int32),
        test_item=np.concatenate(held_out["test"]).astype(np.int32),
        held_user=np.repeat(stack(clients, "user"), places_u) if several else None,
        V=stack(items, "image"),
        C=stack(items, "text"),
        planted=stack(clients, "planted"),
        dropped_duplicates=facts["dropped_duplicates"],
        train_age=np.concatenate([client["age"] for client in clients]) if "age" in clients[0] else None,
        time_span=facts["time_span"] and tuple(facts["time_span"]),
    )


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[ModuleType]:
    """tensorflow-datasets, imported when needed (half a second), without its warnings, bars and printed lines."""
    quiet = contextlib.redirect_stdout(io.StringIO())
    with require_extra("tfds", "data.source=tfds"), warnings.catch_warnings(), quiet:
        warnings.simplefilter("ignore")
        import tensorflow_datasets as tfds

        tfds.disable_progress_bar()
        try:
            yield tfds
        finally:
            tfds.enable_progress_bar()
