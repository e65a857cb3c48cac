"""Rounds under a guarantee: what one client can move, who takes part, and a budget that goes on after a kill."""

from __future__ import annotations

import dataclasses
import json

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from laws.rounds import DATASET, after, first_state
from problems import client_data, settings
from test_training import Crash, SignalLater, lines, outcome
from toy_algorithm import toy_experiment

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.errors import CheckpointError, RunWarning
from fedvlr_jax.federated import sampling
from fedvlr_jax.federated.aggregation import make_weighted_mean
from fedvlr_jax.federated.rounds import Pipeline
from fedvlr_jax.federated.server import Aggregate
from fedvlr_jax.federated.transforms import UploadTransform, make_clip
from fedvlr_jax.io.checkpoint import Checkpoints
from fedvlr_jax.io.interrupt import Interrupted
from fedvlr_jax.io.progress import ProgressEvent
from fedvlr_jax.models.model import Broadcast, Upload
from fedvlr_jax.privacy.accounting import epsilon_of, guarantee_of
from fedvlr_jax.training import loop
from fedvlr_jax.training.experiment import make_experiment
from fedvlr_jax.training.loop import train
from fedvlr_jax.types import given

# ---- the noise of a seed


def noised(sigma, seed):
    """The public parameters after one round whose sum has noise of this size, and what a result says of that."""
    tree = settings(
        host__name="fcf",
        variant="base",
        aggregation__transforms="clip,noise",
        aggregation__noise_multiplier=sigma,
        privacy__delta=1e-3,
    )
    algorithm = make_algorithm(tree, DATASET)
    start = algorithm.init(jax.random.key(0))
    state, _ = jax.jit(algorithm.run, static_argnums=2)(
        start.replace(key=jax.random.key(seed)), client_data(DATASET), 1
    )
    said = given(guarantee_of(tree, DATASET.num_users)).describe(1)["not_covered"]
    return np.asarray(state.public.params["variant"]["D"], np.float64), said


def test_two_runs_of_one_seed_share_their_noise_and_a_result_says_so():
    """Two budgets take the noise off together. Simulations rest on seeds that do so, and a result has to say it."""
    (one, said), (two, _), (exact, _), (other, _) = noised(5.0, 0), noised(2.5, 0), noised(1e-6, 0), noised(2.5, 1)
    step = np.abs(one - exact).max()
    assert np.abs((2 * two - one) - exact).max() < 1e-4 * step
    assert np.abs((2 * other - one) - exact).max() > 0.1 * step
    assert any("runs with the same seed share their noise" in entry for entry in said)


# ---- what one client can move

BOUND, DENOMINATOR = 2.0, 8.0
FLOATS = st.one_of(st.sampled_from([0.0, 1e-30, 1e30, -3e38, np.inf, np.nan]), st.floats(-5, 5, width=32))
UPLOADS = arrays.arrays(np.float32, (4, 3, 2), elements=FLOATS)
MEAN = Pipeline(UploadTransform(fixed_weights=True), make_weighted_mean())


@jax.jit
def mean_of(rows_cnd, present_c):
    """The mean of a round of four clients, and everything up to it as a round does it."""
    uploads = Upload(jnp.tile(jnp.arange(3), (4, 1)), {"views": rows_cnd}, {"w": rows_cnd[:, :, 0]})
    uploads, _ = jax.vmap(make_clip(clip_norm=BOUND).client, in_axes=(None, 0, None))(jax.random.key(0), uploads, ())
    like = Broadcast({"views": jnp.zeros((3, 2))}, {"w": jnp.zeros(3)})
    alpha_c = present_c.astype(float)
    carry = MEAN.aggregator.add(MEAN.aggregator.init(like, 4), uploads, alpha_c)
    total = Aggregate(carry, jnp.sum(alpha_c), jnp.zeros(()), jnp.zeros((), jnp.int32))
    return MEAN.mean(total, DENOMINATOR, jax.random.key(0), jnp.int32(0))


@hypothesis.given(UPLOADS, st.integers(0, 3))
@hypothesis.settings(deadline=None, max_examples=100)
def test_a_client_moves_the_mean_by_its_bound_over_the_denominator(rows_cnd, u):
    """Whatever it sends, and whoever else is there: the sensitivity that the noise is scaled to."""
    everybody = np.ones(4, bool)
    with_, without = (
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(mean_of(rows_cnd, present_c))]).astype(float)
        for present_c in (everybody, everybody & (np.arange(4) != u))
    )
    assert np.isfinite(with_).all()
    assert np.linalg.norm(with_ - without) <= BOUND / DENOMINATOR * (1 + 1e-6) + 1e-6


