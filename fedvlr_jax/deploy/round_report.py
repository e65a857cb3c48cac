"""What a round of a federation reports, for metrics.jsonl and for the screen."""

from __future__ import annotations

import collections
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


def line_of(report: RoundReport) -> dict[str, Any]:
    """The line of metrics.jsonl for a round that was not ranked."""
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
        "valid": None,
    }


def with_ranking(line: Mapping[str, Any], valid: Mapping[str, float | None], tally: Tally) -> dict[str, Any]:
    """The line of a round with what its ranking found, and what was counted in it."""
    size = {f"bytes_{way}": line[f"bytes_{way}"] + tally.size[way] for way in ("down", "up")}
    return {**line, **size, "faults": dict(collections.Counter(line["faults"]) + tally.faults), "valid": valid}


def told(line: Mapping[str, Any], rounds: int) -> str:
    """What the screen says of a line."""
    loss, value = line["loss"], (line["valid"] or {}).get(SELECTION_METRIC)
    shown = [] if loss is None or math.isnan(loss) else [f"loss {loss:.4f}"]
    shown += [] if value is None else [f"validation {SELECTION_METRIC} {value:.4f}"]
    faults = "".join(f", {count} {name}" for name, count in sorted(line["faults"].items()))
    counted = f"{line['num_counted']} of {line['num_clients']} clients in {line['seconds']:.1f} s{faults}"
    shown += [f"epsilon {line['epsilon']:.4g}"] if "epsilon" in line else []
    return f"round {line['round']} of {rounds}: {'; '.join([*filter(None, [', '.join(shown)]), counted])}"
