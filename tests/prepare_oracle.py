"""The steps of a preparation once more, row by row on tuples (user, item, time), as slowly as they are defined."""

from __future__ import annotations

import fractions
import itertools
from collections import Counter, defaultdict

Row = tuple[int, int, int]


def k_core(rows: list[Row], least_user: int, least_item: int) -> list[Row]:
    """Takes away one row after the other as long as one breaks the rule; the order does not matter."""
    rows = list(rows)
    while True:
        users, items = Counter(u for u, _, _ in rows), Counter(i for _, i, _ in rows)
        bad = next((row for row in rows if users[row[0]] < least_user or items[row[1]] < least_item), None)
        if bad is None:
            return rows
        rows.remove(bad)


def one_row_a_pair(rows: list[Row], keep: str) -> list[Row]:
    """One row of each pair, of the earliest or latest time."""
    choose = min if keep == "first" else max
    times = defaultdict(list)
    for user, item, time in rows:
        times[user, item].append(time)
    return [(*pair, choose(found)) for pair, found in times.items()]


def histories(rows: list[Row]) -> dict[int, list[Row]]:
    """The rows of each user by time, then item."""
    ordered = sorted(rows, key=lambda row: (row[0], row[2], row[1]))
    return {user: list(own) for user, own in itertools.groupby(ordered, lambda row: row[0])}


def by_count(rows: list[Row], counts) -> dict[Row, int]:
    """The label of each row; ``counts(number of rows)`` gives the validation and test rows of a user."""
    label = {}
    for own in histories(rows).values():
        valid, test = counts(len(own))
        for position, row in enumerate(own):
            label[row] = 2 if position >= len(own) - test else 1 if position >= len(own) - test - valid else 0
    return label


def leave_one_out(rows: list[Row]) -> dict[Row, int]:
    """Labels of leave-one-out."""
    return by_count(rows, lambda count: (1, 1) if count >= 3 else (0, 0))


def by_ratio(rows: list[Row], valid: str, test: str) -> dict[Row, int]:
    """Labels of a ratio per user."""

    def part(count: int, share: str) -> int:
        exact = fractions.Fraction(share)
        return 0 if count < 3 or not exact else max(1, int(count * exact))

    return by_count(rows, lambda count: (part(count, valid), part(count, test)))


def by_global_time(rows: list[Row], valid: str, test: str) -> dict[Row, int]:
    """Labels of one cut: the latest times, as many as fit the share, are test, and so on."""
    total = len(rows)
    most_test = int(fractions.Fraction(test) * total)
    most_held = int((fractions.Fraction(valid) + fractions.Fraction(test)) * total)
    label = {}
    for row in rows:
        from_here = sum(other[2] >= row[2] for other in rows)
        label[row] = 2 if from_here <= most_test else 1 if from_here <= most_held else 0
    return label


def tied_users(rows: list[Row], label: dict[Row, int]) -> int:
    """Users with two rows of one time in two splits."""
    tied = {
        one[0]
        for one, two in itertools.combinations(rows, 2)
        if one[0] == two[0] and one[2] == two[2] and label[one] != label[two]
    }
    return len(tied)
