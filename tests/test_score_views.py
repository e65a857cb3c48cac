"""Every score view and map against NumPy in float64, and the sums that they are formed of."""

from __future__ import annotations

import dataclasses
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import client_data, histories, settings
from score_view_problem import CHOICE, DATASET, SHARED_ONLY, oracle_ease, pairs_of

from fedvlr_jax.federated import view_maps
from fedvlr_jax.federated.score_views import SHAPES, VIEWS, kept_map, view_scores, whole_views
from fedvlr_jax.training.experiment import make_experiment

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def views():
    """The views of all clients by the package, [u, i, v], and those of the oracle by name."""
    sums = view_maps.federate(DATASET)
    experiment = make_experiment(settings(**SHARED_ONLY), DATASET)
    maps = {name: jnp.asarray(x) for name, x in view_maps.form(sums, DATASET, CHOICE)}
    prior = experiment.clients.prior._replace(z_uiv=None, maps=maps)
    (bucket,) = client_data(DATASET).buckets
    return np.asarray(jax.jit(whole_views)(prior, bucket)), oracle_views()


def oracle_maps():
    """Every map from its formula, with sums written out pair by pair."""
    size = DATASET.num_items
    gram, near, past, after, count = (np.zeros((size, size)) for _ in range(5))
    for u in range(DATASET.num_users):
        for i, age_i in pairs_of(u):
            count[i] += 1
            for j, age_j in pairs_of(u):
                gram[i, j] += 1
                near[i, j] += (1 + abs(age_i - age_j)) ** -0.5
                if age_i > age_j:  # i is older than j
                    after[i, j] += (age_i - age_j) ** -0.75
                for _, now in pairs_of(u):
                    if age_i > now and age_j > now:
                        past[i, j] += (age_i - now) ** -0.75 * (age_j - now) ** -0.75
    V, C = (x - x.mean(axis=0) for x in (DATASET.V.astype(float), DATASET.C.astype(float)))
    collective = gram + CHOICE.ridge_collective * (0.3 * V @ V.T + 0.1 * C @ C.T)
    follow = np.linalg.solve(past + CHOICE.ridge_next * np.eye(size), after)
    maps = {"ease": oracle_ease(gram, CHOICE.ridge), "next": follow}
    maps["following"] = maps["ease"] + CHOICE.next_weight * follow
    maps["prior"] = oracle_ease(near, CHOICE.ridge_near) + CHOICE.near_weight * follow
    maps["collective"] = oracle_ease(collective, CHOICE.ridge_collective)
    for name, x, power in (("visual", V, lambda k: k), ("text", C, lambda k: np.maximum(k, 0) ** 3)):
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        cosine = unit @ unit.T
        maps[name] = power(cosine) * (1 - np.eye(size))
        weight = np.exp(12 * cosine) * (1 - np.eye(size)) * (count[:, 0] > 0)[None]
        maps[f"{name} neighbours"] = weight / weight.sum(axis=1, keepdims=True)
    return maps, count[:, 0]


def oracle_views():
    """Scores of all clients [u, i] by view, before they are standardised."""
    maps, count = oracle_maps()
    flat, recent = (np.zeros((DATASET.num_users, DATASET.num_items)) for _ in range(2))
    for u in range(DATASET.num_users):
        for item, age in pairs_of(u):
            flat[u, item], recent[u, item] = 1, (1 + age) ** -0.75
    following = maps["following"]
    found = {
        "ease": flat @ maps["ease"],
        "recent ease": recent @ maps["ease"],
        "next": recent @ maps["next"],
        "prior": recent @ maps["prior"],
        "collective": flat @ maps["collective"],
        "popularity": np.tile(np.log(1 + count), (DATASET.num_users, 1)),
        "novelty": np.tile((count == 0).astype(float), (DATASET.num_users, 1)),
    }
    for name in ("visual", "text"):
        found[name] = flat @ maps[name]
        found[f"{name} targets"] = recent @ following @ maps[f"{name} neighbours"].T
        found[f"{name} sources"] = recent @ maps[f"{name} neighbours"] @ following
    return found


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_is_its_formula(views, name):
    z_uiv, oracle = views
    for u, items in enumerate(histories(DATASET)):
        candidate = np.setdiff1d(np.arange(DATASET.num_items), items)
        s = oracle[name][u, candidate]
        np.testing.assert_allclose(
            z_uiv[u, candidate, list(VIEWS).index(name)], (s - s.mean()) / s.std(), rtol=2e-3, atol=2e-3
        )
        assert (z_uiv[u, items] == 0).all()


