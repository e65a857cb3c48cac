"""What all methods of a benchmark share while it runs."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from fedvlr_jax.benchmark.budget import Extent
from fedvlr_jax.benchmark.clock import Clock
from fedvlr_jax.io.interrupt import Interrupt
from fedvlr_jax.types import ClientData, Dataset


class Task(NamedTuple):
    """One call of the benchmark.

    Attributes:
      config: nested mapping with the fields of configs/benchmark/base.py.
      dataset: the data.
      clients: the same data as rounds read it.
      workdir: each run gets a folder below ``workdir/runs/<method>``.
      interrupt: where signals are noted.
      clock: measures every run.
      extent: how much a method is tuned and repeated.
    """

    config: Mapping[str, Any]
    dataset: Dataset
    clients: ClientData
    workdir: pathlib.Path
    interrupt: Interrupt
    clock: Clock
    extent: Extent

    def check_interrupt(self) -> None:
        """Raises Interrupted after a signal."""
        self.interrupt.stop_if_signalled("stopped between two runs; finished runs are kept")

    def folder(self, method_name: str, run: str) -> pathlib.Path:
        """The folder of one run."""
        return self.workdir / "runs" / method_name.replace(", ", "-").replace(" ", "_") / run
