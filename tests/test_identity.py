"""The identity that makes a round fast: summed cotangents pulled back once equal Algorithm 1, written naively."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws.rounds import clients_of, drawn_negatives, first_state
from problems import client_data, histories, relative_difference, settings, spread, tiny_dataset

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.models.fusion import FUSION_OPS, make_fusion
from fedvlr_jax.types import Content


def naive_round(params, private, content, dataset, operators, draws, *, dim, steps, lr, server_lr):
    """Algorithm 1 with FCF: every client differentiates through the fusion in every step, one client at a time."""
    fusion = make_fusion(operators, content, dataset.num_items, dim=dim, heads=2)

    def loss(params, theta, phi, history, negatives):
        views_ijd = fusion.views(params, content)
        layers = phi["params"]
        h = jnp.concatenate([views_ijd[history, j].mean(axis=0) for j in range(len(operators))])
        hidden = jnp.maximum(h @ layers["hidden"]["kernel"] + layers["hidden"]["bias"], 0)
        logits = hidden @ layers["out"]["kernel"] + layers["out"]["bias"]
        w = jnp.exp(logits - logits.max())
        w = w / w.sum()
        g = sum(w[j] * views_ijd[:, j] for j in range(len(operators)))
        s = g @ theta["w"]
        ones = -jnp.log(jax.nn.sigmoid(s[history])).sum()
        zeros = -jnp.log(1 - jax.nn.sigmoid(s[negatives])).sum()
        return (ones + zeros) / (history.size + negatives.size)

    total, new_private = jax.tree.map(jnp.zeros_like, params), {}
    gradient = jax.jit(jax.grad(loss, (0, 1, 2)))
    for u, history in enumerate(histories(dataset)):
        theta, phi = private[u]
        for a in range(steps):
            g_public, g_theta, g_phi = gradient(params, theta, phi, history, draws[u][a])
            theta = jax.tree.map(lambda p, g: p - lr * g, theta, g_theta)
            phi = jax.tree.map(lambda p, g: p - lr * g, phi, g_phi)
            total = jax.tree.map(lambda t, g: t + g / dataset.num_users, total, g_public)
        new_private[u] = (theta, phi)
    return jax.tree.map(lambda p, g: p - server_lr * g, params, total), new_private


ALL = ("sum", "mlp", "gate")
OPERATOR_SETS = [*((name,) for name in FUSION_OPS), ALL]


@pytest.mark.parametrize(
    ("operators", "path"),
    spread(
        itertools.product(OPERATOR_SETS, ["fused", "uploads"]),
        [(ALL, "fused"), (ALL, "uploads")],
    ),
)
def test_round_equals_algorithm_1_in_float64(operators, path):
    with jax.enable_x64(True):
        dataset = tiny_dataset(num_users=3, num_items=20, dtype=np.float64, longest=2)
        tree = settings(fusion__operators=",".join(operators), compute__path=path)
        algorithm = make_algorithm(tree, dataset)
        state = first_state(algorithm, 3)
        data = client_data(dataset)
        new, _ = jax.jit(algorithm.run, static_argnums=2)(state, data, 1)

        draws = drawn_negatives(dataset, data, state.key, 0, steps=2, negatives=3)
        private = {
            u: (params["theta"], params["variant"]["phi"])
            for u, params in enumerate(clients_of(state.private.params, dataset))
        }
        params, expected_private = naive_round(
            state.public.params["variant"],
            private,
            Content(jnp.asarray(dataset.V), jnp.asarray(dataset.C)),
            dataset,
            operators,
            draws,
            dim=8,
            steps=2,
            lr=0.3,
            server_lr=0.05,
        )
        moved = jax.tree.map(lambda a, b: a - b, new.public.params["variant"], state.public.params["variant"])
        expected = jax.tree.map(lambda a, b: a - b, params, state.public.params["variant"])
        assert max(np.abs(x).max() for x in jax.tree.leaves(expected)) > 1e-6
        assert relative_difference(moved, expected) <= 1e-12
        for u, now in enumerate(clients_of(new.private.params, dataset)):
            got = (now["theta"], now["variant"]["phi"])
            assert relative_difference(got, expected_private[u]) <= 1e-12
