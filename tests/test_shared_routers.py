"""Routers with public parameters: their rounds are Algorithm 1, differentiated naively through everything."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws.rounds import clients_of, drawn_negatives, first_state
from problems import client_data, histories, relative_difference, settings, spread, tiny_dataset

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.models.fusion import make_fusion
from fedvlr_jax.models.model import Broadcast
from fedvlr_jax.models.router import ROUTERS, divergence, favour_first
from fedvlr_jax.models.router_logits import history_statistics
from fedvlr_jax.theory.assumptions import outside
from fedvlr_jax.types import Content

OPERATORS = ("sum", "mlp", "gate")
STEPS, LR, SERVER_LR, ROUTER_LR, L2, SPREAD = 2, 0.3, 0.05, 0.5, 0.1, 0.2
SHARED = [name for name, make in ROUTERS.items() if make(4, 2, jax.nn.relu).init_shared is not None]


def naive_statistics(rows_lid):
    """Mean cosine over all ordered pairs of different rows, one pair at a time, and log(1 + rows)."""
    found = []
    for rows in rows_lid:
        cosines = [
            a @ b / jnp.sqrt((a @ a) * (b @ b)) for k, a in enumerate(rows) for m, b in enumerate(rows) if k != m
        ]
        found.append(sum(cosines) / max(len(cosines), 1))
    return jnp.array([*found, jnp.log(1.0 + rows_lid[0].shape[0])])


def naive_logits(router, shared, own, rows_lid):
    h = jnp.concatenate([rows.mean(axis=0) for rows in rows_lid])
    if router == "statistics_bias":
        return naive_statistics(rows_lid) @ shared["kernel"] + shared["bias"] + own["logit_j"]
    hidden = jnp.maximum(h @ shared["hidden"]["kernel"] + shared["hidden"]["bias"], 0)
    public = hidden @ shared["out"]["kernel"] + shared["out"]["bias"]
    return public + own["logit_j"] + own["up"] @ (own["down"] @ h)


def naive_round(router, params, private, content, dataset, draws):
    """FCF: every client differentiates through the fusion and the public router in every step."""
    fusion = make_fusion(OPERATORS, content, dataset.num_items, dim=8, heads=2)

    def loss(params, theta, phi, history, negatives):
        views_ijd = fusion.views(params, content)
        logits = naive_logits(router, params["router"], phi, [views_ijd[history, j] for j in range(len(OPERATORS))])
        w = jnp.exp(logits) / jnp.exp(logits).sum()
        s = jnp.einsum("j,ijd,d->i", w, views_ijd, theta["w"])
        ones, zeros = jnp.log(jax.nn.sigmoid(s[history])).sum(), jnp.log(1 - jax.nn.sigmoid(s[negatives])).sum()
        fit = -(ones + zeros) / (history.size + negatives.size)
        penalty = 0.5 * L2 * sum(jnp.sum(x**2) for x in jax.tree.leaves(phi))
        return fit + penalty + SPREAD * (jnp.log(len(OPERATORS)) + jnp.sum(w * jnp.log(w)))

    gradient = jax.jit(jax.grad(loss, (0, 1, 2)))
    total, new_private = jax.tree.map(jnp.zeros_like, params), {}
    for u, history in enumerate(histories(dataset)):
        theta, phi = private[u]
        for a in range(STEPS):
            g_public, g_theta, g_phi = gradient(params, theta, phi, history, draws[u][a])
            theta = jax.tree.map(lambda p, g: p - LR * g, theta, g_theta)
            phi = jax.tree.map(lambda p, g: p - ROUTER_LR * LR * g, phi, g_phi)
            total = jax.tree.map(lambda t, g: t + g / dataset.num_users, total, g_public)
        new_private[u] = (theta, phi)
    return jax.tree.map(lambda p, g: p - SERVER_LR * g, params, total), new_private


def started(state):
    """The state with random numbers in place of zeros, so that every gradient counts."""

    def fill(x, key):
        return jnp.where(x == 0, 0.3 * jax.random.normal(key, x.shape, x.dtype), x)

    leaves, tree = jax.tree.flatten(
        (state.public.params["variant"]["router"], state.private.params["variant"]["phi"])
    )
    filled = [fill(x, jax.random.fold_in(jax.random.key(9), k)) for k, x in enumerate(leaves)]
    shared, own = jax.tree.unflatten(tree, filled)
    public, private = state.public.params, state.private.params
    public = public | {"variant": public["variant"] | {"router": shared}}
    private = private | {"variant": private["variant"] | {"phi": own}}
    return state.replace(public=state.public.replace(params=public), private=state.private.replace(params=private))


CASES = [("statistics_bias", "fused"), ("statistics_bias", "uploads"), ("shared_low_rank", "picked")]


@pytest.mark.slow
@pytest.mark.parametrize(("router", "path"), spread(CASES, CASES[:1]))
def test_a_round_with_public_router_parameters_equals_algorithm_1(router, path):
    with jax.enable_x64(True):
        dataset = tiny_dataset(num_users=3, num_items=20, dtype=np.float64)
        tree = settings(
            fusion__router=router,
            compute__path=path,
            router__lr=ROUTER_LR,
            router__l2=L2,
            router__spread=SPREAD,
        )
        algorithm, data = make_algorithm(tree, dataset), client_data(dataset)
        state = started(first_state(algorithm, 3))
        new, _ = jax.jit(algorithm.run, static_argnums=2)(state, data, 1)
        draws = drawn_negatives(dataset, data, state.key, 0, steps=STEPS, negatives=3)
        private = {
            u: (params["theta"], params["variant"]["phi"])
            for u, params in enumerate(clients_of(state.private.params, dataset))
        }
        content = Content(jnp.asarray(dataset.V), jnp.asarray(dataset.C))
        before = state.public.params["variant"]
        params, expected_private = naive_round(router, before, private, content, dataset, draws)
        moved, expected = (jax.tree.map(jnp.subtract, now, before) for now in (new.public.params["variant"], params))
        assert all(float(jnp.abs(x).max()) > 1e-7 for x in jax.tree.leaves(expected["router"]))
        assert relative_difference(moved, expected) <= 1e-9
        for u, now in enumerate(clients_of(new.private.params, dataset)):
            assert relative_difference((now["theta"], now["variant"]["phi"]), expected_private[u]) <= 1e-9


def test_only_routers_with_public_parameters_add_them_to_the_broadcast():
    dataset = tiny_dataset(num_users=3, num_items=9)

    def head_of(**changes):
        algorithm = make_algorithm(settings(host__name="fedncf", **changes), dataset)
        state = jax.eval_shape(algorithm.init, jax.random.key(0))
        published: Broadcast = jax.eval_shape(
            algorithm.model.publish, state.public.params, client_data(dataset).content
        )
        return published.head

    assert set(head_of()) == {"layer_0", "layer_1", "layer_2", "out"}
    assert {"common", "shared", "statistics"} <= set(SHARED)
    for name in SHARED:
        assert set(head_of(fusion__router=name)) == {"host", "router"}


def test_statistics_are_the_mean_cosines_of_pairs():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(4, 2, 5)).astype(np.float32)
    padded = np.concatenate([rows, np.zeros((2, 2, 5), np.float32)])
    found = history_statistics(jnp.asarray(padded), jnp.array([1.0, 1, 1, 1, 0, 0]))
    expected = naive_statistics([jnp.asarray(rows[:, j]) for j in range(2)])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    one = history_statistics(jnp.asarray(padded), jnp.array([1.0, 0, 0, 0, 0, 0]))
    np.testing.assert_allclose(one, [0, 0, np.log(2)], atol=1e-6)


def test_odds_favour_the_first_view():
    uniform = favour_first(ROUTERS["uniform"](4, 4, jax.nn.relu), 3.0)
    np.testing.assert_allclose(uniform.weights({}, jnp.zeros((4, 4))), [0.5, 1 / 6, 1 / 6, 1 / 6], rtol=1e-6)
    plain = ROUTERS["mlp"](4, 2, jax.nn.relu)
    assert favour_first(plain, 1.0) is plain
    phi, pooled = plain.init(jax.random.key(0)), jax.random.normal(jax.random.key(1), (2, 4))
    favoured, w_j = favour_first(plain, 9.0), plain.weights(phi, pooled)
    expected = np.array([9 * w_j[0], w_j[1]]) / (9 * w_j[0] + w_j[1])
    closed = favoured.closed_form
    for found in (favoured.weights(phi, pooled), closed.weights(closed.start(phi), closed.summarise(phi, pooled))):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_divergence_is_zero_for_equal_weights_and_log_g_for_one_view():
    assert abs(float(divergence(jnp.full(4, 0.25)))) < 1e-6
    assert abs(float(divergence(jnp.array([0.0, 1.0, 0.0]))) - np.log(3)) < 1e-6
    assert bool(jnp.isfinite(jax.grad(lambda x: divergence(jax.nn.softmax(x)))(jnp.array([0.0, 300.0]))).all())


def test_the_weight_of_the_spread_falls_to_zero():
    tree = settings(router__spread=0.4, router__spread_rounds=8.0)
    router = make_algorithm(tree, tiny_dataset()).local.router
    np.testing.assert_allclose([float(router.spread_at(t)) for t in (0, 2, 8, 20)], [0.4, 0.3, 0, 0], rtol=1e-6)
    stays = router._replace(spread_rounds=0.0)
    assert float(stays.spread_at(100)) == pytest.approx(0.4)


def test_a_rate_of_its_own_and_a_fading_pull_are_outside_the_analysis():
    common = {"fusion__activation": "softplus", "host__name": "fcf"}
    assert outside(settings(**common, router__spread=1.0, router__l2=0.1)) == []
    (rate,) = outside(settings(**common, router__lr=0.1))
    (fading,) = outside(settings(**common, router__spread=1.0, router__spread_rounds=5.0))
    assert "router.lr" in rate
    assert "router.spread" in fading
