"""Attacks on the rows of one upload: a score for every item, higher for items that the client is thought to have.

None of them needs to know or to simulate how a client trains. To add one: a function from rows [i, f] to scores [i]
and a row in ``ATTACKS``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def touched(rows_if: np.ndarray) -> np.ndarray:
    """Whether there is a row at all."""
    return np.any(rows_if != 0, axis=1).astype(float)


def norm(rows_if: np.ndarray) -> np.ndarray:
    """L2 norm of each row: a positive is met in every step, and harder to explain."""
    return np.linalg.norm(rows_if, axis=1)


def svd_sign(rows_if: np.ndarray) -> np.ndarray:
    """Where each row lies on the first singular direction, which is nearly the client's own vector.

    Positives are few and far from zero, all others many and on the other side: the longer tail is theirs.
    """
    _, direction_ff = np.linalg.eigh(rows_if.T @ rows_if)
    place_i = rows_if @ direction_ff[:, -1]
    return place_i * (1.0 if np.sum(place_i.astype(float) ** 3) > 0 else -1.0)


ATTACKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"touched": touched, "norm": norm, "svd-sign": svd_sign}
"""Attacks by the name in a report."""
