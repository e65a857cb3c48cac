"""MLflow in a local folder: ``mlflow ui --backend-store-uri`` shows it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

import numpy as np

from fedvlr_jax.fields import flatten
from fedvlr_jax.io.trackers.tracker import Mark, TrackedRun

EXPERIMENT = "fedvlr_jax"


class MlflowTracker:
    """A run in ``mlruns/`` of the workdir; "@" is no letter of MLflow's names, so "HR@50" is "HR_at_50"."""

    def __init__(self, run: TrackedRun):
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # else it wants a database
        import mlflow
        from mlflow.entities import Metric, Param

        self._metric = Metric
        self._client = mlflow.MlflowClient(tracking_uri=(run.workdir / "mlruns").resolve().as_uri())
        self._mark = Mark(run.workdir, "mlflow", fresh=not run.start_round)
        if not self._mark.run:
            found = self._client.get_experiment_by_name(EXPERIMENT)
            experiment = found.experiment_id if found else self._client.create_experiment(EXPERIMENT)
            self._mark.name(self._client.create_run(experiment, run_name=run.workdir.name).info.run_id)
            fields = [Param(name, str(value)) for name, value in flatten(run.settings)]
            for start in range(0, len(fields), 100):  # the most that one call takes
                self._client.log_batch(self._mark.run, params=fields[start : start + 100])

    def log(self, round_: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        if round_ > self._mark.round:
            self._write(round_, values)

    def flush(self, round_: int) -> None:
        """See `Tracker`."""
        self._mark.reach(max(round_, self._mark.round))

    def finish(self, round_: int, test: Mapping[str, float], weights: Mapping[str, np.ndarray]) -> None:
        """See `Tracker`."""
        means = {f"weight/{view}/mean": float(w_u.mean()) for view, w_u in weights.items()}
        spreads = {f"weight/{view}/std": float(w_u.std()) for view, w_u in weights.items()}
        self._write(round_, {**test, **means, **spreads})

    def close(self) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self._mark.run)

    def _write(self, round_: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [self._metric(name.replace("@", "_at_"), value, now, round_) for name, value in values.items()]
        self._client.log_batch(self._mark.run, metrics=metrics)
