"""Which evaluated round (or epoch) validation prefers so far, and when to stop looking for a better one. Pure."""

from __future__ import annotations

from typing import NamedTuple


class Selection(NamedTuple):
    """The choice among the evaluations so far.

    Attributes:
      best_round, best_value: the round with the best validation metric, and its value; None before the first
        evaluation, and the value also without validation rows.
      evaluations_since_best: evaluations without improvement.
    """

    best_round: int | None = None
    best_value: float | None = None
    evaluations_since_best: int = 0

    def evaluated(self, round_: int, value: float | None) -> Selection:
        """After the evaluation of a round that gave `value` (larger is better).

        Only a strict improvement moves the best round. Without validation rows (None) nothing can be chosen, and
        the latest round counts as the best.
        """
        if value is None or self.best_value is None or value > self.best_value:
            return Selection(round_, value, 0)
        return self._replace(evaluations_since_best=self.evaluations_since_best + 1)

    def is_exhausted(self, patience: int) -> bool:
        """Whether `patience` evaluations brought no improvement; never with patience 0."""
        return 0 < patience <= self.evaluations_since_best


def next_evaluation(round_: int, every: int, last: int) -> int:
    """The first evaluated round after `round_`: a multiple of `every`, or the last one."""
    return min((round_ // every + 1) * every, last)
