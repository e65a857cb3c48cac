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


def test_equal_functions_are_jitted_once():
    assert jax.jit(scaled(2)) is jax.jit(scaled(2))
    assert jax.jit(scaled(2)) is not jax.jit(scaled(3))
    assert jax.jit(scaled(2)) is not jax.jit(scaled(2), donate_argnums=0)
    assert jax.jit(donate_argnums=0)(scaled(2)) is jax.jit(scaled(2), donate_argnums=0)


def test_what_is_made_inside_of_a_trace_is_like_nothing_else():
    def outer(x):
        assert jax.jit(scaled(x)) is not jax.jit(scaled(x))
        return jax.jit(scaled(x))(2.0)

    assert jax.jit(outer)(3.0) == 6.0


def test_an_object_keeps_its_number_and_takes_it_along():
    one, other = Unknown(), Unknown()
    number = same(one)
    assert same(one) == number != same(other)
    del one
    assert all(same(Unknown()) != number for _ in range(100))  # some of them where it was


def test_while_something_is_replaced_programs_are_shared_with_nobody(monkeypatch):
    before = jax.jit(scaled(2))
    with monkeypatch.context() as patch:
        patch.setattr("fedvlr_jax.federated.sampling.COHORT", 99)
        replaced = jax.jit(scaled(2))
        assert replaced is not before
        with pytest.MonkeyPatch.context() as inner:
            inner.setitem({}, "row", 1)
            assert jax.jit(scaled(2)) not in (before, replaced)
        assert jax.jit(scaled(2)) is replaced
    monkeypatch.setattr("fedvlr_jax.io.files.write_json", None)
    monkeypatch.setenv("ROW", "1")
    assert jax.jit(scaled(2)) is before


def test_initial_states_are_the_same_whatever_the_rates_and_the_path():
    first, again, other = (
        same(make_algorithm(settings(**overrides), tiny_dataset()).init)
        for overrides in ({}, {"client__lr": 0.7, "compute__path": "uploads"}, {"fusion__dim": 4})
    )
    assert first == again != other
