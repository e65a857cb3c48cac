"""The choice of the best round, and when patience is used up."""

import pytest

from fedvlr_jax.evaluation.selection import Selection, next_evaluation


def select(values, every=1):
    """The selection after evaluations with these values, at every, 2 every, ... rounds."""
    selection = Selection()
    for k, value in enumerate(values, start=1):
        selection = selection.evaluated(k * every, value)
    return selection


@pytest.mark.parametrize(
    ("values", "best_round", "since"),
    [
        ((), None, 0),
        ((0.2,), 1, 0),
        ((0.2, 0.3, 0.1), 2, 1),
        ((0.3, 0.3, 0.3), 1, 2),  # the first of equals stays
        ((0.0, 0.1), 2, 0),
        ((None, None), 2, 0),  # without validation rows the latest round counts
    ],
)
def test_the_first_of_the_best_rounds_is_chosen(values, best_round, since):
    selection = select(values)
    assert (selection.best_round, selection.evaluations_since_best) == (best_round, since)
    assert selection.best_value == (values[best_round - 1] if values else None)


def test_patience_counts_evaluations_without_improvement():
    selection = select((0.3, 0.1, 0.2), every=5)
    assert selection == Selection(5, 0.3, 2)
    assert not selection.is_exhausted(3)
    assert selection.is_exhausted(2)
    assert not selection.is_exhausted(0)
    assert not Selection().is_exhausted(1)


def test_evaluations_are_at_multiples_and_at_the_end():
    rounds = [0]
    while rounds[-1] < 12:
        rounds.append(next_evaluation(rounds[-1], 5, 12))
    assert rounds == [0, 5, 10, 12]
    assert next_evaluation(7, 5, 12) == 10
