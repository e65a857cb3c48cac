"""What the noise of the runs of a benchmark or a sweep is worth: sentences for the notes under its table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fedvlr_jax.fields import with_fields
from fedvlr_jax.io.identity import is_covered
from fedvlr_jax.privacy.accounting import guarantee_of
from fedvlr_jax.training.uncovered import leaves_out_sums, not_covered, warn_of_sums
from fedvlr_jax.types import Dataset

if TYPE_CHECKING:
    from fedvlr_jax.benchmark.methods import Method

DECIDE = ("privacy.", "aggregation.", "rounds", "server.clients_per_round", "server.sampling")
"""Settings that a guarantee depends on, as of `identity.is_covered`."""

ADD_UP = (
    "An epsilon is that of one run alone. The budgets of all runs add up, those of every point and seed of a search "
    "too, and runs of one seed share their noise: a weighted difference of two of them may have none. Who shows more "
    "than one run on real people's data gives each a secret seed of its own."
)
"""What a reader of several runs under guarantees has to know."""


class Worth(NamedTuple):
    """What the noise of one run is worth.

    Attributes:
      epsilon, delta: after all `rounds`.
      rounds: as many as the settings ask for; a run that stops early has spent less.
      mode, neighbours: as of `Guarantee.describe`.
      uncovered: what this run lets out beside `accounting.NOT_COVERED`.
    """

    epsilon: float
    delta: float
    rounds: int
    mode: str
    neighbours: str
    uncovered: tuple[str, ...]

    def sentence(self, epsilon: str) -> str:
        """In words, with epsilon as it is to be shown."""
        return (
            f"epsilon {epsilon} at delta {self.delta:g} after {self.rounds} rounds ({self.mode}; {self.neighbours}), "
            f"not covering {'; '.join(['points and rounds chosen on validation', *self.uncovered])}"
        )


def worth_of(settings: Mapping[str, Any], dataset: Dataset) -> Worth | None:
    """What the noise under these settings is worth, None where there is no guarantee.

    Raises:
      ConfigError: a budget of privacy that cannot be had.
    """
    if (guarantee := guarantee_of(settings, dataset.num_users)) is None:
        return None
    said = guarantee.describe(settings["rounds"])
    shown = {name: said[name] for name in ("epsilon", "delta", "rounds", "mode", "neighbours")}
    return Worth(**shown, uncovered=tuple(not_covered(settings, dataset)))


def worth_of_noise(methods: Sequence[Method], dataset: Dataset) -> list[str]:
    """One sentence for each kind of guarantee, which names its methods where a label stands for several kinds, and
    `ADD_UP`; nothing where there is none.

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
            if (worth := worth_of(settings, dataset)) is not None:
                of_kind.setdefault((label, worth.sentence(f"{worth.epsilon:.4g}")), []).append(f"{method.name}{at}")
    labels = [label for label, _ in of_kind]
    said_of_kinds = [
        f"{label if label and labels.count(label) == 1 else '; '.join(names)}: {said}"
        for (label, said), names in of_kind.items()
    ]
    return [*said_of_kinds, ADD_UP] if said_of_kinds else []


def _deciding(grid: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The distinct parts of the points of a grid that decide what noise is worth; at least one, maybe empty."""
    seen: list[dict[str, Any]] = []
    for point in grid or ({},):
        part = {field: value for field, value in point.items() if is_covered(field, DECIDE)}
        if part not in seen:
            seen.append(part)
            yield part
