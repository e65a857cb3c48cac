"""Small sweeps as a command, and what they left in their folders."""

from __future__ import annotations

import csv
import json
import pathlib

import pytest
from commands import ROOT, TINY

from fedvlr_jax.benchmark.group import train_group
from fedvlr_jax.sweep import training

FIELDS = {"server.lr": [0.01, 0.1], "client.lr": [0.1, 0.5], "variant": ["base"]}
SMALL = TINY | {"rounds": 10, "eval.every": 5}


def sweep_file(folder: pathlib.Path, **fields) -> pathlib.Path:
    """A sweep file with the given fields."""
    path = folder / "mine.py"
    path.write_text(f"def get_sweep():\n    return { ({'fields': FIELDS, 'seeds': [0, 1]} | fields)!r}\n")
    return path


def flags(workdir: pathlib.Path, *more: str, config: dict | None = None, **fields) -> list[str]:
    """The command line of a small sweep; its file is beside the workdir."""
    settings = SMALL | (config or {})
    return [
        f"--config={ROOT}/configs/quickstart.py",
        *(f"--config.{name}={value}" for name, value in settings.items()),
        f"--sweep={sweep_file(workdir.parent, **fields)}",
        f"--workdir={workdir}",
        *more,
    ]


def rows(workdir: pathlib.Path) -> list[dict[str, str]]:
    with (workdir / "table.csv").open() as file:
        return list(csv.DictReader(file))


def best(workdir: pathlib.Path) -> dict:
    return json.loads((workdir / "best.json").read_text())


def finished_runs(workdir: pathlib.Path) -> dict[str, int]:
    """When each run was finished."""
    return {path.parent.name: path.stat().st_mtime_ns for path in workdir.glob("runs/*/result.json")}


def results(workdir: pathlib.Path) -> dict[str, dict]:
    return {p.parent.name: json.loads(p.read_text()) for p in workdir.glob("runs/*/result.json")}


def count_runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float, int]]:
    """(server.lr, client.lr, seed) of every run that is trained from now on."""
    trained = []

    def train(programs, plan, runs, **options):
        trained.extend((run.point["server.lr"], run.point["client.lr"], run.seed) for run in runs)
        return train_group(programs, plan, runs, **options)

    monkeypatch.setattr(training, "train_group", train)
    return trained
