"""The upload of one client as the server holds it, and what an honest one cannot be.

The server does not see what a silo computes. What the settings say of every upload it can check: that its numbers are
finite, that it weighs no more than a client with every item would, and that it was clipped where clients clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

ROUNDING = 1e-3
"""Relative excess over a bound that rounding on another device may leave."""


class ClientUpload(NamedTuple):
    """The upload of one client, arrays by the names of the broadcast.

    Attributes:
      ids_n: int32 [n], items; rows, head: cotangents at these items, and of the head.
      alpha, loss: its weight and its mean loss.
    """

    ids_n: np.ndarray
    rows: Mapping[str, np.ndarray]
    head: Mapping[str, np.ndarray]
    alpha: float
    loss: float


class Limits(NamedTuple):
    """The largest weight and L2 norm of an upload; infinite where the settings bound none."""

    weight: float = np.inf
    norm: float = np.inf


def fault_of(upload: ClientUpload, limits: Limits) -> tuple[str, str] | None:
    """What is wrong with an upload: one of `silos.FAULTS`, and why. None if nothing is."""
    leaves = (*upload.rows.values(), *upload.head.values())
    if not all(bool(np.all(np.isfinite(x))) for x in ([upload.alpha, upload.loss], *leaves)) or upload.alpha <= 0:
        return "nonfinite", "an upload, weight or loss that is not finite"
    norm = float(np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in leaves)))
    for name, found, most in (("weight", upload.alpha, limits.weight), ("norm", norm, limits.norm)):
        if found > most * (1 + ROUNDING):
            return "misfit", f"expected an upload of {name} {most:g} at most, as the settings say, found {found:g}"
    return None
