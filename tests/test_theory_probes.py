"""The exact objective and the probes against the library's own losses and rounds, in float64."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.errors import ConfigError
from fedvlr_jax.federated import sampling
from fedvlr_jax.federated.client import draw_batch
from fedvlr_jax.federated.step_loss import make_loss
from fedvlr_jax.models.model import Download, pool
from fedvlr_jax.theory.assumptions import outside
from fedvlr_jax.theory.probes import make_curvature, make_probe
from fedvlr_jax.theory.problem import Problem, make_problem
from tests.problems import settings, spread, tiny_dataset

SMOOTH = {"fusion__activation": "softplus", "host__name": "fcf", "fusion__dim": 4, "client__negatives": 2}
STEPS, ETA = 3, 0.2


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def problem_of(**overrides) -> Problem:
    """A tiny problem; fcf + fedvlr unless overridden."""
    return make_problem(settings(**(SMOOTH | overrides)), tiny_dataset(dtype=np.float64))


@pytest.mark.parametrize("objective", spread(["bce", "bpr"], []))
def test_J_u_is_the_mean_of_the_stochastic_loss(objective):
    problem = problem_of(objective=objective, client__l2=0.1)
    local, state = problem.local(1, ETA), jax.jit(problem.algorithm.init)(jax.random.key(0))
    broadcast = jax.jit(problem.model.publish)(state.public.params, problem.data.content)
    bucket = problem.data.buckets[-1]
    user, history_l = bucket.user[0], bucket.history[0]
    private = jax.tree.map(lambda x: x[user], state.private.params)
    loss = make_loss(problem.model, local, state.public.round, all_items=False)

    def one(key):
        draw = draw_batch(local, problem.num_items, history_l, key, touched_rows=False).draw
        pooled = pool(broadcast.rows["views"], draw.positive_l, draw.input_l)
        at = Download(broadcast.rows, pooled, broadcast.head)
        return loss(at, private, draw._replace(negative_aln=draw.negative_aln[0]))

    sample = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 4000))
    exact = jax.jit(problem.client_loss)(broadcast, private, history_l, state.public.round)
    error = float(jnp.std(sample) / jnp.sqrt(sample.size))
    assert error > 0
    assert abs(float(jnp.mean(sample) - exact)) < 4 * error


@pytest.mark.parametrize(("cohort", "host"), spread([(5, "fcf"), (13, "fcf"), (5, "fedrap")], []))
def test_the_probe_plays_the_round_that_the_library_plays(cohort, host):
    extra = {"host__name": host, "host__sparsity_weight": 0.0, "host__additive_weight": 0.0}
    problem = problem_of(server__l2=0.05, **extra)
    state = jax.jit(problem.algorithm.init)(jax.random.key(3))
    found = jax.jit(make_probe(problem, STEPS, 2))(state, ETA, jnp.asarray(cohort))
    after = jax.jit(problem.round(STEPS, cohort, ETA))(state)
    moved = jax.tree.map(lambda a, b: (a - b).ravel(), state.public.params, after.public.params)
    moved_p = jnp.concatenate(jax.tree.leaves(moved))
    np.testing.assert_allclose(found.aggregate_p, moved_p / (ETA * STEPS), rtol=1e-9, atol=1e-12)
    # The drift of the clients in the cohort after the last step is how far the round moved their private state.
    key = sampling.stream(state.key, sampling.COHORT, state.public.round)
    chosen_u = np.asarray(sampling.cohort_mask(key, problem.num_users, cohort))
    pairs = zip(jax.tree.leaves(state.private.params), jax.tree.leaves(after.private.params), strict=True)
    drift_u = sum(np.sum(np.asarray(a - b).reshape(problem.num_users, -1) ** 2, axis=1) for a, b in pairs)
    order_u = np.concatenate([bucket.user for bucket in problem.data.buckets])
    np.testing.assert_allclose(np.where(chosen_u, found.drift_au[-1][np.argsort(order_u)], 0), drift_u, rtol=1e-9)


@pytest.mark.slow
def test_the_probe_at_one_step_is_exact_where_the_lemmas_are_equalities():
    problem = problem_of()
    state = jax.jit(problem.algorithm.init)(jax.random.key(0))
    found = jax.jit(make_probe(problem, 1, 1))(state, ETA, jnp.asarray(13))
    np.testing.assert_allclose(found.drift_au, ETA**2 * found.moment_au, rtol=1e-9)
    np.testing.assert_allclose(found.bias_u, 0, atol=1e-20)
    np.testing.assert_allclose(found.sampling, 0, atol=1e-20)
    gradient = jax.jit(jax.grad(problem.total_loss(1)))(
        state.public.params, state.private.params, problem.data, state.public.round
    )
    gradient2 = sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(gradient))
    np.testing.assert_allclose(found.gradient2, gradient2, rtol=1e-9)


@pytest.mark.slow
def test_the_curvature_is_that_of_the_dense_hessian():
    problem = problem_of(fusion__operators="sum", fusion__dim=2)
    state = jax.jit(problem.algorithm.init)(jax.random.key(0))
    found = jax.jit(make_curvature(problem, problem.num_users, 300))(state, jax.random.key(1))

    @jax.jit
    def largest(user, history_l):
        private = jax.tree.map(lambda x: x[user], state.private.params)
        at, unravel = jax.flatten_util.ravel_pytree((state.public.params, private))

        def loss(flat):
            public, private = unravel(flat)
            broadcast = problem.model.publish(public, problem.data.content)
            return problem.client_loss(broadcast, private, history_l, state.public.round)

        return jnp.max(jnp.abs(jnp.linalg.eigvalsh(jax.hessian(loss)(at))))

    pairs = [(u, h) for bucket in problem.data.buckets for u, h in zip(bucket.user, bucket.history, strict=True)]
    np.testing.assert_allclose(found.joint, max(float(largest(u, h)) for u, h in pairs), rtol=1e-3)
    assert found.public <= found.joint * (1 + 1e-6)
    assert found.private <= found.joint * (1 + 1e-6)


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"objective": "softmax"}, "objective"),
        ({"host__name": "fedavg"}, "host.name"),
        ({"client__optimizer": "adam"}, "client.optimizer"),
        ({"server__optimizer": "adam"}, "server.optimizer"),
        ({"client__move_items": True}, "client.move_items"),
        ({"server__sampling": "poisson"}, "server.sampling"),
        ({"aggregation__aggregator": "median"}, "aggregation.aggregator"),
        ({"aggregation__transforms": "clip,noise"}, "aggregation.transforms"),
        ({"aggregation__transforms": "clip", "secure__sum": True}, "aggregation.transforms"),
        ({"init_from": "runs/x"}, "init_from"),
        ({"host__name": "fedblend"}, "host.name"),
        ({"variant": "gfmfr"}, "variant: expected one whose clients follow no teacher"),
    ],
)
def test_what_is_not_analysed_is_refused(overrides, field):
    with pytest.raises(ConfigError, match=field):
        problem_of(**overrides)


def test_what_is_outside_the_assumptions_is_labelled():
    assert outside(settings(**SMOOTH)) == []
    assert any("router" in reason for reason in outside(settings(**(SMOOTH | {"fusion__activation": "relu"}))))
    rough = SMOOTH | {"host__name": "fedrap", "host__sparsity_weight": 0.1}
    assert any("L1" in reason for reason in outside(settings(**rough)))
    assert any("fedncf" in reason for reason in outside(settings(**(SMOOTH | {"host__name": "fedncf"}))))
