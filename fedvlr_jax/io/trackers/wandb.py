"""Weights & Biases, offline: ``wandb sync`` sends a run to a server where somebody wants that."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedvlr_jax.io.trackers.tracker import Mark, TrackedRun


class WandbTracker:
    """A run in ``wandb/`` of the workdir, offline; every start is a part of it with the same id."""

    def __init__(self, run: TrackedRun):
        import wandb

        self._mark = Mark(run.workdir, "wandb", fresh=not run.start_round)
        self._histogram = wandb.Histogram
        self._run = wandb.init(
            project="fedvlr_jax",
            id=self._mark.run or self._mark.name(),
            name=run.workdir.name,
            dir=str(run.workdir),
            config=dict(run.settings),
            resume="allow",
            settings=wandb.Settings(mode="offline", silent=True, console="off", disable_git=True, disable_code=True),
        )

    def log(self, round_: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        if round_ > self._mark.round:
            self._run.log(dict(values), step=round_)

    def flush(self, round_: int) -> None:
        """See `Tracker`."""
        self._mark.reach(max(round_, self._mark.round))

    def finish(self, round_: int, test: Mapping[str, float], weights: Mapping[str, np.ndarray]) -> None:
        """See `Tracker`."""
        self._run.log({f"weight/{view}": self._histogram(w_u) for view, w_u in weights.items()}, step=round_)
        self._run.summary.update(dict(test))

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()
