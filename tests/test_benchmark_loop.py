"""A benchmark within a budget, with methods that only let a made-up clock go on; and what its seconds are."""

from __future__ import annotations

import json
import time

import pytest
from commands import ROOT, TINY, run_here

from configs.benchmark import own
from fedvlr_jax.assembly import parse_names
from fedvlr_jax.benchmark import central, federated, loop
from fedvlr_jax.benchmark.budget import by_priority, points_within, whole_extent
from fedvlr_jax.benchmark.clock import Clock
from fedvlr_jax.benchmark.jobs import job_of, num_programs
from fedvlr_jax.benchmark.methods import list_methods
from fedvlr_jax.benchmark.records import MethodRuns
from fedvlr_jax.benchmark.task import Task
from fedvlr_jax.io.interrupt import Interrupt
from tests.problems import tiny_dataset

COMPILING, CLOSED_FORM = 20.0, 1.0


@pytest.fixture(scope="module")
def config():
    found = own.get_config().to_dict()
    return found | {"methods": "popularity,ease,fcf+base,fcf+fedvlr,fcf+fedvlr*,pfedrec+base,fedrap+base"}


def benchmark(config, monkeypatch, *, minutes: float, seconds: float, slower: float = 1.0):
    """What ran, the seconds it took, and the time left that was shown beside the seconds that were left."""
    time, dataset, shown = [0.0], tiny_dataset(), []
    methods = list_methods(config, dataset).methods
    clock = Clock(
        {m.name: job_of(m, config, dataset) for m in methods},
        {m.name: num_programs(m) for m in methods},
        seconds=60 * minutes,
        now=lambda: time[0],
    )
    done: set = set()

    def spend(task, method, followed=None, cache=None):
        points = points_within(task.extent, len(method.grid) or 1) if method.settings and not method.follows else [0]
        seeds = range(task.extent.search_seeds) if len(points) > 1 else ()
        keys = [(k, seed) for k in points for seed in seeds] + [
            (points[0], seed) for seed in range(task.extent.seeds)
        ]
        for key in [key for key in dict.fromkeys(keys) if (method.name, key) not in done]:
            with clock.lap(method.name, [key]) as compiled:
                if not method.settings:
                    time[0] += CLOSED_FORM
                else:
                    first = not any(name == method.name for name, _ in done) and num_programs(method)
                    time[0] += COMPILING * bool(first) + seconds * (slower if method.host != "fcf" else 1.0)
                    compiled(COMPILING * bool(first))
            done.add((method.name, key))
        return MethodRuns(
            method.name, method.family, method.host, method.variant, {}, len(points), (0,), (), (), (), 0.0
        )

    monkeypatch.setattr(central, "run_method", spend)
    monkeypatch.setattr(federated, "run_method", spend)
    task = Task(config, dataset, None, None, Interrupt(), clock, whole_extent(config))

    def report(line: str) -> None:
        shown.append((time[0], line))

    ran = loop.run_within(task, methods, parse_names(config["priority"]), report)
    return ran, time[0], shown, methods


def test_everything_runs_where_there_is_time(config, monkeypatch):
    ran, _, _, methods = benchmark(config, monkeypatch, minutes=600, seconds=10)
    assert (set(ran.records), ran.cuts) == ({m.name for m in methods}, ())


@pytest.mark.parametrize(("minutes", "seconds", "slower"), [(7, 10, 1), (5, 8, 1), (10, 10, 4), (20, 30, 3)])
def test_the_budget_holds_and_what_is_cut_is_said(config, monkeypatch, minutes, seconds, slower):
    ran, spent, _, methods = benchmark(config, monkeypatch, minutes=minutes, seconds=seconds, slower=slower)
    assert 0.5 * 60 * minutes < spent <= 1.05 * 60 * minutes
    assert {"popularity", "ease", "fcf+base"} <= set(ran.records)
    assert all(m.name in ran.records or any(m.name in cut for cut in ran.cuts) for m in methods)
    assert ran.cuts


def test_methods_are_given_up_from_the_end_of_the_priority(config, monkeypatch):
    ran, _, _, methods = benchmark(config, monkeypatch, minutes=3, seconds=10)
    order = by_priority(
        [m.name for m in methods if not m.follows], [p.strip() for p in config["priority"].split(",")]
    )
    kept = [name in ran.records for name in order]
    assert kept == sorted(kept, reverse=True)
    assert not all(kept)


def test_the_time_left_is_right_within_a_factor_of_two_once_a_federated_method_ran(config, monkeypatch):
    _, end, shown, _ = benchmark(config, monkeypatch, minutes=12, seconds=10)
    for at, line in shown:
        if "ease" in line or "popularity" in line or end - at < 60:
            continue
        number, unit = line.split("about ")[1].split(" left")[0].split()
        left = float(number) * (60 if unit == "min" else 1)
        assert 0.5 * (end - at) <= left <= 2 * (end - at), line


def test_seconds_count_what_is_formed_before_the_rounds(tmp_path, monkeypatch):
    changes = TINY | {"variant": "base", "host.choose_prior": True}
    fields = {f"train.{name}": value for name, value in changes.items() if name != "baselines"}
    fields |= {"own": "fedprior+base", "methods": "fedprior+base", "seeds": 2}
    command = [f"--config={ROOT}/configs/benchmark/quick.py", f"--workdir={tmp_path}"]
    begin = time.perf_counter()
    assert run_here(monkeypatch, "benchmark", *command, *(f"--config.{k}={x}" for k, x in fields.items())) == 0
    most = time.perf_counter() - begin
    results = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/*/result.json")]
    assert 0 < sum(result["seconds_before"] for result in results) < most
    for result in results:
        clocks = [result[f"seconds_{clock}"] for clock in ("before", "train", "eval", "compile")]
        assert result["seconds"] == pytest.approx(sum(clocks))
