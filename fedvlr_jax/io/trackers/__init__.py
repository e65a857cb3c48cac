"""Where a run's numbers go beside metrics.jsonl, as ``config.writers`` says; none of it can stop or change a run.

A tracker is one file here and one row of `WRITERS`.
"""

from __future__ import annotations

import contextlib
import importlib
import pathlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from fedvlr_jax.errors import RunWarning, choose
from fedvlr_jax.extras import require_extra
from fedvlr_jax.io.trackers.csv import CsvTracker
from fedvlr_jax.io.trackers.mlflow import MlflowTracker
from fedvlr_jax.io.trackers.tensorboard import TensorBoardTracker
from fedvlr_jax.io.trackers.tracker import TrackedRun, Tracker
from fedvlr_jax.io.trackers.wandb import WandbTracker

WRITERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "csv": CsvTracker,
    "tensorboard": TensorBoardTracker,
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
}

EXTRAS = {"wandb": "wandb", "mlflow": "mlflow"}
"""The package, and extra of the same name, that a tracker needs beyond the requirements."""

Values = Mapping[str, float]


def require_writers(names: str) -> tuple[str, ...]:
    """The names of a setting ``writers``, "a,b", whose packages are all there.

    Raises:
      ConfigError: an unknown name, or a package that is not installed, with the line that installs it.
    """
    found = tuple(filter(None, names.split(",")))
    for name in found:
        choose(WRITERS, "writers", name)
        if name in EXTRAS:
            with require_extra(EXTRAS[name], f"writers={name}"):
                importlib.import_module(EXTRAS[name])
    return found


class Trackers:
    """The trackers of a run; a context manager. One that fails is left out from then on, with a `RunWarning`."""

    def __init__(self, names: str, workdir: pathlib.Path, settings: Mapping[str, Any]):
        """Nothing is opened or written before `start`.

        Args:
          names: the setting ``writers``.
          workdir: of the run.
          settings: nested, with all fields.

        Raises:
          ConfigError: as `require_writers`.
        """
        self._names, self._workdir, self._settings = require_writers(names), workdir, settings
        self._open: dict[str, Tracker] | None = None

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_: object) -> None:
        self._all("close")
        self._open = {}

    def start(self, start_round: int) -> None:
        """Open all of them for what comes after `start_round`; later numbers of an earlier try come again."""
        self._open = {}
        for name in () if jax.process_index() else self._names:
            with self._guarded(name):
                self._open[name] = WRITERS[name](TrackedRun(self._workdir, start_round, self._settings))

    def rounds(self, last_round: int, series: Mapping[str, np.ndarray]) -> None:
        """One number of each name for each of the consecutive rounds that end with `last_round`."""
        for offset in range(len(next(iter(series.values()), ()))):
            at = {f"round/{name}": float(values[offset]) for name, values in series.items()}
            self._all("log", last_round - len(next(iter(series.values()))) + 1 + offset, at)

    def evaluation(self, round_: int, valid: Values) -> None:
        """The validation metrics of an evaluated round."""
        self._all("log", round_, {f"valid/{name}": value for name, value in valid.items() if value is not None})
        self._all("flush", round_)

    def finish(self, round_: int, test: Values, weights: Mapping[str, np.ndarray]) -> None:
        """The end of a run.

        Args:
          round_: its last round.
          test: its test metrics.
          weights: [u], the router's weight of each view over users.
        """
        if self._open is None:
            self.start(round_)
        self._all("finish", round_, {f"test/{name}": x for name, x in test.items() if x is not None}, weights)

    def _all(self, method: str, *arguments: Any) -> None:
        for name, tracker in list((self._open or {}).items()):
            with self._guarded(name):
                getattr(tracker, method)(*arguments)

    @contextlib.contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a tracker's library raises
            (self._open or {}).pop(name, None)
            what = f"{type(error).__name__}: {error}"
            warnings.warn(f"writers: {name} failed and is left out from here on ({what})", RunWarning, stacklevel=4)
