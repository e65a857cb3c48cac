"""Utility against epsilon: which rows are points of a curve, and when there is a picture."""

from __future__ import annotations

import pytest
from benchmark_records import make_method
from problems import tiny_dataset

from fedvlr_jax.benchmark.plots_budgets import budget_curves, draw_budgets
from fedvlr_jax.benchmark.records import FEDERATED
from fedvlr_jax.benchmark.table import make_rows
from fedvlr_jax.evaluation.metrics import SELECTION_METRIC

DATASET = tiny_dataset()
NAMES = ("fcf+base", "fcf+base, eps 32", "fcf+base, eps 2", "fcf+base, gradient noise", "fcf+fedvlr, eps 8")


def rows_of(names):
    methods = [make_method(DATASET, name, FEDERATED, skill=0.2 + 0.1 * k) for k, name in enumerate(names)]
    return make_rows(methods, DATASET)


def test_methods_under_budgets_are_curves_in_the_order_of_epsilon():
    rows = rows_of(NAMES)
    curves = budget_curves(rows)
    assert {name: [epsilon for epsilon, _ in points] for name, points in curves.items()} == {
        "fcf+base": [2.0, 32.0],
        "fcf+fedvlr": [8.0],
    }
    mean = next(row for row in rows if row.method.name == "fcf+base, eps 2").scores[SELECTION_METRIC].mean
    assert curves["fcf+base"][0][1] == pytest.approx(100 * mean)


def test_there_is_a_picture_only_of_budgets():
    file, _, _, png = draw_budgets(rows_of(NAMES))
    assert file == "budgets.png"
    assert png.startswith(b"\x89PNG")
    assert draw_budgets(rows_of(["fcf+base", "fcf+base, gradient noise"])) is None
