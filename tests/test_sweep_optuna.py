"""A sweep whose points Optuna proposes; a fake module records what it is told."""

from __future__ import annotations

import sys
import types

import pytest
from commands import run_here
from sweeps import best, count_runs, flags, rows

from fedvlr_jax.benchmark.programs import MethodPrograms
from fedvlr_jax.sweep import training


@pytest.fixture
def counted(monkeypatch):
    """(server.lr, client.lr, seed) of every run that is trained."""
    return count_runs(monkeypatch)


class FakeTrial:
    """Proposes the highest value of every axis, then lower ones."""

    def __init__(self, number):
        self.number = number

    def suggest_categorical(self, name, choices):
        return choices[self.number % len(choices)]

    def suggest_float(self, name, low, high, log):
        return high / (self.number + 1)

    def suggest_int(self, name, low, high, log):
        return max(high - self.number, low)


def fake_optuna(told):
    """A module that remembers what it is told."""

    class Study:
        asked = 0

        def ask(self):
            self.asked += 1
            return FakeTrial(self.asked - 1)

        def tell(self, trial, value=None, state=None):
            told.append((trial.number, value, state))

    return types.SimpleNamespace(
        logging=types.SimpleNamespace(set_verbosity=lambda level: None, WARNING=30),
        samplers=types.SimpleNamespace(TPESampler=lambda seed: ("tpe", seed)),
        create_study=lambda direction, sampler: Study(),
        trial=types.SimpleNamespace(TrialState=types.SimpleNamespace(FAIL="fail")),
    )


OPTUNA = {
    "kind": "optuna",
    "samples": 3,
    "batch": 2,
    "fields": {"server.lr": {"low": 0.01, "high": 0.1, "log": True}, "client.lr": [0.1, 0.5]},
}


@pytest.mark.slow
def test_optuna_is_told_the_validation_of_every_point_and_asks_again_for_the_same(monkeypatch, tmp_path, counted):
    told, built = [], []
    monkeypatch.setitem(sys.modules, "optuna", fake_optuna(told))
    monkeypatch.setattr(training, "MethodPrograms", lambda *a: built.append(a) or MethodPrograms(*a))
    assert run_here(monkeypatch, "sweep", *flags(tmp_path / "w", **OPTUNA)) == 0
    assert len(built) == 1  # both batches go through one program
    assert [row["server.lr"] for row in sorted(rows(tmp_path / "w"), key=lambda row: int(row["point"]))] == [
        "0.1",
        "0.05",
        "0.0333333",
    ]
    means = {int(row["point"]): float(row["valid NDCG@50 mean"]) for row in rows(tmp_path / "w")}
    assert told == [(k, pytest.approx(means[k]), None) for k in range(3)]
    first, told[:] = list(told), []
    assert len(counted) == 6
    assert run_here(monkeypatch, "sweep", *flags(tmp_path / "w", **OPTUNA)) == 0
    assert told == first
    assert len(counted) == 6


@pytest.mark.slow
def test_optuna_is_told_of_failures_once(monkeypatch, tmp_path):
    told, crashes = [], []
    monkeypatch.setitem(sys.modules, "optuna", fake_optuna(told))

    def crash(programs, plan, runs, **options):
        crashes.append(runs)
        raise RuntimeError("out of luck")

    monkeypatch.setattr(training, "train_group", crash)
    assert run_here(monkeypatch, "sweep", *flags(tmp_path / "w", **OPTUNA)) == 0
    assert told == [(k, None, "fail") for k in range(3)]
    assert sum(map(len, crashes)) == 6  # every run once, not again with each batch
    assert best(tmp_path / "w")["point"] is None
    assert "No point has a value at every seed" in (tmp_path / "w" / "table.md").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "a sweep of kind optuna needs packages that are not installed (import of optuna halted"),
        ([], 'pip install "fedvlr_jax[optuna]"'),
        (["--shard=1/2"], "points of kind optuna depend on each other"),
    ],
)
def test_optuna_that_is_not_installed_or_split_is_refused(monkeypatch, tmp_path, capsys, more, message):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert run_here(monkeypatch, "sweep", *flags(tmp_path / "w", *more, **OPTUNA)) == 2
    assert message in capsys.readouterr().err
