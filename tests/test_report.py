"""Pages of runs: complete, escaped, drawn where the numbers are, and never at the cost of a result."""

from __future__ import annotations

import dataclasses
import doctest
import json
import os
import re

import numpy as np
import pytest
from benchmark_records import make_ranks
from commands import arguments, results, run_here
from html_pages import read_page
from ranking_oracle import random_dataset

from fedvlr_jax.data.summary import QUANTILES, summarise_data
from fedvlr_jax.errors import RunWarning
from fedvlr_jax.evaluation import list_metrics
from fedvlr_jax.evaluation.list_metrics import gini
from fedvlr_jax.evaluation.metrics import summarise, warm_items
from fedvlr_jax.report import charts, pages, run_page, run_parts, tables
from fedvlr_jax.report import facts as facts_of_pages
from fedvlr_jax.report.charts import Series
from fedvlr_jax.report.pages import render
from fedvlr_jax.settings import default_settings, override

HOSTILE = "</td><script>alert('x')</script> & \"q\""


@pytest.fixture(scope="module")
def dataset():
    found = random_dataset(0, 60, 40)
    planted = np.random.default_rng(1).dirichlet([1, 1, 1], 60).astype(np.float32)
    return dataclasses.replace(
        found, name=HOSTILE, planted=planted, missing_V=np.arange(40) < 4, time_span=(1e9, 1.1e9)
    )


@pytest.fixture(scope="module")
def facts(dataset):
    ranks = make_ranks(dataset, 0)
    metrics = summarise(ranks, warm_items(dataset.train_item, dataset.num_items))
    clocks = dict.fromkeys(("seconds_train", "seconds_eval", "seconds_compile", "client_updates_per_second"), 1.0)
    result = {**metrics, **clocks, "dataset": HOSTILE, "host": "fcf", "variant": "fedvlr", "rounds": 30}
    result |= {"best_round": 20, "num_dropped": 0, "num_public": 9, "num_private_per_client": 8}
    lines = [
        {"round": r, "loss": None if r == 20 else 3.0 / r, "valid": {"HR@50": r / 40, "NDCG@50": r / 90}}
        for r in (10, 20, 30)
    ]
    w_uj = np.random.default_rng(2).dirichlet([2, 1, 1], 60)
    return run_parts.RunFacts(
        settings=override(default_settings(), {"client.lr": 0.3, "data.name": HOSTILE}),
        dataset=dataset,
        result=result,
        baselines=[{"name": "popularity", "hyper": {}, "summary": metrics}],
        environment={"command": ["experiments/train.py", f"--config={HOSTILE}"], "python": "3", "packages": {}},
        curve=lines,
        ranks=ranks,
        views=("sum", "mlp", HOSTILE),
        weights_uj=w_uj,
        learned_um=w_uj.astype(np.float32),
    )


def test_a_page_is_whole_loads_nothing_and_escapes_what_comes_from_data(facts, tmp_path):
    text = run_parts.run_page(facts, "x")
    page = read_page(text, tmp_path)
    assert text.count("<script>") == 1  # the page's own
    assert "&lt;script&gt;alert" in text
    words = "".join(page.words)
    assert HOSTILE in words  # and reads as it is
    for title in (
        "Results",
        "Curves",
        "Groups",
        "Router weights",
        "Preferences",
        "Settings",
        "Times",
        "How to go on",
    ):
        assert title in words, title
    assert any(row.startswith("client.lr\t0.3\t0.1\t") for row in page.rows)
    assert len(text) < 200_000


def test_a_page_leaves_out_what_a_run_does_not_have(facts, dataset, tmp_path):
    without = dataclasses.replace(dataset, planted=None, test_item=np.full(60, -1), V=None, time_span=None)
    ranks = facts.ranks._replace(item=np.stack([dataset.valid_item, without.test_item]))
    metrics = summarise(ranks, warm_items(dataset.train_item, 40))
    bare = facts._replace(dataset=without, ranks=ranks, weights_uj=None, learned_um=None, curve=[], baselines=[])
    text = run_parts.run_page(bare._replace(result=facts.result | metrics, environment={}), "x")
    words = "".join(read_page(text, tmp_path).words)
    for title in ("Curves", "Groups", "Router weights", "Preferences", "Time span"):
        assert title not in words, title
    assert "Visual featuresnone" in words
    assert "fedvlr-evaluate --workdir=runs/x --recommend=10" in words


def test_statistics_of_the_data_equal_their_definitions(dataset):
    found = summarise_data(dataset)
    count = [int((dataset.train_item == i).sum()) for i in range(40)]
    pairs = sum(abs(a - b) for a in count for b in count)
    assert found.gini == pytest.approx(pairs / (2 * 40 * sum(count)), abs=1e-12)
    assert gini(np.zeros(3)) is None
    cold = sum(count[i] == 0 for i in dataset.test_item)
    assert (found.unseen_items, found.cold_test_rows, found.test_rows) == (count.count(0), cold, 60)
    assert found.interactions == sum(count) + 120
    assert found.density == found.interactions / 2400
    lengths = sorted(int((dataset.train_user == u).sum()) for u in range(60))
    assert (found.history_q[0], found.history_q[2], found.history_q[-1]) == (
        lengths[0],
        (lengths[29] + lengths[30]) / 2,
        lengths[-1],
    )
    assert len(found.history_q) == len(QUANTILES)
    assert found.missing == {"V": 4, "C": None}


