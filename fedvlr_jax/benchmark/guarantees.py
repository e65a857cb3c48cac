"""What the noise of the methods of a benchmark is worth: sentences for the notes under its table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedvlr_jax.fields import with_fields
from fedvlr_jax.io.identity import is_covered
from fedvlr_jax.privacy.accounting import guarantee_of
from fedvlr_jax.training.uncovered import leaves_out_sums, not_covered, warn_of_sums
from fedvlr_jax.types import Dataset

if TYPE_CHECKING:
    from fedvlr_jax.benchmark.methods import Method

DECIDE = ("privacy.", "aggregation.", "rounds", "server.clients_per_round", "server.sampling")
"""Settings that a guarantee depends on, as of `identity.is_covered`."""


def worth_of_noise(methods: Sequence[Method], dataset: Dataset) -> list[str]:
    """One sentence for each kind of guarantee; it names its methods where a label stands for several kinds.

    Methods whose host forms exact sums before the rounds are of a kind of their own, and warned about once.

    Raises:
      ConfigError: a budget of privacy that cannot be had.
    """
    of_kind: dict[tuple[str, str], list[str]] = {}
    warn_of_sums(method.host for method in methods if method.settings and leaves_out_sums(method.settings, dataset))
    for method in methods:
        _, _, label = method.name.partition(", ")
        for point in _deciding(method.grid) if method.settings else ():
            settings, at = with_fields(method.settings, point), "".join(f" at {f}={x}" for f, x in point.items())
            if (said := _said(settings, dataset)) is not None:
                of_kind.setdefault((label, said), []).append(f"{method.name}{at}")
    labels = [label for label, _ in of_kind]
    return [
        f"{label if label and labels.count(label) == 1 else '; '.join(names)}: {said}"
        for (label, said), names in of_kind.items()
    ]


def _deciding(grid: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The distinct parts of the points of a grid that decide what noise is worth; at least one, maybe empty."""
    seen: list[dict[str, Any]] = []
    for point in grid or ({},):
        part = {field: value for field, value in point.items() if is_covered(field, DECIDE)}
        if part not in seen:
            seen.append(part)
            yield part


def _said(settings: Mapping[str, Any], dataset: Dataset) -> str | None:
    """What the noise under these settings is worth, None where there is no guarantee."""
    if (guarantee := guarantee_of(settings, dataset.num_users)) is None:
        return None
    said, uncovered = guarantee.describe(settings["rounds"]), not_covered(settings, dataset)
    return (
        f"epsilon {said['epsilon']:.4g} at delta {said['delta']:g} after {said['rounds']} rounds ({said['mode']}; "
        f"{said['neighbours']}), not covering {'; '.join(['points and rounds chosen on validation', *uncovered])}"
    )
