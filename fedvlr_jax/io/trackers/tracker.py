"""What a tracker is, and where one that cannot take back what it wrote notes how far it came."""

from __future__ import annotations

import pathlib
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from fedvlr_jax.io.files import read_json, write_json


class TrackedRun(NamedTuple):
    """What a tracker is opened for.

    Attributes:
      workdir: of the run; a tracker writes there and nowhere else, and sends nothing.
      start_round: the round that training goes on after, 0 at the beginning.
      settings: nested, with all fields.
    """

    workdir: pathlib.Path
    start_round: int
    settings: Mapping[str, Any]


class Tracker(Protocol):
    """Takes the numbers of a run as they come. It may raise anything: `Trackers` sees to that.

    A run that goes on repeats the rounds after its last checkpoint, to the bit; each number shall be there once.
    """

    def log(self, round_: int, values: Mapping[str, float]) -> None:
        """Numbers of one round, such as "round/loss" or "valid/NDCG@50"; rounds never go back."""

    def flush(self, round_: int) -> None:
        """Everything of the rounds up to this one was logged."""

    def finish(self, round_: int, test: Mapping[str, float], weights: Mapping[str, np.ndarray]) -> None:
        """The test metrics at the end, and the router's weights [u] by view."""

    def close(self) -> None:
        """Nothing more will come."""


class Mark:
    """The name of a run in a store that can only be added to, and the last round that is in it, in a file.

    Attributes:
      run: the name, "" before there is one.
      round: the last round that was flushed.
    """

    def __init__(self, workdir: pathlib.Path, kind: str, *, fresh: bool):
        """Read the file of an earlier try, unless the run starts anew."""
        self._path = workdir / f"{kind}-run.json"
        stored = None if fresh else read_json(self._path)
        self.run: str = stored["run"] if stored else ""
        self.round: int = stored["round"] if stored else 0

    def name(self, run: str = "") -> str:
        """Note the name of the run, a random one if it is not given."""
        self.run = run or uuid.uuid4().hex[:8]
        self.reach(self.round)
        return self.run

    def reach(self, round_: int) -> None:
        """Note that a round is in the store."""
        self.round = round_
        write_json(self._path, {"run": self.run, "round": round_})
