"""The benchmark as a command: what it writes, how it goes on, and what it refuses."""

from __future__ import annotations

import csv
import functools
import json
import shutil
import signal
import time
import types

import numpy as np
import pytest
from commands import ROOT, TINY, finish, run_here, start

from configs.benchmark import base
from fedvlr_jax.baselines import BASELINES
from fedvlr_jax.benchmark import central, federated, searching
from fedvlr_jax.benchmark.budget import Extent
from fedvlr_jax.benchmark.methods import Method
from fedvlr_jax.benchmark.runner import run_benchmark
from fedvlr_jax.data import synthetic as generator
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.io.files import write_json
from fedvlr_jax.settings import default_settings

METHODS = "constant,popularity,fed_ease,bpr_mf,fcf+base,fcf+vbpr,local-only"
SMALL = {
    "methods": METHODS,
    "baseline_points": 2,
    "epochs": 10,
    "seeds": 2,
    **{f"train.{name}": value for name, value in TINY.items() if name not in ("variant", "baselines")},
    "train.data.synthetic.num_users": 25,  # enough for an interval
    "train.data.synthetic.num_interactions": 180,
}


def flags(workdir, **overrides) -> list[str]:
    fields = SMALL | {name.replace("__", "."): value for name, value in overrides.items()}
    return [
        f"--config={ROOT}/configs/benchmark/quick.py",
        *(f"--config.{name}={value}" for name, value in fields.items()),
        f"--workdir={workdir}",
    ]


def table(workdir) -> dict[tuple[str, str], dict[str, str]]:
    with (workdir / "table.csv").open() as file:
        return {(row["method"], row["metric"]): row for row in csv.DictReader(file)}


