"""The plain NumPy client that the benchmarks time does the library's batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws.rounds import first_state
from problems import client_data, relative_difference, settings, tiny_dataset

from benchmarks.numpy_client import local_update
from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.federated.client import draw_batch, make_local_update

DATASET = tiny_dataset()


@pytest.mark.parametrize("variant", ["base", "fedvlr"])
def test_numpy_client_equals_the_local_update(variant):
    with jax.enable_x64(True):
        algorithm = make_algorithm(settings(host__name="fcf", variant=variant), DATASET)
        state, data = first_state(algorithm), client_data(DATASET)
        broadcast = algorithm.model.publish(state.public.params, data.content)
        history_l, key = data.buckets[0].history[3], jax.random.key(7)
        local = jax.tree.map(lambda x: x[3], state.private)
        batch = draw_batch(algorithm.local, DATASET.num_items, history_l, key, touched_rows=False)
        stepped, upload, _ = jax.jit(make_local_update(algorithm.model, algorithm.local))(
            broadcast, local, batch, jnp.zeros((), jnp.int32)
        )
        real = np.asarray(history_l) < DATASET.num_items
        params = jax.tree.map(np.asarray, local.params)
        layers = params["variant"]["phi"]["params"] if variant == "fedvlr" else None
        w_d, layers, total = local_update(
            np.asarray(broadcast.rows["views"]),
            params["theta"]["w"],
            layers,
            np.asarray(history_l)[real],
            np.asarray(batch.draw.negative_aln)[:, real],
            settings()["client"]["lr"],
        )
        found = (w_d, total, {} if layers is None else layers)
        phi = stepped.params["variant"]["phi"]["params"] if variant == "fedvlr" else {}
        assert relative_difference(found, (stepped.params["theta"]["w"], upload.rows["views"], phi)) <= 1e-12