# ---- Poisson cohorts


def test_poisson_cohorts_are_independent_draws_of_every_client():
    masks = np.array([sampling.poisson_mask(jax.random.key(k), 40, 0.3) for k in range(500)])
    assert abs(masks.mean() - 0.3) < 5 * np.sqrt(0.21 / masks.size)
    assert masks.sum(axis=1).var() == pytest.approx(40 * 0.21, rel=0.25)  # a cohort of a fixed size has none
    assert np.abs(np.corrcoef(masks.T) - np.eye(40)).max() < 6 / np.sqrt(500)
    fewer = sampling.poisson_mask(jax.random.key(0), 25, 0.3)
    np.testing.assert_array_equal(fewer, masks[0, :25])  # a draw belongs to a client, whoever else there is


def test_a_small_rate_of_many_clients_is_the_one_that_is_accounted():
    """In steps of 2^-23 it would be above itself: twice for a cohort of one in fourteen million."""
    key, num_users = jax.random.key(3), 300_000
    words_u = np.asarray(jax.vmap(lambda k: jax.random.bits(k))(sampling.entity_keys(key, jnp.arange(num_users))))
    order_u = np.argsort(words_u)
    for count in (0, 1, 5):
        # Just enough for this many clients: the next one has a word that is not below it.
        rate = float(words_u[order_u[count]]) / 2**32
        found_u = np.asarray(sampling.poisson_mask(key, num_users, rate))
        np.testing.assert_array_equal(np.flatnonzero(found_u), np.sort(order_u[:count]))
    draws_u = np.asarray(jax.vmap(lambda k: jax.random.uniform(k))(sampling.entity_keys(key, jnp.arange(1000))))
    for rate in (0.1, 0.3, 0.99):  # cohorts are those of numbers within [0, 1), but for one in millions
        np.testing.assert_array_equal(sampling.poisson_mask(key, 1000, rate), draws_u < rate)
    assert sampling.poisson_mask(key, 50, 1.0).all()
    assert not sampling.poisson_mask(key, 50, 0.0).any()


def test_rounds_train_whom_they_draw_and_survive_empty_cohorts():
    common = {"variant": "base", "server__sampling": "poisson", "server__clients_per_round": 2}
    algorithm = make_algorithm(settings(**common), DATASET)
    start = first_state(algorithm)
    state, info = after(12, start=start, **common)
    drawn = [
        np.asarray(sampling.poisson_mask(sampling.stream(start.key, sampling.COHORT, r), 13, 2 / 13))
        for r in range(12)
    ]
    np.testing.assert_array_equal(info.num_clients, np.sum(drawn, axis=1))
    assert 0 in info.num_clients
    assert not np.any(info.num_dropped)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.public))
    now, before = (jax.tree.leaves(x.private.params["theta"])[0] for x in (state, start))
    np.testing.assert_array_equal(np.any(np.asarray(now != before), axis=1), np.any(drawn, axis=0))


def test_noise_of_a_budget_is_that_on_the_mean_of_the_expected_cohort():
    """Behind a clip that hides every upload, the noise is all that moves the item table."""
    common = {
        "variant": "base",
        "aggregation__transforms": "clip,noise",
        "aggregation__clip_norm": 1e-6,
        "server__sampling": "poisson",
        "server__clients_per_round": 6,
        "server__lr": 1e6,
        "privacy__target_epsilon": 4.0,
        "privacy__delta": 1e-3,
        "rounds": 20,
    }
    algorithm = make_algorithm(settings(**common), DATASET)
    start = first_state(algorithm)
    state, _ = jax.jit(algorithm.run, static_argnums=2)(start, client_data(DATASET), 1)
    moved = np.asarray(state.public.params["variant"]["D"] - start.public.params["variant"]["D"])
    sigma = np.std(moved) * 6  # over 6 clients on average; the bound times the rate is one
    assert epsilon_of(float(sigma), 6 / 13, 20, 1e-3) == pytest.approx(4.0, rel=0.2)


# ---- the budget of a run

