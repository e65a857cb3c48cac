"""Data sets: the canonical folder, its prepared tfds copy, and the synthetic generator.

`load` gives one set by its name; `load_configured` does what the fields ``config.data.*`` ask for.
"""

from __future__ import annotations

import inspect
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

from fedvlr_jax.data.controls import random_features, shuffle_features
from fedvlr_jax.data.facts import check_sizes, fingerprint
from fedvlr_jax.data.folder import read_folder
from fedvlr_jax.data.messages import DataWarning
from fedvlr_jax.data.synthetic import generate
from fedvlr_jax.data.tfds_builder import load_prepared
from fedvlr_jax.data.user_split import LEAVES_OUT, USER_SPLITS
from fedvlr_jax.errors import ConfigError, DataError, require_one_of
from fedvlr_jax.types import Dataset

__all__ = [
    "DataError",
    "DataWarning",
    "check_sizes",
    "data_root",
    "fingerprint",
    "load",
    "load_configured",
    "random_features",
    "shuffle_features",
]

SYNTHETIC = "synthetic"
SOURCES = {"folder": read_folder, "tfds": load_prepared}
FEATURE_SOURCES = {"real": lambda dataset, seed: dataset, "shuffled": shuffle_features, "random": random_features}


def data_root(setting: str | os.PathLike[str] | None) -> pathlib.Path:
    """The folder that holds the data sets: the setting, else the environment variable FEDVLR_DATA, else ``data``."""
    return pathlib.Path(setting or os.environ.get("FEDVLR_DATA") or "data").expanduser()


def load(
    name: str,
    root: str | os.PathLike[str],
    *,
    source: str = "folder",
    synthetic: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Dataset:
    """Load a data set by its name.

    Args:
      name: "synthetic" for the embedded generator (no files), else a canonical folder below `root`; "ku" finds "KU".
      root: see `data_root`.
      source: "folder" reads the folder's files; "tfds" reads their prepared copy, made on the first use.
      synthetic: arguments of `synthetic.generate`; not used for other names.
      seed: of the generator, unless `synthetic` has one.

    Raises:
      DataError: files that are missing or break a rule.
      ConfigError: a source or generator argument that does not exist, or a name that is not one folder's name.
    """
    require_one_of(SOURCES, "data.source", source)
    if name == SYNTHETIC:
        if source != "folder":
            raise ConfigError(f"data.source: expected folder for the generated set {SYNTHETIC}, found {source!r}")
        arguments = {"seed": seed, **(synthetic or {})}
        for argument in arguments:
            require_one_of(inspect.signature(generate).parameters, "data.synthetic", argument)
        return generate(**arguments)
    if name in ("", "..") or pathlib.PurePath(name).name != name:
        raise ConfigError(
            f"data.name: expected {SYNTHETIC} or the name of a folder below the data root, found {name!r}"
        )
    return SOURCES[source](_folder(pathlib.Path(root), name))


def _folder(root: pathlib.Path, name: str) -> pathlib.Path:
    """The folder of that name, else the only one that differs from it in upper and lower case alone."""
    if (root / name).exists() or not root.is_dir():
        return root / name
    alike = [folder for folder in root.iterdir() if folder.name.lower() == name.lower()]
    return alike[0] if len(alike) == 1 else root / name


def load_configured(settings: Mapping[str, Any], seed: int = 0, *, leaves_users_out: bool = False) -> Dataset:
    """The data set that ``config.data`` describes; sizes other than the expected ones are a `DataWarning`.

    Args:
      settings: ``name``, ``dir``, ``source``, ``features`` (real, shuffled, random), ``expect``, ``synthetic``,
        ``split`` (rows, users, joined) and ``newcomers``.
      seed: of the generator (unless ``synthetic`` has one) and of the feature controls.
      leaves_users_out: whether the caller ranks users who are left out of training; others get no such data set.

    Raises:
      DataError, ConfigError: as `load`, and for a split that leaves users out where the caller does not rank them.
    """
    require_one_of(FEATURE_SOURCES, "data.features", settings["features"])
    require_one_of(USER_SPLITS, "data.split", settings["split"])
    if settings["split"] == LEAVES_OUT and not leaves_users_out:
        raise ConfigError("data.split: expected rows or joined, found users; only train and evaluate leave users out")
    dataset = load(
        settings["name"],
        data_root(settings["dir"]),
        source=settings["source"],
        synthetic=settings["synthetic"],
        seed=seed,
    )
    for sentence in check_sizes(dataset, settings["expect"]):
        warnings.warn(sentence, DataWarning, stacklevel=2)
    dataset = FEATURE_SOURCES[settings["features"]](dataset, seed)
    return USER_SPLITS[settings["split"]](dataset, **settings["newcomers"])