def test_shapes_are_their_formulas():
    z = np.concatenate([-np.logspace(-8, 4, 200), [0.0], np.logspace(-8, 4, 200)])
    for name, expected in {"plain": z, "logarithmic": np.arcsinh(3 * z) / 3}.items():
        np.testing.assert_allclose(SHAPES[name](jnp.asarray(z, jnp.float32)), expected, rtol=3e-7, atol=1e-7)


def test_every_view_has_an_oracle(views):
    assert set(views[1]) == set(VIEWS)


def test_a_map_of_strongest_entries_scores_as_the_map_without_the_others(views):
    """With all entries kept it is the map; with some, those dropped are zeros."""
    (bucket,), count = client_data(DATASET).buckets, jnp.ones(DATASET.num_items)
    dense = jnp.asarray(RNG.normal(size=(DATASET.num_items,) * 2), jnp.float32)
    for size in (DATASET.num_items - 1, 7):
        kept = kept_map(np.asarray(dense), size)
        cut = np.where(np.abs(dense) >= np.sort(np.abs(dense), axis=1)[:, [-size]], dense, 0)
        found, expected = (view_scores({"ease": x}, count, bucket.history, None)[0] for x in (kept, jnp.asarray(cut)))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_each_sum_is_dropped_where_it_is_read_no_more():
    """A matrix over a large catalogue is a tenth of the memory of a run."""
    gram_ii, ordered = view_maps.federate(DATASET)
    alive = {"gram": gram_ii, "past": ordered.past_ii, "next": ordered.next_ii, "similar": ordered.similar_ii}
    alive = {name: weakref.ref(x) for name, x in alive.items()}
    handed = [view_maps.ViewSums(gram_ii, ordered)]
    del gram_ii, ordered
    left = {
        name: {of for of, found in alive.items() if found() is not None}
        for name, _ in view_maps.form(handed.pop(), DATASET, CHOICE)
    }
    assert left["collective"] == {"gram", "past", "next", "similar"}
    assert left["next"] == {"similar"}
    assert left["prior"] == set()


def test_before_the_rounds_only_sums_over_clients_leave_them():
    """The server's maps are a function of the sums: clients in another order, or rows withheld, change nothing."""
    sums = view_maps.federate(DATASET)
    nobody = dataclasses.replace(DATASET, train_user=None, train_item=None, train_age=None, valid_item=None)
    swapped = np.argsort(-DATASET.train_user, kind="stable")
    other = dataclasses.replace(
        DATASET,
        train_user=DATASET.num_users - 1 - DATASET.train_user[swapped],
        train_item=DATASET.train_item[swapped],
        train_age=DATASET.train_age[swapped],
    )
    expected = dict(view_maps.form(sums, DATASET, CHOICE))
    for found in (dict(view_maps.form(x, nobody, CHOICE)) for x in (sums, view_maps.federate(other))):
        assert set(found) == set(expected)
        for name, x in expected.items():
            np.testing.assert_allclose(found[name], x, rtol=1e-4, atol=1e-5)


def test_features_enter_the_gram_matrix_of_collective_ease():
    gram = np.cov(RNG.normal(size=(6, 30))).astype(np.float32)
    centred = {m: RNG.normal(size=(6, 3)).astype(np.float32) for m in ("visual", "text")}
    full = gram + 2.0 * (0.3 * centred["visual"] @ centred["visual"].T + 0.1 * centred["text"] @ centred["text"].T)
    found = view_maps.collective(gram, centred, {"visual": 0.3, "text": 0.1}, 2.0)
    np.testing.assert_allclose(found, oracle_ease(full.astype(float), 2.0) * (1 - np.eye(6)), rtol=1e-3, atol=1e-4)
