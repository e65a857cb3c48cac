"""What a round of a federation reports, for metrics.jsonl and for the screen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from fedvlr_jax.deploy.silos import Tally
from fedvlr_jax.evaluation.metrics import SELECTION_METRIC


class RoundReport(NamedTuple):
    """What a round reports.

    Attributes:
      round: from 1 on.
      loss, update_norm, num_clients: as in `types.RoundInfo`; without any upload, NaN and 0. The loss is NaN as well
        where silos put noise on uploads, and so tell no losses.
      missed: the clients whose upload did not count.
      tally: why, and bytes.
      seconds: that it took.
    """

    round: int
    loss: float
    update_norm: float
    num_clients: int
    missed: list[int]
    tally: Tally
    seconds: float

    @property
    def num_counted(self) -> int:
        """Clients whose upload counted."""
        return self.num_clients - len(self.missed)


def line_of(report: RoundReport, valid: Mapping[str, Any] | None) -> dict[str, Any]:
    """The line of metrics.jsonl for a round."""
    return {
        "round": report.round,
        "loss": report.loss,
        "update_norm": report.update_norm,
        "num_clients": report.num_clients,
        "num_counted": report.num_counted,
        "missed": report.missed,
        "faults": dict(report.tally.faults),
        "bytes_down": report.tally.size["down"],
        "bytes_up": report.tally.size["up"],
        "seconds": report.seconds,
        "valid": valid,
    }


def told(report: RoundReport, rounds: int, valid: Mapping[str, Any] | None) -> str:
    """The line on the screen for a round."""
    value = (valid or {}).get(SELECTION_METRIC)
    shown = [] if math.isnan(report.loss) else [f"loss {report.loss:.4f}"]
    shown += [] if value is None else [f"validation {SELECTION_METRIC} {value:.4f}"]
    faults = "".join(f", {count} {name}" for name, count in sorted(report.tally.faults.items()))
    counted = f"{report.num_counted} of {report.num_clients} clients in {report.seconds:.1f} s{faults}"
    return f"round {report.round} of {rounds}: {'; '.join([*([', '.join(shown)] if shown else []), counted])}"