def test_a_line_goes_through_its_points():
    """The pixels of a line, back through the axes, are the data; what is not finite is left out."""
    x, y = np.array([0.0, 10.0, 20.0, 40.0]), np.array([1.0, np.nan, 3.0, 2.0])
    drawn = charts.lines([Series("<b>", x, y)], x_name="a & b", mark=20.0)
    (points,) = re.findall(r'points="([^"]*)"', drawn)
    at = np.array([pair.split(",") for pair in points.split()], float)
    np.testing.assert_allclose(
        at[:, 0], charts.LEFT + x[[0, 2, 3]] / 40 * (charts.WIDTH - charts.RIGHT - charts.LEFT)
    )
    slope = (at[1, 1] - at[0, 1]) / 2  # pixels a unit of y, upwards
    assert slope < 0
    np.testing.assert_allclose(at[:, 1], at[0, 1] + slope * (y[[0, 2, 3]] - 1), atol=0.11)
    mark = f'x1="{at[1, 0]:.1f}" x2="{at[1, 0]:.1f}"'
    assert mark in drawn
    assert "&lt;b&gt;" in drawn
    assert "a &amp; b" in drawn
    assert charts.lines([Series("", x, np.full(4, np.nan))], x_name="") == ""


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3e-7, 2e-6), (5, 30), (0.5, 0.5000001), (-1, 1e9)])
def test_ticks_are_round_and_inside(low, high):
    ticks = charts.round_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert all(low - 1e-9 * abs(low) <= tick <= high + 1e-9 * abs(high) for tick in ticks)
    steps = np.diff(ticks)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)


def test_equal_values_and_single_points_are_drawn():
    one = np.array([5.0])
    assert "circle" in charts.lines([Series("x", one, one)], x_name="")
    assert "NaN" not in charts.clouds([Series("x", np.zeros(4), np.zeros(4))], x_name="").replace("nan", "NaN")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            ["experiments/train.py", "--workdir", "runs/y", "--config=a b"],
            "python experiments/train.py --workdir runs/y",
        ),
        (["/bin/fedvlr-train", "-workdir=runs/y"], "fedvlr-train -workdir=runs/y"),
        (["notebook.py"], "fedvlr-evaluate --workdir=runs/x --recommend=10"),
        ([], "fedvlr-evaluate --workdir=runs/x --recommend=10"),
    ],
)
def test_the_commands_to_go_on_are_those_of_the_run(command, expected):
    first, *others = run_parts.go_on(command, "x")
    assert first.startswith(expected)
    place = "runs/y" if command[1:] else "runs/x"
    assert all(f"--workdir={place}" in line for line in others)


def test_a_template_that_names_what_is_not_there_fails():
    with pytest.raises(Exception, match="undefined"):
        render("run.html", title="x")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir, patch = tmp_path_factory.mktemp("run"), pytest.MonkeyPatch()
    assert run_here(patch, "train", *arguments(workdir, rounds=20)) == 0
    patch.undo()
    return workdir


@pytest.mark.slow
def test_training_writes_a_page_and_the_command_writes_it_again(monkeypatch, capsys, finished):
    page = finished / "report.html"
    before = page.read_text()
    read_page(before, finished)
    page.write_text("lost")
    assert run_here(monkeypatch, "train", *arguments(finished, rounds=20)) == 0
    assert page.read_text() == "lost"  # the page of a finished run is left as it is
    assert run_here(monkeypatch, "report", f"--workdir={finished}") == 0
    assert str(page) in capsys.readouterr().out
    assert page.read_text() == before


@pytest.mark.slow
def test_a_page_shows_one_end_of_a_run(monkeypatch, capsys, finished):
    """A run that goes on has an older result until its end, and an older page until that is written."""
    page, result = finished / "report.html", finished / "result.json"
    assert run_here(monkeypatch, "report", f"--workdir={finished}") == 0
    kept = result.read_text()
    try:
        result.write_text(json.dumps(json.loads(kept) | {"rounds": 10, "best_round": 10}))
        capsys.readouterr()
        assert run_here(monkeypatch, "report", f"--workdir={finished}") == 2
        found = "found the result of 10 rounds (the best is 10) beside a checkpoint of 20 (the best is"
        assert found in capsys.readouterr().err
    finally:
        result.write_text(kept)
    page.write_text("of fewer rounds")
    os.utime(page, ns=(0, result.stat().st_mtime_ns - 1))
    assert run_here(monkeypatch, "train", *arguments(finished, rounds=20)) == 0
    read_page(page.read_text(), finished)


@pytest.mark.slow
def test_a_run_outlives_a_page_that_cannot_be_written(monkeypatch, finished):
    def fail(*_):
        raise RuntimeError("no page today")

    kept = results(finished)
    (finished / "report.html").unlink(missing_ok=True)
    monkeypatch.setattr(run_page, "run_page", fail)
    with pytest.warns(RunWarning, match=r"report\.html was not written: RuntimeError: no page today"):
        assert run_here(monkeypatch, "train", *arguments(finished, rounds=20)) == 0
    assert results(finished) == kept


def test_a_page_of_no_finished_run_is_refused(monkeypatch, capsys, tmp_path):
    assert run_here(monkeypatch, "report", f"--workdir={tmp_path}") == 2
    assert "no config.json there" in capsys.readouterr().err
    assert run_here(monkeypatch, "report") == 2
    assert "--workdir is missing" in capsys.readouterr().err


@pytest.mark.parametrize("module", [charts, facts_of_pages, pages, run_parts, list_metrics, tables])
def test_examples_give_what_they_say(module):
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0
