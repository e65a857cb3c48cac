"""Clients that a secure sum loses on the way: the round is that of the survivors, or changes nothing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws.rounds import DATASET, after, first_state
from problems import client_data, relative_difference, settings

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.federated import sampling
from fedvlr_jax.training.counting import count_rounds, diverged_round
from fedvlr_jax.training.schedule import RunProgress
from fedvlr_jax.types import RoundInfo

COMMON = {
    "variant": "base",
    "server__optimizer": "adam",
    "server__l2": 0.1,
    "aggregation__transforms": "clip",
    "secure__sum": True,
}
LOSING = {"secure__dropout": 0.2, "secure__threshold": 0.8}
ROUNDS = 6


@pytest.fixture(scope="module")
def rounds():
    """State before, state after, report and survivors of each of six rounds that lose clients."""
    algorithm = make_algorithm(settings(**COMMON | LOSING), DATASET)
    run, data = jax.jit(algorithm.run, static_argnums=2), client_data(DATASET)
    state, found = first_state(algorithm, 1), []
    for number in range(ROUNDS):
        before = state
        state, info = run(before, data, 1)
        lost_u = sampling.poisson_mask(sampling.stream(state.key, sampling.DROPOUT, number), 13, 0.2)
        found.append((before, state, RoundInfo(*(x[0] for x in info)), np.flatnonzero(~lost_u)))
    return found


@pytest.mark.slow
def test_a_round_is_that_of_the_survivors(rounds):
    before, state, info, users = next(x for x in rounds if not x[2].failed and x[2].num_lost)
    assert (info.num_clients, info.num_lost) == (13, 13 - len(users))
    alone, _ = after(1, client_data(DATASET, order=users), start=before, **COMMON)
    assert relative_difference((state.public, state.private), (alone.public, alone.private)) <= 1e-6


def test_a_round_with_too_few_survivors_changes_nothing_and_is_counted(rounds):
    """Neither momentum nor L2 terms move a parameter."""
    assert {bool(info.failed) for _, _, info, _ in rounds} == {True, False}
    for before, state, info, users in rounds:
        assert bool(info.failed) == (len(users) < 0.8 * 13)
        if info.failed:
            assert int(state.public.round) == int(before.public.round) + 1
            held = before.public.replace(round=state.public.round)
            for a, b in ((state.public, held), (state.private, before.private)):
                jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_round_that_fails_by_clients_that_are_not_finite_changes_nothing():
    """These were not lost on the way, so that the others have trained."""
    algorithm = make_algorithm(settings(**COMMON), DATASET)
    state = algorithm.init(jax.random.key(1))
    broken = jax.tree.map(lambda x: x.at[:7].set(jnp.nan), state.private.params)
    before = state.replace(private=state.private.replace(params=broken))
    found, info = jax.jit(algorithm.run, static_argnums=2)(before, client_data(DATASET), 1)
    assert (int(info.failed[0]), int(info.num_dropped[0])) == (1, 7)
    jax.tree.map(np.testing.assert_array_equal, found.private, before.private)
    jax.tree.map(np.testing.assert_array_equal, found.public, before.public.replace(round=found.public.round))


def test_losses_are_counted_and_are_no_divergence():
    info = RoundInfo(*(np.array(x) for x in ([0.5, 0.0], [9, 9], [0, 0], [1.0, 0.0], [2, 9], [0, 1])))
    progress = count_rounds(RunProgress(num_lost=1), info, 1.0)
    assert (progress.num_lost, progress.failed_rounds, progress.num_dropped) == (12, 1, 0)
    assert diverged_round(info) == 0
    assert diverged_round(info._replace(num_dropped=np.array([7, 0]))) == 1


def test_clients_are_lost_in_secure_sums_alone():
    with pytest.raises(ConfigError, match=r"secure.dropout: .* expected secure.sum"):
        make_algorithm(settings(secure__dropout=0.2), DATASET)


def test_drawn_cohorts_lose_clients_too():
    state, info = after(8, server__clients_per_round=5, **COMMON | LOSING)
    assert np.asarray(info.num_lost).sum() > 0
    assert (np.asarray(info.failed) == (5 - np.asarray(info.num_lost) < 4)).all()
    assert jnp.isfinite(info.loss).all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.public.params))
