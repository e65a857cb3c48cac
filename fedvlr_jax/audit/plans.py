"""Which values the fields of an audit may have: what makes no sense is refused before anything runs."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from fedvlr_jax.errors import ConfigError
from fedvlr_jax.fields import NOT_NEGATIVE, ONE_OR_MORE, POSITIVE, SEED, Bounds

INSIDE = Bounds(0, below=1, above=True)

PLANS: dict[str, dict[str, Bounds]] = {
    "uploads": {
        "rounds": NOT_NEGATIVE,
        "noises": NOT_NEGATIVE,
        "sums": ONE_OR_MORE,
        "epsilons": POSITIVE,
        "delta": INSIDE,
        "budget_rounds": ONE_OR_MORE,
        "draws": ONE_OR_MORE,
        "clients": NOT_NEGATIVE,
        "seed": NOT_NEGATIVE,
    },
    "promotion": {
        "seeds": SEED,
        "promoters": NOT_NEGATIVE,
        "train_rounds": ONE_OR_MORE,
        "every": ONE_OR_MORE,
        "targets": ONE_OR_MORE,
        "popular": ONE_OR_MORE,
    },
    "canaries": {
        "noise_multipliers": POSITIVE,
        "delta": INSIDE,
        "trials": Bounds(4),  # half of them choose a threshold, and a variance needs two
        "confidence": INSIDE,
        "seed": SEED,
    },
}
"""By kind: the bounds of numbers, or of each number of a tuple."""


def check_plan(plan: Mapping[str, Any]) -> None:
    """Refuses numbers out of range, and rounds that go back.

    Raises:
      ConfigError: naming the field, what was expected, and what was found.
    """
    for name, bounds in PLANS[plan["kind"]].items():
        found = plan.get(name, ())
        for value in found if isinstance(found, tuple | list) else (found,):
            if not bounds.hold(value):
                raise ConfigError(f"audit.{name}: expected {bounds}, found {value}")
    rounds = tuple(plan.get("rounds", ()))
    if any(a >= b for a, b in itertools.pairwise(rounds)):
        raise ConfigError(f"audit.rounds: expected rounds that ascend, found {rounds}")
