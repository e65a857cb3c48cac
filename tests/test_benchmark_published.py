"""The paper's numbers by the names of our methods, and which of them a constant function has."""

from __future__ import annotations

import numpy as np
import pytest
from ranking_oracle import load_real, lowest_index_ranks

from fedvlr_jax.benchmark.published import (
    PAPER_BASELINES,
    PAPER_HOSTS,
    PAPER_VARIANTS,
    ROWS,
    equals_constant,
    published,
)

SETS = ("Beauty", "Cards", "ML", "KU", "Dance", "Food", "Movie")
PRINTED = {  # (set, method): HR@50, NDCG@50 in percent, typed from the paper
    ("KU", "vbpr"): (44.12, 15.47),
    ("KU", "pgl"): (46.57, 20.13),
    ("KU", "fedavg+base"): (11.27, 5.62),
    ("KU", "fedavg+vbpr"): (51.47, 14.91),
    ("KU", "fcf+fedvlr"): (55.39, 15.97),
    ("KU", "fedncf+mlp"): (28.43, 6.91),
    ("ML", "bm3"): (18.36, 4.91),
    ("ML", "mgcn"): (25.74, 7.10),
    ("ML", "fedavg+vbpr"): (7.87, 3.36),
    ("ML", "pfedrec+base"): (11.31, 3.67),
    ("ML", "fedrap+fedvlr"): (12.79, 4.15),
    ("Movie", "fedncf+fedvlr"): (4.06, 1.25),
}


def all_numbers(dataset: str) -> dict[str, dict[str, float]]:
    names = [*PAPER_BASELINES, *(f"{host}+{variant}" for host in PAPER_HOSTS for variant in PAPER_VARIANTS)]
    return {name: numbers for name in names if (numbers := published(dataset, name))}


@pytest.mark.parametrize("dataset", SETS)
def test_every_row_of_the_paper_has_a_method(dataset):
    found = all_numbers(dataset)
    lacking = {f"{host}+vbpr" for host in PAPER_HOSTS} - {"fedavg+vbpr"}
    if dataset in ("Dance", "Movie"):  # FedAvg+VBPR is not printed there
        lacking.add("fedavg+vbpr")
    assert set(found) == set(ROWS) - lacking
    assert len(found) == (19 if dataset in ("Dance", "Movie") else 20)
    assert all(set(numbers) == {"HR@50", "NDCG@50"} for numbers in found.values())
    assert all(0 < numbers["NDCG@50"] < numbers["HR@50"] < 1 for numbers in found.values())
    assert len({tuple(numbers.values()) for numbers in found.values()}) > 16  # no row read twice


@pytest.mark.parametrize(("dataset", "method"), PRINTED)
def test_numbers_are_those_printed(dataset, method):
    hit, gain = PRINTED[dataset, method]
    assert published(dataset, method) == {"HR@50": round(hit / 100, 4), "NDCG@50": round(gain / 100, 4)}
    assert published(dataset.lower(), method) == published(dataset, method)


@pytest.mark.parametrize("method", ["ease", "fcf+fedvlr, shuffled features", "own+fedvlr", "", "method"])
def test_other_methods_and_sets_have_no_numbers(method):
    assert published("KU", method) == {}
    assert published("synthetic", "fcf+fedvlr") == {}


def test_the_marked_rows_are_exactly_those_that_a_constant_function_has(ku_folder):
    ku = load_real(ku_folder)
    masked_ui = np.zeros((ku.num_users, ku.num_items), bool)
    masked_ui[ku.train_user, ku.train_item] = True
    constant = set()
    for also_first in (False, True):
        masked_ui[:, 0] |= also_first
        rank_u = lowest_index_ranks(np.zeros(masked_ui.shape), masked_ui, ku.test_item)
        gain_u = np.where(rank_u <= 50, 1 / np.log2(rank_u + 1), 0)
        constant.add((round(float(np.mean(rank_u <= 50)), 4), round(float(gain_u.mean()), 4)))
    numbers = {name: tuple(values.values()) for name, values in all_numbers("KU").items()}
    marked = {name for name in numbers if equals_constant("KU", name)}
    assert marked == {name for name, pair in numbers.items() if pair in constant} == {"fcf+fedvlr", "fedavg+fedvlr"}
    assert not any(equals_constant("ML", name) for name in ROWS)
