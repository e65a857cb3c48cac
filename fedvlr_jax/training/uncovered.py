"""What a guarantee of privacy does not cover in a run, beside what it covers in none (`accounting.NOT_COVERED`)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from fedvlr_jax.errors import RunWarning

Spent = Mapping[str, Mapping[str, Any] | None]
"""By workdir of the runs behind a start: ``epsilon``, ``delta`` and ``rounds`` there, None without a guarantee."""


def not_covered(settings: Mapping[str, Any], origin: Mapping[str, Any] | None) -> list[str]:
    """In words, everything that this run lets out beside its noised sums and is not let out by every run.

    Args:
      settings: nested, with all fields.
      origin: `schedule.RunProgress.origin`.
    """
    found = []
    if settings["init_from"]:
        found += _of_start((origin or {}).get("privacy") or {settings["init_from"]: None})
    return found


def warn_of_start(spent: Spent) -> None:
    """A `RunWarning` about the parameters that a run under a guarantee starts from."""
    warnings.warn(
        f"init_from: the guarantee is about the rounds of this run alone; not covered: {'; '.join(_of_start(spent))}",
        RunWarning,
        stacklevel=3,
    )


def _of_start(spent: Spent) -> list[str]:
    return [f"parameters that the run started from ({workdir}, {_worth(of)})" for workdir, of in spent.items()]


def _worth(spent: Mapping[str, Any] | None) -> str:
    if spent is None:
        return "made without a guarantee"
    worth = f"epsilon {spent['epsilon']:.4g} at delta {spent['delta']:g} in {spent['rounds']} rounds"
    return f"made with {worth}: both add up"
