"""``metrics.csv``: one line for each number, with columns round, name and value."""

from __future__ import annotations

import csv
from collections.abc import Mapping

import numpy as np

from fedvlr_jax.io.files import read_csv, write_csv
from fedvlr_jax.io.trackers.tracker import TrackedRun

COLUMNS = ("round", "name", "value")
TEST = "test/"


class CsvTracker:
    """Appends to ``metrics.csv``; a router's weights are the mean and standard deviation over users."""

    def __init__(self, run: TrackedRun):
        path = run.workdir / "metrics.csv"
        lines = read_csv(path) if run.start_round and path.is_file() else []
        kept = [tuple(line.values()) for line in lines if _stays(line, run.start_round)]
        write_csv(path, COLUMNS, kept)
        self._told = {int(round_) for round_, name, _ in kept if name.startswith(TEST)}
        self._file = path.open("a", newline="", encoding="utf-8")
        self._lines = csv.writer(self._file, lineterminator="\n")

    def log(self, round_: int, values: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self._lines.writerows((round_, name, value) for name, value in values.items())

    def flush(self, round_: int) -> None:
        """See `Tracker`."""
        self._file.flush()

    def finish(self, round_: int, test: Mapping[str, float], weights: Mapping[str, np.ndarray]) -> None:
        """See `Tracker`."""
        if round_ in self._told:  # before a kill between here and the end of the run
            return
        self.log(round_, test)
        for view, w_u in weights.items():
            self.log(round_, {f"{TEST}weight/{view}/mean": w_u.mean(), f"{TEST}weight/{view}/std": w_u.std()})

    def close(self) -> None:
        """See `Tracker`."""
        self._file.close()


def _stays(line: Mapping[str, str], start_round: int) -> bool:
    """Whether a line is whole, and not of a round that comes again."""
    if None in line.values() or not line["round"].isdigit():
        return False
    return int(line["round"]) <= start_round
