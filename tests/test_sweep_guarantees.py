"""What a sweep under guarantees of privacy says: epsilon of each point, and that budgets of points add up."""

from __future__ import annotations

import pytest
from commands import run_here
from sweeps import best, flags, results, rows

from fedvlr_jax.benchmark.guarantees import ADD_UP, Worth
from fedvlr_jax.privacy.accounting import NEIGHBOURS, epsilon_of
from fedvlr_jax.sweep.guarantees import say_worth

BUDGET = {"aggregation.transforms": "clip,noise", "privacy.delta": 1e-2}
NOISES = (2.0, 4.0)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep over the noise and a rate, and what it printed of the budgets before the first run."""
    workdir = tmp_path_factory.mktemp("sweep") / "swept"
    fields = {"aggregation.noise_multiplier": list(NOISES), "client.lr": [0.1, 0.5]}
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert run_here(monkeypatch, "sweep", *flags(workdir, config=BUDGET, fields=fields)) == 0
    return workdir


def test_every_point_has_its_epsilon_in_the_table_and_it_is_that_of_its_runs(swept):
    for row in rows(swept):
        expected = epsilon_of(float(row["aggregation.noise_multiplier"]), 1.0, 10, 1e-2)
        assert float(row["epsilon"]) == pytest.approx(expected, rel=1e-12)
        assert float(row["delta"]) == 1e-2
        run = results(swept)[f"point{row['point']}-seed1"]["privacy"]
        assert float(row["epsilon"]) == run["epsilon"]
    cells = [[cell.strip() for cell in line.split("|")] for line in (swept / "table.md").read_text().splitlines()]
    column = next(line.index("epsilon") for line in cells if "epsilon" in line)
    shown = [line[column] for line in cells if len(line) > column and line[1].strip("*").isdigit()]
    assert sorted(shown) == sorted(2 * [f"{epsilon_of(noise, 1.0, 10, 1e-2):.4g}" for noise in NOISES])


def test_the_files_say_that_budgets_add_up_and_seeds_share_their_noise(swept):
    assert ADD_UP in (swept / "table.md").read_text()
    assert ADD_UP.split(":")[0] in (swept / "report.html").read_text()
    chosen = best(swept)
    assert chosen["privacy"]["note"] == ADD_UP
    assert (chosen["privacy"]["points"], chosen["privacy"]["runs"]) == (4, 8)
    assert chosen["privacy"]["epsilon"] == results(swept)[f"point{chosen['point']}-seed0"]["privacy"]["epsilon"]


def test_a_dry_run_says_what_points_are_worth(tmp_path, monkeypatch, capsys):
    fields, config = {"aggregation.noise_multiplier": list(NOISES)}, BUDGET | {"dry_run": True}
    assert run_here(monkeypatch, "sweep", *flags(tmp_path / "w", config=config, fields=fields)) == 0
    low, high = (f"{epsilon_of(noise, 1.0, 10, 1e-2):.4g}" for noise in sorted(NOISES, reverse=True))
    out = capsys.readouterr().out
    assert f"points 0-1: epsilon {low} to {high} (see the table) at delta 0.01 after 10 rounds" in out
    assert ADD_UP in out


def test_without_a_guarantee_nothing_is_said(tmp_path, monkeypatch, capsys):
    assert run_here(monkeypatch, "sweep", *flags(tmp_path / "w", config={"dry_run": True})) == 0
    assert "epsilon" not in capsys.readouterr().out
    assert say_worth([None, None]) == []


def test_points_are_named_by_kind_and_those_without_a_guarantee_are_too():
    one = Worth(8.0, 1e-5, 10, "central", NEIGHBOURS, ())
    other, bare = one._replace(rounds=20), None
    first, second, without, together = say_worth([one, other, bare, one._replace(epsilon=7.5)])
    assert first.startswith("points 0, 3: epsilon 7.5 to 8 (see the table) at delta 1e-05 after 10 rounds (central;")
    assert second.startswith("point 1: epsilon 8 at delta 1e-05 after 20 rounds")
    assert without == "point 2: no guarantee of privacy"
    assert together == ADD_UP