def result_files(workdir) -> dict[str, int]:
    """When each run of the benchmark was finished."""
    return {str(path.relative_to(workdir)): path.stat().st_mtime_ns for path in workdir.glob("runs/*/*/result.json")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("benchmark")
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert run_here(monkeypatch, "benchmark", *flags(workdir)) == 0
    return workdir


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


@pytest.mark.slow
def test_it_writes_one_folder_a_run_and_all_reports(finished):
    runs = {path.name for path in (finished / "runs" / "fcf+base").iterdir()}
    assert {f"point{k}-seed0" for k in range(4)} <= runs
    assert len(runs) == 4 + 1  # the chosen point has two seeds, one of which the search has run
    for name in ("table.csv", "table.md", "table.tex", "report.html", "environment.json"):
        assert (finished / name).stat().st_size > 0
    assert len(list((finished / "plots").glob("*.png"))) >= 3


@pytest.mark.slow
def test_the_table_holds_the_means_of_the_runs_at_the_point_that_validation_chose(finished):
    folders = sorted((finished / "runs" / "fcf+base").iterdir())
    read = {f.name: json.loads((f / "result.json").read_text()) for f in folders}
    best = max(range(4), key=lambda k: (read[f"point{k}-seed0"]["best_valid"], -k))
    mean = np.mean([read[f"point{best}-seed{s}"]["test"]["NDCG@50"] for s in (0, 1)])
    row = table(finished)["fcf+base", "NDCG@50"]
    assert float(row["mean"]) == pytest.approx(mean, abs=1e-12)
    assert float(row["ci_low"]) <= mean <= float(row["ci_high"])


@pytest.mark.slow
def test_a_gradient_trained_baseline_searches_its_points_and_runs_its_seeds(finished):
    folders = sorted((finished / "runs" / "bpr_mf").iterdir())
    read = {f.name: json.loads((f / "result.json").read_text()) for f in folders}
    best = max((0, 1), key=lambda k: (read[f"point{k}-seed0"]["best_valid"], -k))
    assert set(read) == {"point0-seed0", "point1-seed0", f"point{best}-seed1"}
    mean = np.mean([read[f"point{best}-seed{s}"]["test"]["HR@50"] for s in (0, 1)])
    assert float(table(finished)["bpr_mf", "HR@50"]["mean"]) == pytest.approx(mean, abs=1e-12)


def test_a_single_baseline_may_try_more_points_than_the_others(tmp_path, monkeypatch):
    task = types.SimpleNamespace(
        config={"baseline_points": 2, "baseline_points_of": {"bpr_mf": 3}}, extent=Extent(0, 1, 1)
    )
    requested = {}

    def fit(task, method, learner, points, wanted):
        requested[method.name] = list(points)
        return dict.fromkeys(wanted, "not run")

    monkeypatch.setattr(central, "_fit", fit)
    for name in ("bpr_mf", "vbpr"):
        central._learned(task, Method(name, "centralised", "", "", {}, ()), BASELINES[name])
    assert [len(requested[name]) for name in ("bpr_mf", "vbpr")] == [3, 2]


def test_a_control_takes_of_the_chosen_point_what_it_leaves_open(tmp_path, monkeypatch):
    task = types.SimpleNamespace(extent=Extent(0, 1, 1), folder=lambda name, run: tmp_path / run)
    grid = tuple({"server.lr": rate, "client.lr": 1.0} for rate in (0.01, 0.03))
    fixed = {"server.lr": 0.0}
    control = Method("fcf+base, still", "control", "fcf", "base", default_settings(), grid, "fcf+base", fixed)
    tried = []
    monkeypatch.setattr(federated, "_run_all", lambda task, method, points, wanted, cache: tried.append(points) or {})
    followed = types.SimpleNamespace(hyper=grid[1], seeds=(0,))
    assert federated.run_method(task, control, followed, {}).hyper == {"client.lr": 1.0}
    assert tried[-1] == {1: {"client.lr": 1.0}}


def test_a_control_goes_on_where_another_budget_chose_another_point(tmp_path, monkeypatch):
    """Its runs have the number of the point; those that a benchmark without a budget called 0 are found again."""
    task = types.SimpleNamespace(extent=Extent(0, 1, 1), folder=lambda name, run: tmp_path / run)
    grid = tuple({"client.lr": rate} for rate in (0.1, 0.3, 1.0))
    control = Method("fcf+base, still", "control", "fcf", "base", default_settings(), grid, "fcf+base", {})
    tried = []
    monkeypatch.setattr(federated, "_run_all", lambda task, method, points, wanted, cache: tried.append(points) or {})

    def number_of(chosen):
        federated.run_method(task, control, types.SimpleNamespace(hyper=grid[chosen], seeds=(0,)), {})
        return list(tried[-1])

    config = federated._config(control, grid[1], 0)
    (tmp_path / "point0-seed0").mkdir()
    write_json(tmp_path / "point0-seed0" / "config.json", config)  # begun, not finished
    assert number_of(2) == [2]
    monkeypatch.setattr(federated.storage, "find", lambda folder, wanted, **_: wanted == config or None)
    assert number_of(1) == [0]


def test_sizes_are_those_of_the_chosen_point(monkeypatch):
    class Run(types.SimpleNamespace):
        curve, ranks = (), None

    monkeypatch.setattr(searching, "Stored", Run)
    results = {k: {"seconds": 1.0, "best_round": 1, "num_public": size} for k, size in ((0, 160), (1, 2560))}
    tried = {(k, 0): Run(result=result) for k, result in results.items()}
    method = Method("fcf+base", "federated", "fcf", "base", {}, ({}, {}))
    assert searching.collect(method, {}, method.grid, tried, {(1, 0): tried[1, 0]}).num_public == 2560


def test_points_of_what_has_no_grid_to_train_are_refused():
    config = base.get_config().to_dict() | {"baseline_points_of": {"ease": 0}}
    with pytest.raises(ConfigError, match=r"baseline_points_of: expected names among bpr_mf, .* found 'ease'"):
        run_benchmark(config, None, None, interrupt=None, report=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search_seeds": 0}, "search_seeds: expected an integer of at least 1, found 0"),
        ({"group": -2}, "group: expected an integer of at least 0, found -2"),
        ({"baseline_points": -3}, "baseline_points: expected an integer of at least 0, found -3"),
        (
            {"baseline_points_of": {"vbpr": -1}},
            "baseline_points_of.vbpr: expected an integer of at least 0, found -1",
        ),
        ({"epochs": 0}, "epochs: expected an integer of at least 1, found 0"),
        ({"epochs_every": 0}, "epochs_every: expected an integer of at least 1, found 0"),
        ({"epochs_patience": -1}, "epochs_patience: expected an integer of at least 1, found -1"),
        ({"bucket_growth": 0.5}, "bucket_growth: expected a number above 1, found 0.5"),
        ({"bucket_growth": float("nan")}, "bucket_growth: expected a number above 1, found nan"),
        ({"minutes": -1.0}, "minutes: expected at least 0 (0 = no limit), found -1.0"),
    ],
)
def test_numbers_out_of_range_are_refused_before_anything_runs(changes, message, tmp_path):
    config = base.get_config().to_dict() | changes
    with pytest.raises(ConfigError) as error:
        run_benchmark(config, None, tmp_path, interrupt=None, report=print)
    assert str(error.value) == message
    assert not list(tmp_path.iterdir())


