"""Whole lists of baselines, and in the report of a benchmark."""

from __future__ import annotations

import numpy as np
import pytest
from benchmark_records import make_method
from list_oracle import gini_of
from ranking_oracle import one_bucket, random_dataset

from fedvlr_jax.baselines import BASELINES, select
from fedvlr_jax.baselines.learning import fit_learner
from fedvlr_jax.benchmark.list_tables import calibration_rows, list_tables
from fedvlr_jax.benchmark.report import write_report
from fedvlr_jax.benchmark.table import make_rows
from fedvlr_jax.io.files import read_csv

DATASET = random_dataset(0, 40, 60, density=0.15)


@pytest.fixture(scope="module")
def selected():
    return {name: select(DATASET, one_bucket(DATASET), name, lists=True) for name in ("popularity", "constant")}


def test_lists_of_a_baseline_are_those_of_its_scores(selected):
    """Equal scores for all items show every candidate equally often, and popularity shows what is most popular."""
    constant, popularity = (selected[name].summary["lists"] for name in ("constant", "popularity"))
    taken_ui = np.zeros((40, 60), bool)
    taken_ui[DATASET.train_user, DATASET.train_item] = True
    exposure_i = (~taken_ui / (~taken_ui).sum(axis=1, keepdims=True)).sum(axis=0)
    assert constant["Gini@10"] == pytest.approx(gini_of(exposure_i), abs=1e-5)
    assert popularity["Popularity@10"] > constant["Popularity@10"]
    assert popularity["Novelty@10"] < constant["Novelty@10"]
    assert popularity["Coverage@10"] < constant["Coverage@10"]


def test_lists_change_nothing_else(selected):
    plain = select(DATASET, one_bucket(DATASET), "popularity")
    assert plain.summary == {name: x for name, x in selected["popularity"].summary.items() if name != "lists"}


def test_a_trained_baseline_has_lists_where_they_are_asked_for():
    learner = BASELINES["bpr_mf"]
    options = {"epochs": 2, "eval_every": 1}
    (fitted,) = fit_learner(learner, DATASET, one_bucket(DATASET), learner.grid[:1], [0], lists=True, **options)
    assert 0 < fitted.lists["Coverage@10"] <= 1


def test_the_report_has_tables_of_lists_and_the_main_table_is_as_it_was(selected, tmp_path):
    lists = selected["popularity"].summary["lists"]
    other = {**lists, "Coverage@50": lists["Coverage@50"] / 2}
    judged = make_method(DATASET, "ease", seeds=(0, 1))._replace(lists=(lists, other))
    plain = make_method(DATASET, "item_knn", seeds=(0, 1))
    rows = make_rows([judged, plain], DATASET)
    whole, calibration = list_tables(rows)
    (cells,) = whole.blocks[0].rows
    low, high = sorted(100 * x["Coverage@50"] for x in (lists, other))
    assert cells[:2] == ("ease", f"{(low + high) / 2:.2f} ± {(high - low) / np.sqrt(2):.2f}")
    assert whole.columns[4] == "Novelty@50 (bits)"
    assert cells[4] == f"{lists['Novelty@50']:.2f} ± 0.00"
    assert len(calibration.columns) == 1 + len(lists["calibration"])
    first = next(calibration_rows(rows))
    assert first[3:] == pytest.approx([lists["calibration"][0][name] for name in ("history", "list", "lift")])
    text = write_report([judged, plain], DATASET, tmp_path, {})
    assert "## Whole lists" in text
    assert len(read_csv(tmp_path / "calibration.csv")) == len(lists["calibration"])
    table = {(line["method"], line["metric"]): line["mean"] for line in read_csv(tmp_path / "table.csv")}
    assert float(table["ease", "Gini@10"]) == lists["Gini@10"]
    assert ("item_knn", "Gini@10") not in table
    without = write_report([judged._replace(lists=()), plain], DATASET, tmp_path / "..", {})
    assert without.split("## Tests")[0] == text.split("## Tests")[0]
    assert list_tables(make_rows([plain], DATASET)) == []


def test_a_data_set_without_a_train_row_of_some_length_has_no_such_group(selected):
    groups = selected["popularity"].summary["lists"]["calibration"]
    assert sum(row["users"] for row in groups) == 40
    assert all(row["users"] for row in groups)
