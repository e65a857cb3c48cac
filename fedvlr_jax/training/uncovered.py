"""What a guarantee of privacy does not cover in a run, beside what it covers in none (`accounting.NOT_COVERED`)."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from fedvlr_jax.assembly import configured_host, parse_names
from fedvlr_jax.errors import RunWarning
from fedvlr_jax.federated.transforms import TRANSFORMS
from fedvlr_jax.privacy.accounting import guarantee_of
from fedvlr_jax.types import Dataset

EXACT_SUMS = "exact sums over all histories, formed before the rounds"

Spent = Mapping[str, Mapping[str, Any] | None]
"""By workdir of the runs behind a start: ``epsilon``, ``delta`` and ``rounds`` there, None without a guarantee."""


def leaves_out_sums(settings: Mapping[str, Any], dataset: Dataset) -> bool:
    """Whether there is a guarantee, and the host forms sums over histories before the rounds that it is not about."""
    guarantee = guarantee_of(settings, dataset.num_users)
    if guarantee is None or guarantee.prior_noise is not None:
        return False
    host = configured_host(settings, dataset.num_items)
    return host.combine is not None or host.view_weights is not None


def warn_of_sums(hosts: Iterable[str]) -> None:
    """A `RunWarning` that names the hosts (`leaves_out_sums`); none where there are none."""
    if names := sorted(set(hosts)):
        who = f"host {names[0]} forms" if len(names) == 1 else f"hosts {' and '.join(names)} form"
        warnings.warn(
            f"privacy.prior_share: the guarantee is about rounds; {who} exact sums over all histories before them, "
            "which are not covered",
            RunWarning,
            stacklevel=3,
        )


def warn_of_no_noise(settings: Mapping[str, Any]) -> None:
    """A `RunWarning` about a deviation of noise that no transform of uploads reads."""
    aggregation = settings["aggregation"]
    multiplier, names = aggregation["noise_multiplier"], parse_names(aggregation["transforms"])
    if multiplier > 0 and not any("noise_multiplier" in inspect.signature(TRANSFORMS[x]).parameters for x in names):
        warnings.warn(
            f"aggregation.noise_multiplier: {multiplier:g} adds no noise, since aggregation.transforms has neither "
            f"noise nor local_noise, found {','.join(names) or 'none'}",
            RunWarning,
            stacklevel=4,
        )


def not_covered(settings: Mapping[str, Any], dataset: Dataset, origin: Mapping[str, Any] | None = None) -> list[str]:
    """In words, everything that this run lets out beside its noised sums and is not let out by every run.

    Args:
      settings: nested, with all fields, of a run under a guarantee.
      dataset: its data.
      origin: `schedule.RunProgress.origin`.
    """
    found = [EXACT_SUMS] if leaves_out_sums(settings, dataset) else []
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
