"""TensorBoard events in the workdir, written without TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from fedvlr_jax.fields import flatten
from fedvlr_jax.io.trackers.tracker import TrackedRun


class TensorBoardTracker:
    """Scalars of every round, and at the end the settings with the test metrics and histograms of router weights."""

    def __init__(self, run: TrackedRun):
        purge = run.start_round + 1 if run.start_round else None
        self._settings = run.settings
        self._events = SummaryWriter(str(run.workdir), purge_step=purge)

    def log(self, round_: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in values.items():
            self._events.add_scalar(name, value, round_)

    def flush(self, round_: int) -> None:
        """See `Tracker`: the library does so every few seconds."""

    def finish(self, round_: int, test: Mapping[str, float], weights: Mapping[str, np.ndarray]) -> None:
        """See `Tracker`."""
        self.log(round_, test)
        for view, w_u in weights.items():
            self._events.add_histogram(f"weight/{view}", w_u, round_)
        for summary in hparams(dict(flatten(self._settings)), dict(test)):
            self._events.file_writer.add_summary(summary)

    def close(self) -> None:
        """See `Tracker`."""
        self._events.close()
