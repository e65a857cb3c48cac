"""A metric is one function and one row of `METRICS`: summaries and printed tables have it without another edit."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
from benchmark_records import whole_benchmark
from ranking_oracle import random_dataset

from fedvlr_jax.benchmark import groups, tables
from fedvlr_jax.benchmark.report import write_report
from fedvlr_jax.benchmark.table import make_rows
from fedvlr_jax.evaluation import metrics
from fedvlr_jax.io.files import read_csv
from fedvlr_jax.io.tables import result_table


def first_rank(greater, tied, k):
    """Toy: whether the best possible rank is within the list."""
    return (np.asarray(greater) < k).astype(float)


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(metrics.METRICS, "TOY", first_rank)
    return [f"TOY@{k}" for k in metrics.CUTOFFS]


@pytest.fixture(scope="module")
def dataset():
    return random_dataset(0, 40, 60, density=0.15)


@pytest.fixture(scope="module")
def methods(dataset):
    return [method for method in whole_benchmark(dataset, seeds=(0, 1)) if method.host in ("fcf", "")]


def summary_of(method, dataset):
    return metrics.summarise(method.ranks[0], metrics.warm_items(dataset.train_item, dataset.num_items))


def test_summaries_have_a_new_metric(toy, dataset, methods):
    summary = summary_of(methods[0], dataset)
    for group in ("valid", "test", "valid_warm", "valid_cold", "test_warm", "test_cold"):
        assert set(toy) <= set(summary[group])
    greater = methods[0].ranks[0].greater[metrics.TEST][dataset.test_item >= 0]
    assert summary["test"]["TOY@10"] == pytest.approx((greater < 10).mean())


@pytest.mark.slow
def test_benchmark_tables_have_a_new_metric(toy, dataset, methods, tmp_path: pathlib.Path):
    rows = make_rows(methods, dataset)
    main, shorter = tables.main_table(rows, dataset.name), tables.cutoff_table(rows)
    assert {"TOY@50", "warm TOY@50", "cold TOY@50"} <= set(main.columns)
    assert {"TOY@10", "TOY@20"} <= set(shorter.columns)
    for table in (main, shorter):
        assert all(len(cells) == len(table.columns) for block in table.blocks for cells in block.rows)
    (first, *_) = tables.group_tables(groups.make_groups(methods, dataset), rows)
    assert "HR@50/NDCG@50/TOY@50" in first.about
    write_report(methods, dataset, tmp_path, {})
    assert set(toy) <= {line["metric"] for line in read_csv(tmp_path / "table.csv")}


def test_the_table_of_a_run_has_a_new_metric_and_a_hyphen_where_it_was_not_measured(toy, dataset, methods):
    clocks = {f"seconds_{clock}": 1.0 for clock in ("train", "eval", "compile")}
    result = {"host": "fcf", "variant": "base", "dataset": "x", "best_round": 1, "num_dropped": 0, **clocks}
    result |= {"client_updates_per_second": 1.0, **summary_of(methods[0], dataset)}
    old = {name: value for name, value in result["test"].items() if not name.startswith("TOY")}
    baselines = [{"name": "ease", "hyper": {}, "summary": {**result, "test": old}}]
    _, header, _, run, baseline, *_ = result_table(result, baselines).splitlines()
    assert set(toy) <= set(header.split())
    at = header.split().index("TOY@20") + len(["fcf", "+", "base"])
    assert float(run.split()[at]) == pytest.approx(100 * result["test"]["TOY@20"], abs=0.01)
    assert baseline.count(" - ") == len(toy)


def test_metrics_for_summaries_alone_are_not_printed():
    assert set(metrics.METRICS) >= metrics.SUMMARY_ONLY
    assert metrics.printed_metrics(10, 50) == ("HR@10", "NDCG@10", "HR@50", "NDCG@50")
    assert metrics.main_metrics() == ("HR@50", "NDCG@50")
    assert metrics.SELECTION_METRIC == "NDCG@50"
