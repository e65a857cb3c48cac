"""The router's steps in closed form against the plain steps, which are the specification."""

from __future__ import annotations

import jax
import pytest
from laws.rounds import first_state
from problems import client_data, relative_difference, settings, spread, tiny_dataset

from fedvlr_jax.algorithm import make_algorithm

DATASET = tiny_dataset()
ROUTED = {"variant": "fedvlr", "client__steps": 4, "client__lr": 1.0}


def after(rounds: int, **overrides):
    """The state after some rounds, and the settings of a client's steps."""
    algorithm = make_algorithm(settings(**(ROUTED | overrides)), DATASET)
    run = jax.jit(algorithm.run, static_argnums=2)
    return run(first_state(algorithm), client_data(DATASET), rounds), algorithm.local


CASES = [("fcf", "gathered"), ("pfedrec", "fused"), ("fedrap", "uploads"), ("fedncf", "picked")]


@pytest.mark.slow
@pytest.mark.parametrize(("host", "path"), spread(CASES, [("fcf", "gathered")]))
def test_closed_form_equals_plain_steps(host, path):
    with jax.enable_x64(True):
        common = {"host__name": host, "compute__path": path}
        (plain, info_plain), local = after(3, compute__closed_form=False, **common)
        assert not local.closed_form
        (closed, info), local = after(3, **common)
        assert local.closed_form
        start = first_state(make_algorithm(settings(**(ROUTED | common)), DATASET))
        moved = relative_difference(start.private.params["variant"], plain.private.params["variant"])
        assert moved > 1e-3
        for a, b in ((closed.public, plain.public), (closed.private, plain.private), (info, info_plain)):
            assert relative_difference(a, b) <= 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["softmax", "bpr"])
def test_closed_form_equals_plain_steps_in_single_precision(objective):
    (plain, _), _ = after(3, compute__closed_form=False, objective=objective)
    (closed, _), _ = after(3, objective=objective)
    assert relative_difference(closed.public, plain.public) <= 1e-6
    assert relative_difference(closed.private, plain.private) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [{"client__move_items": True, "compute__path": "auto"}, {"server__clients_per_round": 5}]
)
def test_closed_form_holds_for_moving_items_and_cohorts(more):
    with jax.enable_x64(True):
        (plain, _), _ = after(3, compute__closed_form=False, **more)
        (closed, _), _ = after(3, **more)
        assert relative_difference((closed.public, closed.private), (plain.public, plain.private)) <= 1e-12


@pytest.mark.parametrize(
    "more", [{"client__optimizer": "momentum"}, {"client__optimizer": "adam"}, {"client__l2": 0.1}]
)
def test_where_it_is_not_exact_the_plain_steps_are_taken(more):
    algorithm = make_algorithm(settings(**(ROUTED | more)), DATASET)
    assert not algorithm.local.closed_form