PRIVATE = {
    "rounds": 25,
    "eval__every": 10,
    "eval__patience": 0,
    "server__lr": 0.02,
    "aggregation__transforms": "clip,noise",
    "aggregation__noise_multiplier": 3.0,
    "privacy__delta": 1e-3,
}


@pytest.fixture(scope="module")
def spent(tmp_path_factory):
    """A run that nothing disturbs, its metric lines and events."""
    workdir, events = tmp_path_factory.mktemp("private"), []
    return train(toy_experiment(**PRIVATE), workdir, on_progress=events.append), lines(workdir), events


def test_what_is_spent_is_in_lines_events_and_progress(spent):
    trained, rows, events = spent
    expected = [epsilon_of(3.0, 1.0, rounds, 1e-3) for rounds in (10, 20, 25)]
    assert [row["epsilon"] for row in rows] == expected
    assert [event.epsilon for event in events] == expected
    assert trained.progress.epsilon == expected[-1]
    assert f"epsilon {expected[-1]:.4g} |" in str(events[-1])
    assert "epsilon" not in str(ProgressEvent(1, 2, 0.5, {"NDCG@50": None}, 1.0, 1.0))


@pytest.mark.parametrize("evaluations", [1, 2])
def test_a_budget_goes_on_exactly_after_a_stop(spent, tmp_path, evaluations):
    experiment = toy_experiment(**PRIVATE, checkpoint__seconds=1e9)
    with pytest.raises(Interrupted):
        train(experiment, tmp_path, interrupt=SignalLater(evaluations))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.record()["epsilon"] == epsilon_of(3.0, 1.0, 10 * evaluations, 1e-3)
    assert outcome(train(experiment, tmp_path)) == outcome(spent[0])
    assert lines(tmp_path) == spent[1]


def test_a_budget_goes_on_exactly_after_a_kill(spent, tmp_path, monkeypatch):
    """The rounds after the last checkpoint come again with the same noise, and are spent once."""
    save = Checkpoints.save

    def crash(self, *arguments):
        save(self, *arguments)
        raise Crash

    monkeypatch.setattr(Checkpoints, "save", crash)
    with pytest.raises(Crash):
        train(toy_experiment(**PRIVATE), tmp_path)
    monkeypatch.setattr(Checkpoints, "save", save)
    assert outcome(train(toy_experiment(**PRIVATE), tmp_path)) == outcome(spent[0])
    assert lines(tmp_path) == spent[1]


@pytest.mark.parametrize(
    ("first", "then", "field"),
    [
        ({}, {"privacy__delta": 1e-4}, "privacy.delta"),
        ({}, {"aggregation__noise_multiplier": 1.0}, "aggregation.noise_multiplier"),
        ({}, {"aggregation__clip_norm": 2.0}, "aggregation.clip_norm"),
        ({}, {"server__sampling": "poisson"}, "server.sampling"),
        ({}, {"privacy__delta": 0.0, "aggregation__transforms": ""}, "aggregation.transforms"),
        (
            {"aggregation__noise_multiplier": 0.0, "privacy__target_epsilon": 8.0},
            {"rounds": 50},  # the noise was solved for 25
            "rounds: checkpoint 25, now 50",
        ),
    ],
)
def test_another_guarantee_does_not_go_on(tmp_path, first, then, field):
    experiment = toy_experiment(**PRIVATE | first)
    record = {**loop.identity_of(experiment)}
    loop.require_own(record, experiment)
    with pytest.raises(CheckpointError, match=field):
        loop.require_own(record, toy_experiment(**PRIVATE | first | then))


def test_a_record_without_a_budget_is_read_as_none():
    fields = dataclasses.asdict(loop.RunProgress(round=3))
    del fields["epsilon"]
    assert loop.read_progress(json.loads(json.dumps(fields))).epsilon is None


def test_noise_that_no_transform_adds_is_said():
    for transforms in ("", "clip"):
        with pytest.warns(RunWarning, match=r"aggregation\.noise_multiplier: 2 adds no noise"):
            make_experiment(settings(aggregation__noise_multiplier=2.0, aggregation__transforms=transforms), DATASET)
    make_experiment(settings(aggregation__noise_multiplier=2.0, aggregation__transforms="clip,noise"), DATASET)
    make_experiment(settings(aggregation__transforms="clip"), DATASET)