def test_points_of_a_bounded_grid_are_spread_evenly():
    grid = [{"k": k} for k in range(8)]
    assert central._spread(grid, 2) == [{"k": 2}, {"k": 6}]
    assert central._spread(grid, 0) == central._spread(grid, 9) == grid


@pytest.mark.slow
def test_a_closed_form_that_is_computed_federated_counts_its_one_round(finished):
    results = {
        m: json.loads((finished / "runs" / m / "all" / "result.json").read_text()) for m in ("fed_ease", "constant")
    }
    assert results["fed_ease"]["best_round"] == 1
    assert results["fed_ease"]["megabytes_per_round"] > 0.001
    assert "megabytes_per_round" not in results["constant"]
    assert "fed_ease" in (finished / "table.md").read_text()


@pytest.mark.slow
def test_a_finished_benchmark_is_not_run_again(copied, monkeypatch):
    before, text = result_files(copied), (copied / "table.csv").read_text()

    def refuse(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(federated, "train_group", refuse)
    monkeypatch.setattr(central, "fit_learner", refuse)
    assert run_here(monkeypatch, "benchmark", *flags(copied)) == 0
    assert result_files(copied) == before
    assert (copied / "table.csv").read_text() == text


@pytest.mark.slow
def test_a_benchmark_goes_on_where_a_setting_was_added_since(copied, monkeypatch):
    for path in [copied / "benchmark.json", *copied.glob("runs/fcf+*/*/config.json")]:
        stored = json.loads(path.read_text())
        del (stored["config"]["train"] if path.name == "benchmark.json" else stored)["aggregation"]
        path.write_text(json.dumps(stored))
    before, text = result_files(copied), (copied / "table.csv").read_text()
    monkeypatch.setattr(federated, "train_group", lambda *_, **__: pytest.fail("trained again"))
    assert run_here(monkeypatch, "benchmark", *flags(copied)) == 0
    assert result_files(copied) == before
    assert (copied / "table.csv").read_text() == text


@pytest.mark.slow
def test_what_is_missing_is_run_and_nothing_else(copied, monkeypatch):
    before, text = result_files(copied), (copied / "table.csv").read_text()
    shutil.rmtree(copied / "runs" / "fcf+vbpr")
    assert run_here(monkeypatch, "benchmark", *flags(copied)) == 0
    after = result_files(copied)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {n for n in before if "fcf+vbpr" in n}
    assert (copied / "table.csv").read_text() == text  # the same seeds give the same numbers


@pytest.mark.slow
def test_a_crashed_run_marks_its_row_and_the_table_is_still_written(copied, monkeypatch, capsys):
    shutil.rmtree(copied / "runs" / "fcf+vbpr")

    def crash(*_, **__):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(federated, "train_group", crash)
    assert run_here(monkeypatch, "benchmark", *flags(copied)) == 0
    assert "FAILED: RuntimeError: out of luck" in capsys.readouterr().err
    assert "out of luck" in (copied / "table.md").read_text()
    assert "out of luck" in (copied / "report.html").read_text()
    monkeypatch.undo()
    assert run_here(monkeypatch, "benchmark", *flags(copied)) == 0  # a failed run is tried again
    assert "out of luck" not in (copied / "table.md").read_text()


@pytest.mark.slow
def test_test_labels_choose_neither_points_nor_rounds(finished, tmp_path, monkeypatch):
    @functools.wraps(generator.generate)
    def other_test_items(**arguments):
        dataset = generator.generate(**arguments)
        rng = np.random.default_rng(5)
        for user in range(dataset.num_users):
            own = set(dataset.train_item[dataset.train_user == user]) | {int(dataset.valid_item[user])}
            dataset.test_item[user] = rng.choice(sorted(set(range(dataset.num_items)) - own))
        return dataset

    monkeypatch.setattr("fedvlr_jax.data.generate", other_test_items)
    assert run_here(monkeypatch, "benchmark", *flags(tmp_path, methods="fcf+base,ease,item_knn")) == 0
    for path in (finished / "runs" / "fcf+base").glob("*/result.json"):
        ours = json.loads(path.read_text())
        theirs = json.loads((tmp_path / path.relative_to(finished)).read_text())
        assert theirs["best_round"] == ours["best_round"]
        assert theirs["valid"] == ours["valid"]
    means = (table(tmp_path)["fcf+base", "NDCG@50"]["mean"], table(finished)["fcf+base", "NDCG@50"]["mean"])
    assert means[0] != means[1]  # the labels did change


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": "fcf+bsae"}, "did you mean 'fcf+base'?"),
        ({"seeds": 0}, "seeds: expected an integer of at least 1, found 0"),
        ({"train__rounds": 7}, "holds another benchmark"),
        ({"train__data__synthetic__seed": 4}, "holds another benchmark"),
        ({"train__data__name": "nowhere", "train__data__dir": "/none"}, "nowhere"),
    ],
)
def test_bad_input_is_refused(copied, monkeypatch, capsys, changes, message):
    before = result_files(copied)
    assert run_here(monkeypatch, "benchmark", *flags(copied, **changes)) == 2
    assert message in capsys.readouterr().err
    assert result_files(copied) == before


