"""Programs compiled ahead of time: their options are known to this version of XLA, and change no number."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from fedvlr_jax import compiling


def test_a_program_that_runs_once_gives_the_same_bits(monkeypatch):
    monkeypatch.setattr(compiling, "LIGHTLY", {"xla_backend_optimization_level": 1})  # tests have none
    draw = jax.jit(lambda key: 0.1 * jax.random.normal(key, (3, 4)))
    key = jax.random.key(0)
    programs = [compiling.compile_ahead(draw, key, runs_once=once)[0] for once in (False, True)]
    optimised, light = (np.asarray(program(key)) for program in programs)
    np.testing.assert_array_equal(light, optimised)


@pytest.mark.parametrize(
    ("backend", "known", "expected"), [("cpu", True, True), ("cpu", False, False), ("gpu", True, False)]
)
def test_options_are_those_of_a_cpu_where_xla_knows_them(monkeypatch, backend, known, expected):
    if not known:
        monkeypatch.setattr(compiling, "ON_CPU", {"xla_cpu_of_another_version": "1"})
    found = compiling._options.__wrapped__(backend)
    assert found == (compiling.ON_CPU if expected else {})
