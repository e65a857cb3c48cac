"""The check of convergence as a command: it holds on the real code, and planted faults make it fail."""

from __future__ import annotations

import csv

import numpy as np
import optax
import pytest

from fedvlr_jax.errors import ConfigError
from fedvlr_jax.theory import bounds, convergence, exponents, problem, statements
from tests import commands
from tests.commands import ROOT, run_here

TINY = {
    **{name: value for name, value in commands.TINY.items() if name.startswith(("data.", "fusion."))},
    "check.seeds": 4,
    "check.steps": "(1,3)",
    "check.cohorts": "(3,6,12)",
    "check.rounds": "(4,16)",
    "check.rate": 0.05,
    "check.probes": 2,
    "check.draws": 4,
    "check.curvature_seeds": 1,
    "check.curvature_clients": 2,
}


FEW = {"check__cohorts": "(3,12)", "check__rounds": "(4,8)"}
"""For a fault that shows in every cell of the grid."""


def check(monkeypatch, workdir, **overrides) -> int:
    """Exit code of the command on a tiny grid."""
    fields = TINY | {name.replace("__", "."): value for name, value in overrides.items()}
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    config = f"--config={ROOT}/configs/theory/convergence.py"
    return run_here(monkeypatch, "check_convergence", config, f"--workdir={workdir}", *flags)


@pytest.fixture(scope="module")
def runs_of_the_grid():
    """What `run_all` gave for the whole grid, for tests that differ in what is made of it: filled by the first."""
    return []


@pytest.fixture
def run_once(monkeypatch, runs_of_the_grid):
    """The grid is run and measured for one of the tests that ask for this alone."""
    run_all = convergence.run_all

    def run_or_recall(*args):
        if not runs_of_the_grid:
            runs_of_the_grid.extend(run_all(*args))
        return list(runs_of_the_grid)

    monkeypatch.setattr(convergence, "run_all", run_or_recall)


@pytest.fixture(autouse=True)
def restore_precision():
    """The command sets the precision of the whole process."""
    import jax

    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.mark.slow
@pytest.mark.usefixtures("run_once")
def test_every_statement_holds_and_the_files_say_so(monkeypatch, tmp_path, capsys):
    assert check(monkeypatch, tmp_path) == 0
    printed = capsys.readouterr().out
    assert "VIOLATED" not in printed
    with (tmp_path / "statements.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["statement"] for row in rows} == set(statements.STATEMENTS)
    assert all(row["holds"] == "True" for row in rows)
    # A, eta, n_s; the bias (in three forms) has no row at A = 1; the theorem (in two forms) has one for every T.
    assert len(rows) == 3 * 2 * 2 * 3 + 3 * (2 * 3) + 2 * (2 * 2 * 2 * 3)
    forms = (statements.LOCAL, statements.MIXED, statements.BIAS)  # from the sharpest to the loosest
    ratios = [np.median([float(row["ratio"]) for row in rows if row["statement"] == form]) for form in forms]
    assert ratios == sorted(ratios)
    with (tmp_path / "exponents.csv").open() as file:
        found = {row["name"]: float(row["value"]) for row in csv.DictReader(file)}
    assert abs(found["drift against eta"] - 2) < 0.1
    assert 1 < found["drift against a = 1..3"] <= 2.05
    assert (tmp_path / "convergence.png").stat().st_size < 200_000
    assert (tmp_path / "verdicts.md").read_text().strip() in printed


@pytest.mark.slow
@pytest.mark.usefixtures("run_once")
def test_a_missing_finite_population_factor_is_seen(monkeypatch, tmp_path, capsys):
    without = bounds.Bounds(sampling_factor=lambda n, m: 1 / m)
    monkeypatch.setattr(convergence, "Bounds", lambda: without)
    assert check(monkeypatch, tmp_path) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "VIOLATED" in line]
    assert len(lines) == 1
    assert "sampling variance" in lines[0]


@pytest.mark.slow
def test_a_drift_that_is_three_times_too_long_is_seen(monkeypatch, tmp_path, capsys):
    right = problem.Problem.local

    def wrong(self, steps, eta):
        return right(self, steps, eta)._replace(optimizer=optax.sgd(3 * eta))

    monkeypatch.setattr(problem.Problem, "local", wrong)
    assert check(monkeypatch, tmp_path, **FEW) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "VIOLATED" in line]
    assert any("Lemma 1" in line for line in lines)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"check__rate": 50.0}, r"1 / \(L A\) = "),
        ({"check__seeds": 2}, "check.seeds"),
        ({"check__steps": "(2,)"}, "one point"),
        ({"check__rounds": "(16,4)"}, "ascending"),
        ({"check__cohorts": "(3,13)"}, "at most 12"),
        ({"check__probes": 3}, "divisor"),
        ({"check__precision": "float16"}, "float64"),
        ({"objective": "softmax"}, "objective"),
    ],
)
def test_bad_input_is_refused(monkeypatch, tmp_path, capsys, overrides, message):
    import re

    assert check(monkeypatch, tmp_path, **overrides) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_training_config_is_refused(monkeypatch, tmp_path, capsys):
    code = run_here(
        monkeypatch, "check_convergence", f"--config={ROOT}/configs/quickstart.py", f"--workdir={tmp_path}"
    )
    assert code == 2
    assert "configs/theory/convergence.py" in capsys.readouterr().err


@pytest.mark.slow
def test_settings_outside_the_assumptions_run_with_a_label(monkeypatch, tmp_path, capsys):
    check(monkeypatch, tmp_path, fusion__activation="relu", **FEW)
    assert "OUTSIDE THE ASSUMPTIONS" in capsys.readouterr().out


def test_an_exponent_of_a_power_law_and_its_interval():
    rng = np.random.default_rng(0)
    x_k = np.array([1.0, 2, 4, 8])
    covered = 0
    for _ in range(400):
        y_ek = 3 * x_k**1.5 * np.exp(0.1 * rng.normal(size=(6, 4)))
        found = exponents.over_runs("y", (1.5, 1.5), x_k, y_ek)
        covered += found.low <= 1.5 <= found.high
    assert 0.92 <= covered / 400 <= 0.98
    np.testing.assert_allclose(exponents.over_points("y", None, x_k, 3 * x_k**1.5).value, 1.5)


def test_fits_that_cannot_be_made_are_refused():
    with pytest.raises(ConfigError, match="one point"):
        exponents.slopes(np.array([2.0, 2.0]), np.ones((3, 2)))
    with pytest.raises(ConfigError, match="at least 3"):
        exponents.over_runs("y", None, np.array([1.0, 2.0]), np.ones((2, 2)))
    with pytest.raises(ConfigError, match="three values"):
        exponents.over_points("y", None, np.array([1.0, 2.0]), np.ones(2))
