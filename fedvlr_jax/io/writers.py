"""What a run reports while it trains: one JSON line for each evaluated round, and what its trackers take."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from fedvlr_jax.io.files import json_ready, write_bytes
from fedvlr_jax.io.trackers import Trackers


class MetricWriter:
    """Appends to ``metrics.jsonl``, and hands numbers on to trackers that are closed elsewhere; a context manager."""

    def __init__(self, workdir: pathlib.Path, *, start_round: int, trackers: Trackers | None = None):
        """Continue after `start_round`: lines (and events) of later rounds are dropped, they will come again."""
        path = workdir / "metrics.jsonl"
        writes = jax.process_index() == 0  # of several processes: a file that another replaces is lost
        if writes:
            kept = [line for line in read_metrics(path) if line["round"] <= start_round]
            write_bytes(path, "".join(_to_line(line) for line in kept).encode())
        self._file = (path if writes else pathlib.Path(os.devnull)).open("a", encoding="utf-8")
        self._trackers = trackers
        if trackers is not None:
            trackers.start(start_round)

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def rounds(self, last_round: int, **series: np.ndarray) -> None:
        """One number of each name for each of the consecutive rounds that end with `last_round`, for trackers."""
        if self._trackers is not None:
            self._trackers.rounds(last_round, series)

    def evaluation(self, line: Mapping[str, Any]) -> None:
        """Write the line of one evaluated round; it is in the file when this returns."""
        self._file.write(_to_line(line))
        self._file.flush()
        if self._trackers is not None:
            self._trackers.evaluation(line["round"], line.get("valid") or {})


def read_metrics(path: pathlib.Path) -> list[dict[str, Any]]:
    """The complete lines of a ``metrics.jsonl``; a last line cut short by a kill is left out."""
    if not path.is_file():
        return []
    complete, _, _ = path.read_text(encoding="utf-8").rpartition("\n")
    return [json.loads(line) for line in complete.splitlines()]


def _to_line(line: Mapping[str, Any]) -> str:
    return json.dumps(json_ready(line), allow_nan=False) + "\n"
