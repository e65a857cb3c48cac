"""What the benchmark knows of a method once its runs are over; the table and the report read nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fedvlr_jax.types import Ranks

FEDERATED, CENTRALISED, CONTROL = "federated", "centralised", "control"


class CurvePoint(NamedTuple):
    """One evaluation on the way.

    Attributes:
      round: communication rounds (federated) or epochs (centralised) so far.
      valid: the main metrics on validation, fractions.
      megabytes: 10^6 bytes moved between server and all clients so far, both directions; None for centralised ones.
      seconds: training time so far.
    """

    round: int
    valid: Mapping[str, float]
    megabytes: float | None
    seconds: float


class MethodRuns(NamedTuple):
    """All finished seeds of one method, at the point of its grid that validation chose.

    Attributes:
      name: unique in the benchmark, e.g. "fcf+fedvlr", "ease", "fcf+fedvlr, shuffled features".
      family: FEDERATED, CENTRALISED or CONTROL.
      host, variant: of federated methods and controls, else "".
      hyper: the chosen point, by dotted field or hyper-parameter name; {} where there is nothing to choose.
      points: how many points of the grid were tried.
      seeds: of the runs below; one seed, 0, for methods without randomness.
      ranks: by seed, all held-out items at the best round.
      best_rounds: by seed.
      curves: by seed, () for methods without a training loop.
      seconds: what is formed before the rounds, training, evaluation and compilation of all its runs, the search
        included.
      megabytes_per_round: 10^6 bytes of all clients of a round, both directions; None for centralised methods.
      num_public, num_private_per_client: parameters; None where that makes no sense.
      lists: by seed, `evaluation.list_metrics.summarise_lists`; () where lists were not judged.
      ends: what of the chosen point is the least or the largest that was tried (`searching.at_ends`).
      failures: sentences, one for every run that failed; the method has no row of numbers when no seed is left.
    """

    name: str
    family: str
    host: str
    variant: str
    hyper: Mapping[str, Any]
    points: int
    seeds: tuple[int, ...]
    ranks: tuple[Ranks, ...]
    best_rounds: tuple[int, ...]
    curves: tuple[tuple[CurvePoint, ...], ...]
    seconds: float
    megabytes_per_round: float | None = None
    num_public: int | None = None
    num_private_per_client: int | None = None
    failures: tuple[str, ...] = ()
    lists: tuple[Mapping[str, Any], ...] = ()
    ends: tuple[str, ...] = ()


def is_last(curve: Sequence[CurvePoint], best_round: int) -> bool:
    """Whether the best round of a run is the last one of several that were evaluated: training ended while it was
    still gaining, since patience would have gone on. A single evaluation leaves nothing to choose."""
    return len(curve) > 1 and curve[-1].round == best_round