def test_a_training_configuration_is_refused(tmp_path, monkeypatch, capsys):
    assert run_here(monkeypatch, "benchmark", f"--config={ROOT}/configs/ku.py", f"--workdir={tmp_path}/x") == 2
    assert "expected a benchmark, such as configs/benchmark/ku.py" in capsys.readouterr().err


def test_a_workdir_with_a_training_run_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "result.json").write_text("{}")
    assert run_here(monkeypatch, "benchmark", *flags(tmp_path)) == 2
    assert "holds other runs, but no benchmark" in capsys.readouterr().err


def test_an_interval_needs_enough_users(tmp_path, monkeypatch):
    few = {"train__data__synthetic__num_users": 12, "train__data__synthetic__num_interactions": 90}
    assert run_here(monkeypatch, "benchmark", *flags(tmp_path, methods="popularity", **few)) == 0
    row = table(tmp_path)["popularity", "NDCG@50"]
    assert row["mean"] != ""
    assert row["ci_low"] == row["ci_high"] == ""


@pytest.mark.slow
def test_a_killed_benchmark_goes_on_and_repeats_nothing(finished, tmp_path):
    process = start("benchmark", *flags(tmp_path))
    deadline = time.monotonic() + 180
    while len(result_files(tmp_path)) < 6 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    finish(process)
    before = result_files(tmp_path)
    assert len(before) >= 6
    code, _, err = finish(start("benchmark", *flags(tmp_path)), timeout=300)
    assert code == 0, err
    after = result_files(tmp_path)
    assert {name: after[name] for name in before} == before
    assert after.keys() == result_files(finished).keys()
    assert (tmp_path / "table.csv").read_text() == (finished / "table.csv").read_text()
