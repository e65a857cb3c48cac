"""Noise on every client: all rows have it, it is one's own, and what it is worth is that of one client's uploads."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws.rounds import DATASET, client, late_state
from laws.transforms import KEY, upload
from problems import client_data, settings

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.federated.transforms import make_local_noise
from fedvlr_jax.privacy.accounting import guarantee_of
from fedvlr_jax.privacy.gaussian import gaussian_epsilon

LOCAL = {"aggregation__transforms": "clip,local_noise", "variant": "base"}


def test_noise_on_an_upload_has_the_size_that_it_says_on_every_number():
    sent, transform = upload()._replace(ids_n=None), make_local_noise(noise_multiplier=0.5, clip_norm=3.0)
    draws, _ = jax.jit(jax.vmap(transform.client, in_axes=(0, None, None)))(jax.random.split(KEY, 2_000), sent, ())
    for noisy, x in zip(*(jax.tree.leaves((u.rows, u.head)) for u in (draws, sent)), strict=True):
        np.testing.assert_allclose(np.std(noisy, axis=0), 1.5, rtol=0.08)
        np.testing.assert_allclose(np.mean(noisy, axis=0), x, atol=0.2)


def test_a_device_sends_the_rows_of_all_items_with_noise_of_its_own():
    """Which rows there are says nothing about which were touched; two clients draw two noises."""
    algorithm = make_algorithm(settings(aggregation__noise_multiplier=1.0, **LOCAL), DATASET)
    state, data = late_state(algorithm, 0), client_data(DATASET)
    downloaded, (bucket,) = algorithm.model.publish(state.public.params, data.content), data.buckets
    client_round, rows = jax.jit(algorithm.client_round), []
    for slot in (3, 4):
        keys = (jax.random.key(1), jax.random.fold_in(KEY, slot))
        local = client(state.private, int(bucket.user[slot]))
        _, sent, _ = client_round(downloaded, local, bucket.history[slot], *keys, jnp.int32(0))
        assert sent.ids_n is None
        rows.append(np.asarray(sent.rows["views"]).reshape(DATASET.num_items, -1))
    for x in rows:
        assert (np.linalg.norm(x, axis=1) > 0.5).all()
    assert abs(np.corrcoef(rows[0].ravel(), rows[1].ravel())[0, 1]) < 0.3


def test_what_one_client_sends_is_accounted_for_any_two_histories():
    common = {"privacy__delta": 1e-3, "rounds": 25, "server__clients_per_round": 5, **LOCAL}
    given = guarantee_of(settings(aggregation__noise_multiplier=30.0, **common), 13)
    assert given.epsilon(25) == pytest.approx(gaussian_epsilon(1e-3, 2 * 5 / 30.0))
    solved = guarantee_of(settings(privacy__target_epsilon=8.0, **common), 13)
    assert 7.99 < solved.epsilon(25) <= 8.0
    described = solved.describe(25)
    assert described["mode"].startswith("local")
    assert described["neighbours"] == "any two histories of one client"
    assert described["sampling"] == "all clients in every round"  # a client may have been in each


def test_local_noise_comes_last_and_alone():
    for transforms in (
        "local_noise",
        "clip,local_noise,top_rows",
        "clip,round8,local_noise",
        "clip,noise,local_noise",
    ):
        with pytest.raises(ConfigError, match=r"aggregation.transforms"):
            make_algorithm(settings(aggregation__transforms=transforms), DATASET)
    with pytest.raises(ConfigError, match=r"privacy.prior_share: .* expected 0 with local_noise"):
        guarantee_of(
            settings(privacy__delta=1e-3, privacy__target_epsilon=8.0, privacy__prior_share=0.5, **LOCAL), 13
        )
    with pytest.raises(ConfigError, match=r"secure.sum"):  # numbers with noise have no bound
        make_algorithm(settings(secure__sum=True, **LOCAL), DATASET)
