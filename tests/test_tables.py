"""Every law over every row of its table (`laws`), and for every law a broken row that it finds (`broken`)."""

from __future__ import annotations

import laws
import pytest
from broken import BROKEN, PLACES
from problems import spread


@pytest.mark.parametrize(("table", "name", "law"), spread(laws.cases(), laws.fast_cases()))
def test_every_row_obeys_every_law(table, name, law):
    law(name)


FOUND = [(table, law) for table, rows in BROKEN.items() for law in rows]


@pytest.mark.parametrize(
    ("table", "law"), spread(FOUND, [case for case in FOUND if case[0] in ("METRICS", "BASELINES")])
)
def test_a_broken_row_is_found(monkeypatch, table, law):
    """A row in the table is all it takes: the law is among the cases, and says what is wrong."""
    words, row = BROKEN[table][law]
    name = PLACES.get(law, "broken")
    monkeypatch.setitem(laws.TABLES[table].rows, name, row)
    assert (table, name, law) in laws.cases()
    with pytest.raises(AssertionError, match=words):
        law(name)


def test_a_new_row_is_judged_by_every_law_with_the_fast_tests(monkeypatch):
    for table, (rows, laws_of_table, _) in laws.TABLES.items():
        monkeypatch.setitem(rows, "new", None)
        assert {law for of, name, law in laws.fast_cases() if (of, name) == (table, "new")} == set(laws_of_table)


def test_every_law_has_a_broken_row():
    assert {table: set(rows) for table, rows in BROKEN.items()} == {
        table: set(laws_of_table) for table, (_, laws_of_table, _) in laws.TABLES.items()
    }
