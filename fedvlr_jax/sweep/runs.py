"""The runs of a sweep on disk: a folder for each point and seed, and what makes two sweeps the same sweep."""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fedvlr_jax.benchmark import storage
from fedvlr_jax.benchmark.storage import Stored
from fedvlr_jax.data import FEATURE_SOURCES, fingerprint, load_configured
from fedvlr_jax.errors import require_one_of
from fedvlr_jax.fields import flatten, with_fields
from fedvlr_jax.io.identity import claim_workdir, is_covered
from fedvlr_jax.io.lock import hold
from fedvlr_jax.settings import defaults
from fedvlr_jax.sweep.space import Range, Sweep, SweepPoint, seeds_of
from fedvlr_jax.types import Dataset

FREE = ("dry_run", "baselines", "writers", "checkpoint.", "data.dir", "data.source", "data.expect.")
"""Settings that change nothing of what a run computes; the fingerprint of the data says whether it is the same."""

OUTPUTS = ("sweep.json", "environment.json", "table.csv", "table.md", "best.json", "parallel.png", "report.html")

Key = tuple[int, int]
"""(index of the point, seed) of a run."""

SweepRuns = dict[Key, Stored | str | None]
"""What became of runs: read back, the reason of a failure, or None where a run has not ended yet."""


class Datasets:
    """The data sets that points name, each read once, with the features of its files."""

    def __init__(self):
        self._found: dict[str, tuple[Dataset, dict[str, Any]]] = {}

    def of(self, settings: Mapping[str, Any]) -> Dataset:
        """The data of some settings before any control of the features.

        Raises:
          ConfigError, DataError: as `data.load_configured`.
        """
        return self._load(settings)[0]

    def fingerprint(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What identifies that data."""
        return self._load(settings)[1]

    def all(self) -> list[Dataset]:
        """Those that were read so far."""
        return [dataset for dataset, _ in self._found.values()]

    def _load(self, settings: Mapping[str, Any]) -> tuple[Dataset, dict[str, Any]]:
        require_one_of(FEATURE_SOURCES, "data.features", settings["data"]["features"])
        data = {**settings["data"], "features": "real"}
        key = json.dumps(data, sort_keys=True)
        if key not in self._found:
            dataset = load_configured(data)
            self._found[key] = dataset, fingerprint(dataset)
        return self._found[key]


class SweepStore(NamedTuple):
    """The folders in which the runs of a sweep are stored.

    Attributes:
      settings: nested settings of the swept configuration.
      sweep: which seeds a point has.
      workdir: each run has the folder ``workdir/runs/point<k>-seed<s>``.
      datasets: of the points.
    """

    settings: Mapping[str, Any]
    sweep: Sweep
    workdir: pathlib.Path
    datasets: Datasets

    def folder(self, key: Key) -> pathlib.Path:
        """The folder of one run."""
        return self.workdir / "runs" / f"point{key[0]}-seed{key[1]}"

    def make_folder(self, key: Key) -> pathlib.Path:
        """The folder of one run, made where there is none."""
        self.folder(key).mkdir(parents=True, exist_ok=True)
        return self.folder(key)

    def is_finished(self, key: Key) -> bool:
        """Whether the folder of one run holds its result."""
        return (self.folder(key) / "result.json").exists()

    def settings_of(self, point: SweepPoint) -> dict[str, Any]:
        """The configuration at a point."""
        return with_fields(self.settings, point)

    def config(self, point: SweepPoint, seed: int) -> dict[str, Any]:
        """What identifies a run: its settings and its data."""
        settings = self.settings_of({**point, "seed": seed})
        return {"settings": _kept(settings, ()), "data": self.datasets.fingerprint(settings)}

    def read(self, points: Sequence[SweepPoint]) -> SweepRuns:
        """All runs of the points, whether they are finished, failed or not run yet.

        Raises:
          ConfigError: a folder with a run of another configuration or other data, naming what differs.
        """
        found: SweepRuns = {}
        for k, point in enumerate(points):
            for seed in seeds_of(self.sweep, point):
                folder = self.folder((k, seed))
                stored = storage.find(folder, self.config(point, seed), added=defaults("settings."))
                found[k, seed] = stored or storage.find_failure(folder) or None
        return found


def require_same_sweep(store: SweepStore) -> None:
    """Refuse a workdir of another sweep or with other runs; note the identity of a new one.

    Raises:
      ConfigError: naming every field that differs, with both values.
    """
    remedy = "choose another --workdir, or --noresume to delete that sweep and start again"
    identity = _identity(store.settings, store.sweep)
    claim_workdir(store.workdir, "sweep", identity, remedy=remedy, added=defaults("config."))


def delete_sweep(workdir: pathlib.Path) -> None:
    """Delete a sweep and its runs, and nothing else; a folder without a sweep is left as it is.

    Raises:
      ConfigError: another process trains one of the runs; nothing is deleted then.
    """
    if (workdir / "sweep.json").is_file():
        for folder in (workdir / "runs").glob("*"):
            with hold(folder):
                pass
        shutil.rmtree(workdir / "runs", ignore_errors=True)
        for path in [*(workdir / name for name in OUTPUTS), *workdir.glob("environment-*.json")]:
            path.unlink(missing_ok=True)


def _identity(settings: Mapping[str, Any], sweep: Sweep) -> dict[str, Any]:
    """What the points and their runs follow from."""
    axes = {field: axis._asdict() if isinstance(axis, Range) else list(axis) for field, axis in sweep.axes.items()}
    identity = {"kind": sweep.kind, "seeds": "of the points" if "seed" in axes else sweep.seeds, "fields": axes}
    if sweep.kind != "grid":
        identity |= {"samples": sweep.samples, "seed": sweep.seed}
    if sweep.kind == "optuna":
        identity |= {"batch": sweep.batch}
    return {"sweep": identity, "config": _kept(settings, ("seed", *sweep.axes))}


def _kept(settings: Mapping[str, Any], swept: Sequence[str]) -> dict[str, Any]:
    """The settings by dotted name that decide what a run computes, without the swept ones."""
    return {name: value for name, value in flatten(settings) if name not in swept and not is_covered(name, FREE)}
