"""How a deployment drives the core: a server and devices that share nothing but messages give what `run` gives.

server                                     device u
broadcast, pull_back = open_round(public)
                  -- broadcast -->
                                           state, upload, loss = client_round(broadcast, state, history, keys, t)
                  <-- upload, alpha --
carry = aggregator.add(carry, upload, alpha)
public = close_round(public, pull_back, mean(carry))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws.rounds import first_state
from problems import client_data, relative_difference, settings, spread, tiny_dataset

from fedvlr_jax.algorithm import Algorithm, make_algorithm
from fedvlr_jax.federated import sampling
from fedvlr_jax.federated.server import Aggregate

DATASET = tiny_dataset(num_users=6, num_items=24)
COHORT, ROUNDS = 4, 3


class Programs(NamedTuple):
    """What is compiled once: three programs of the server, and that of a device."""

    open_round: Callable
    client_round: Callable
    add: Callable
    close_round: Callable


def compiled(algorithm: Algorithm) -> Programs:
    def add(carry, upload, alpha):
        """An aggregator takes chunks of clients; here is one at a time."""
        return algorithm.pipeline.aggregator.add(carry, *jax.tree.map(lambda x: x[None], (upload, alpha)))

    server = algorithm.server
    return Programs(*map(jax.jit, (server.open_round, algorithm.client_round, add, server.close_round)))


def deployed_round(algorithm, programs, public, states, histories, content, key):
    """The public state after one round; the private states of the cohort are replaced in the dict `states`."""
    number, pipeline = public.round, algorithm.pipeline
    broadcast, pull_back = programs.open_round(public, content)
    cohort = sampling.cohort_ids(np.asarray(algorithm.cohort_words(key, number)), COHORT)
    keys = [
        sampling.entity_keys(sampling.stream(key, purpose, number), cohort)
        for purpose in (sampling.CLIENT, sampling.TRANSFORM)
    ]
    carry, weight = pipeline.aggregator.init(broadcast, COHORT), 0.0
    for u, *own_keys in zip(cohort.tolist(), *keys, strict=True):
        states[u], upload, _ = programs.client_round(broadcast, states[u], histories[u], *own_keys, number)
        length = jnp.sum(histories[u] < DATASET.num_items).astype(float)
        alpha = jnp.ones(()) if pipeline.transform.fixed_weights else algorithm.model.host.client_weight(length)
        carry, weight = programs.add(carry, upload, alpha), weight + alpha
    mean = pipeline.mean(Aggregate(carry, weight, loss=None, num_dropped=None), COHORT, key, number)
    public, _ = programs.close_round(public, pull_back, mean)
    return public


CASES = [(*model, names) for model in (("fcf", "fedvlr"), ("fedrap", "base")) for names in ("", "clip,noise")]


@pytest.mark.parametrize(("host", "variant", "transforms"), spread(CASES, CASES[2:3]))
def test_a_server_and_devices_that_exchange_messages_equal_a_simulated_run(host, variant, transforms):
    tree = settings(
        host__name=host,
        variant=variant,
        fusion__operators="id,visual",
        server__clients_per_round=COHORT,
        aggregation__transforms=transforms,
        aggregation__clip_norm=0.2,  # which some uploads exceed
        aggregation__noise_multiplier=0.1,
    )
    algorithm, data = make_algorithm(tree, DATASET), client_data(DATASET)
    start = first_state(algorithm)
    simulated, _ = jax.jit(algorithm.run, static_argnums=2)(start, data, ROUNDS)

    programs, public = compiled(algorithm), start.public
    histories = dict(zip(data.buckets[0].user.tolist(), data.buckets[0].history, strict=True))
    states = {u: jax.tree.map(lambda x, u=u: x[u], start.private) for u in histories}
    for _ in range(ROUNDS):
        public = deployed_round(algorithm, programs, public, states, histories, data.content, start.key)

    assert relative_difference(simulated.public.params, start.public.params) > 1e-4
    assert relative_difference(public, simulated.public) <= 1e-6
    private = jax.tree.map(lambda *x: jnp.stack(x), *(states[u] for u in sorted(states)))
    assert relative_difference(private, simulated.private) <= 1e-6
    assert all(program._cache_size() == 1 for program in programs)


@pytest.mark.parametrize("transforms", ["", "clip", "clip,local_noise"])
def test_a_device_says_so_where_a_simulation_would_leave_it_out(transforms):
    """Also where its loss is finite, and a clip makes zeros of an upload that is not: nobody could see it later."""
    tree = settings(
        host__name="fcf",
        variant="base",
        client__steps=20,
        compute__path="uploads",
        aggregation__transforms=transforms,
        aggregation__noise_multiplier=0.5,
    )
    algorithm, data = make_algorithm(tree, DATASET), client_data(DATASET)
    start, broken = jax.jit(algorithm.init)(jax.random.key(0)), int(np.argmin(np.bincount(DATASET.train_user)))
    # All scores are zero, and the cotangents of many steps add up to more than the client's own vector.
    params = jax.tree.map(lambda x: x.at[broken].set(3e38), start.private.params)
    public = start.public.replace(params=jax.tree.map(jnp.zeros_like, start.public.params))
    start = start.replace(public=public, private=start.private.replace(params=params))
    simulated, info = jax.jit(algorithm.run, static_argnums=2)(start, data, 1)
    assert int(info.num_dropped[0]) == 1

    broadcast, _ = algorithm.server.open_round(start.public, data.content)
    bucket, client_round = data.buckets[0], jax.jit(algorithm.client_round)
    key = sampling.stream(start.key, sampling.CLIENT, 0)
    for u, history_l in zip(bucket.user.tolist(), bucket.history, strict=True):
        own = jax.tree.map(lambda x, u=u: x[u], start.private)
        own_key = sampling.entity_keys(key, jnp.array([u]))[0]
        moved, _, loss = client_round(broadcast, own, history_l, own_key, own_key, jnp.int32(0))
        assert np.isnan(loss) == (u == broken)
        assert relative_difference(moved, jax.tree.map(lambda x, u=u: x[u], simulated.private)) <= 1e-5
