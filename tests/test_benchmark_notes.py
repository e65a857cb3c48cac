"""The sentences under the tables of a benchmark speak of what is in them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from benchmark_records import make_method
from ranking_oracle import random_dataset

from fedvlr_jax.benchmark import notes, order
from fedvlr_jax.benchmark.methods import CONTROLS, VIEW_CONTROLS
from fedvlr_jax.benchmark.records import CONTROL, FEDERATED
from fedvlr_jax.benchmark.table import make_rows

FEATURES = np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32)
DATASET = dataclasses.replace(random_dataset(0, 25, 30), name="mine", V=FEATURES, C=FEATURES)
MULTIMODAL = "A gain counts as multimodal"


@pytest.mark.parametrize(
    "kinds", [(), ("swapped deviations", "best view alone"), (order.SHUFFLED,), (order.SHUFFLED, order.RANDOM)]
)
def test_notes_name_the_controls_that_were_run_and_no_other(kinds):
    methods = [make_method(DATASET, "fedblend+base", FEDERATED)]
    methods += [make_method(DATASET, f"fedblend+base, {kind}", CONTROL) for kind in kinds]
    text = "\n".join(notes.make_notes(make_rows(methods, DATASET), DATASET, {}))
    for kind in CONTROLS | VIEW_CONTROLS:
        assert (f"{kind}: " in text) == (kind in kinds), kind
    assert (MULTIMODAL in text) == (len(kinds) == 2 and order.RANDOM in kinds)
    assert ("No controls were run." in text) == (not kinds)


def test_methods_at_an_end_of_their_grid_are_named():
    inside, outside = (make_method(DATASET, name) for name in ("ease", "bpr_mf"))
    outside = outside._replace(ends=("reg 1, the largest of 4",))
    (note,) = [
        note for note in notes.make_notes(make_rows([inside, outside], DATASET), DATASET, {}) if "end of" in note
    ]
    assert note.endswith("may do better: bpr_mf (reg 1, the largest of 4).")
    assert not any("end of" in note for note in notes.make_notes(make_rows([inside], DATASET), DATASET, {}))


def test_a_table_without_popularity_says_that_nothing_is_held_against_it():
    weak, floor = make_method(DATASET, "constant", skill=0.1), make_method(DATASET, "popularity")
    for methods, said in (([weak], True), ([weak, floor], False), ([weak, floor._replace(seeds=(), ranks=())], True)):
        text = "\n".join(notes.make_notes(make_rows(methods, DATASET), DATASET, {}))
        assert ("popularity has no numbers here" in text) == said
        assert ("below that of popularity" in text) != said


def test_methods_that_were_still_gaining_at_their_last_round_are_named():
    method = make_method(DATASET, "fcf+base", FEDERATED, seeds=(0, 1, 2))
    last = [curve[-1].round for curve in method.curves]
    for best, said in (([1, 5, 5], ""), ([last[0], 5, last[2]], "fcf+base (2 of 3 seeds)")):
        rows = make_rows([method._replace(best_rounds=tuple(best))], DATASET)
        found = [x for x in notes.make_notes(rows, DATASET, {}) if "longer training" in x]
        assert [x.rpartition(": ")[2] for x in found] == ([f"{said}."] if said else [])
    once = method._replace(curves=tuple(curve[:1] for curve in method.curves), best_rounds=(5, 5, 5))
    assert not any("longer training" in x for x in notes.make_notes(make_rows([once], DATASET), DATASET, {}))
