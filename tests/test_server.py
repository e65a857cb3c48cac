"""The server's step against a naive loop, and how rounds are planned."""

from __future__ import annotations

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import client_data, settings, tiny_dataset

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.federated.aggregation import make_weighted_mean
from fedvlr_jax.federated.bucket_plan import plan_buckets
from fedvlr_jax.federated.server import make_server
from fedvlr_jax.types import PublicState


def test_steps_with_momentum_weights_penalty_and_l2_equal_a_naive_loop():
    rng = np.random.default_rng(0)
    jacobian, start = rng.normal(size=(3, 4)), rng.normal(size=4)
    optimizer = optax.sgd(0.1, momentum=0.9)

    def penalty(params, round_):
        return 0.3 * (round_ + 1) * jnp.sum(params**2)

    model = SimpleNamespace(penalty=penalty, publish=None)
    close_round = make_server(model, optimizer, l2=0.2).close_round
    finish = make_weighted_mean().finish
    params = jnp.asarray(start, jnp.float32)
    state = PublicState(params=params, opt_state=optimizer.init(params), round=jnp.zeros((), jnp.int32))
    expected, velocity = start, np.zeros(4)
    for k, weight in enumerate((4.0, 0.5, 0.0)):
        cotangent = rng.normal(size=3) * (weight > 0)
        mean = finish(jnp.asarray(cotangent, jnp.float32), jnp.float32(weight))
        state, norm = close_round(state, lambda ct: (ct @ jnp.asarray(jacobian, jnp.float32),), mean)
        clients = cotangent @ jacobian / weight if weight else np.zeros(4)
        gradient = clients + 0.6 * (k + 1) * expected + 0.2 * expected
        velocity = 0.9 * velocity + gradient
        expected = expected - 0.1 * velocity
        np.testing.assert_allclose(norm, np.linalg.norm(gradient), rtol=1e-5)
        np.testing.assert_allclose(state.params, expected, rtol=1e-5)
        assert int(state.round) == k + 1


@pytest.mark.parametrize(
    ("overrides", "num_items", "path", "touched_rows"),
    [
        ({}, 40, "fused", False),
        ({}, 5_000, "gathered", True),
        ({"objective": "softmax"}, 5_000, "fused", False),
        ({"host__name": "fedncf"}, 5_000, "gathered", True),
        ({"host__name": "fedncf"}, 100, "picked", False),
        ({"host__name": "fedncf"}, 40, "fused", False),
        ({"host__name": "fedrap"}, 5_000, "gathered", True),
        ({"client__move_items": True}, 40, "uploads", False),
        ({"client__move_items": True, "objective": "softmax"}, 40, "uploads", False),
        ({"compute__path": "uploads"}, 40, "uploads", False),
        ({"compute__path": "fused"}, 5_000, "fused", True),
    ],
)
def test_paths_are_chosen_by_what_clients_touch(overrides, num_items, path, touched_rows):
    dataset = tiny_dataset(num_items=num_items)
    tree = settings(**overrides)
    algorithm = make_algorithm(tree, dataset)
    buckets = client_data(dataset, widths=(2, 16)).buckets
    chosen = tree["compute"]["path"]
    plan = plan_buckets(algorithm.model, algorithm.local, buckets, num_items, path=chosen, chunk=7)
    assert plan[-1].path == path
    assert plan[-1].touched_rows == touched_rows
    assert [p.chunk for p in plan] == [min(7, b.user.size) for b in buckets]
    for automatic in plan_buckets(algorithm.model, algorithm.local, buckets, num_items, path=chosen, chunk=0):
        assert 1 <= automatic.chunk <= dataset.num_users


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"compute__path": "fusde"}, "compute.path: expected one of auto, .*did you mean 'fused'"),
        ({"compute__path": "picked", "client__move_items": True}, "move_items needs the path uploads"),
        ({"compute__path": "gathered", "objective": "softmax"}, "gathered needs sampled items.*objective softmax"),
        ({"compute__path": "picked", "host__name": "fedrap"}, "no private item tables.*host.name fedrap"),
        (
            {"compute__path": "fused", "aggregation__transforms": "clip"},
            "found fused with aggregation.transforms 'clip'",
        ),
        ({"compute__path": "gathered", "aggregation__aggregator": "median"}, "found gathered .*aggregator median"),
        (
            {"aggregation__transforms": "clip,nois"},
            "expected one of clip, local_noise, top_rows, round8, noise, found 'nois'; did you mean 'noise'",
        ),
        ({"aggregation__aggregator": "mean"}, "aggregation.aggregator: expected one of weighted_mean"),
        ({"aggregation__transforms": "noise,clip"}, "expected clip before it, found noise,clip"),
        ({"aggregation__transforms": "clip,clip"}, "expected distinct names, found clip,clip"),
        ({"aggregation__transforms": "clip,noise", "aggregation__aggregator": "median"}, "sum of clipped uploads"),
        ({"fusion__router": "mpl"}, "fusion.router: expected one of mlp, .*did you mean 'mlp'"),
    ],
)
def test_a_path_or_pipeline_that_cannot_be_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        make_algorithm(settings(**overrides), tiny_dataset())
