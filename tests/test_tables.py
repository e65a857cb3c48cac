"""Every law over every row of its table (`laws`), and broken rows that the laws find."""

from __future__ import annotations

import laws
import pytest
from problems import spread


@pytest.mark.parametrize(("table", "name", "law"), spread(laws.cases(), laws.fast_cases()))
def test_every_row_obeys_every_law(table, name, law):
    law(name)
