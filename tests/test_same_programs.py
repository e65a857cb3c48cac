"""When two programs of the tests count as the same."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import settings, tiny_dataset
from same_programs import same

from fedvlr_jax.algorithm import make_algorithm


def scaled(by):
    return lambda x: by * x


def moved(by):
    return lambda x: by + x


class Unknown:
    """Compared by identity, like all that `same` does not look into."""


@pytest.mark.parametrize(
    "make",
    [
        lambda by: scaled(by),
        lambda by: scaled(scaled(by)),
        lambda by: scaled({"rate": (by, [by])}),
        lambda by: scaled(jnp.arange(3) + by),
        lambda by: functools.partial(np.add, by),
        lambda by: lambda x, y=by: x + y,
        lambda by: jax.random.key(by),
        lambda by: scaled(jax.ShapeDtypeStruct((by,), jnp.float32)),
    ],
)
def test_functions_are_the_same_where_all_they_close_over_is(make):
    assert same(make(2)) == same(make(2))
    assert same(make(2)) != same(make(3))


def test_code_types_and_objects_count():
    assert same(scaled(2)) != same(moved(2))
    assert same(1) != same(True) != same(1.0)
    assert same(np.float32(1)) != same(np.float64(1))
    assert same(scaled(Unknown())) != same(scaled(Unknown()))
    kept = Unknown()
    assert same(scaled(kept)) == same(scaled(kept))


def test_a_function_that_closes_over_itself_ends():
    def factorial(n):
        return n * factorial(n - 1) if n else 1

    assert same(factorial) == same(factorial)


@pytest.mark.parametrize(
    "changed", [{"client__lr": 0.2}, {"client__steps": 3}, {"variant": "mlp"}, {"objective": "softmax"}]
)
def test_rounds_are_the_same_for_equal_settings_alone(changed):
    first, again, other = (
        same(make_algorithm(settings(**overrides), tiny_dataset()).run) for overrides in ({}, {}, changed)
    )
    assert first == again != other
