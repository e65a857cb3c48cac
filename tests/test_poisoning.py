"""Promoters: what they send, that nobody changes nothing, and that a plain mean lets them through."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws.aggregators import broadcast, make_aggregator, sent
from problems import relative_difference, settings, tiny_dataset

from fedvlr_jax.audit import poisoning
from fedvlr_jax.audit.poisoning import promoted, promotion
from fedvlr_jax.audit.promoters import PROMOTERS, QUIET, Plan, send, with_fans
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.federated.aggregation import make_weighted_mean
from fedvlr_jax.federated.transforms import upload_norm

TARGETS, POPULAR = np.array([1, 4]), np.array([0, 2, 3])


def joined(num_promoters: int):
    """The mean of five honest uploads with promoters, the broadcast, and the honest uploads."""
    like = jax.tree.map(lambda x: jax.random.normal(jax.random.key(0), x.shape), broadcast())
    attacked, of = promoted(make_weighted_mean(), Plan(TARGETS, POPULAR, num_promoters), "twins"), sent()
    carry = attacked.add(attacked.init(like, 5), of.uploads, jnp.ones(5))
    return attacked.finish(carry, jnp.float32(5)), like, of


@pytest.mark.slow
def test_without_promoters_the_mean_is_that_of_the_honest():
    found, _, of = joined(0)
    plain = make_aggregator("weighted_mean")
    honest = plain.finish(plain.add(plain.init(broadcast(), 5), of.uploads, jnp.ones(5)), jnp.float32(5))
    assert relative_difference(found, honest) <= 1e-6


def test_promoters_pull_their_targets_to_the_popular_with_the_mean_norm():
    (honest, like, of), (found, _, _) = joined(0), joined(3)
    sent_by_one = jax.tree.map(lambda a, b: (8 * a - 5 * b) / 3, found, honest)
    views = np.asarray(sent_by_one.rows["views"])
    norm = float(np.mean(jax.vmap(upload_norm)(of.uploads)))
    assert np.linalg.norm(views) == pytest.approx(norm, rel=1e-5)
    away = np.asarray(like.rows["views"])[TARGETS] - np.asarray(like.rows["views"])[POPULAR].mean(axis=0)
    np.testing.assert_allclose(views[TARGETS], away * norm / np.linalg.norm(away), rtol=1e-3, atol=1e-5)
    assert np.abs(np.delete(views, TARGETS, axis=0)).max() < 1e-5
    assert np.abs(sent_by_one.head["w"]).max() < 1e-5


@pytest.mark.parametrize("name", PROMOTERS)
def test_promoters_have_the_norm_of_honest_clients_and_are_only_as_alike_as_they_mean_to_be(name):
    like = jax.tree.map(lambda x: jax.random.normal(jax.random.key(0), (400, *x.shape[1:])), broadcast())
    uploads = send(like, Plan(TARGETS, POPULAR, 4), name, jnp.float32(3.0))
    np.testing.assert_allclose(jax.vmap(upload_norm)(uploads), 3.0, rtol=1e-5)
    flat = np.concatenate([np.reshape(x, (4, -1)) for x in jax.tree.leaves(uploads)], axis=1) / 3
    of_others = (flat @ flat.T)[~np.eye(4, dtype=bool)]
    least, most = {"twins": (1 - 1e-5, 1 + 1e-5), "noisy": (0.4, 0.6), "divided": (-0.1, 0.5), "quiet": (-0.1, 0.1)}[
        name
    ]
    assert least < of_others.min()
    assert of_others.max() < most
    size_pi = np.linalg.norm(np.reshape(uploads.rows["views"], (4, 400, -1)), axis=-1)
    if name == "quiet":
        np.testing.assert_allclose(np.linalg.norm(size_pi[:, TARGETS], axis=1), 3.0 * QUIET, rtol=1e-2)
    else:
        assert set(size_pi.argmax(axis=1)) <= set(TARGETS), "the largest row is that of a target"
    again = send(like, Plan(TARGETS, POPULAR, 4), name, jnp.float32(3.1))
    fresh = relative_difference(again, jax.tree.map(lambda x: 3.1 / 3 * x, uploads)) > 0.1
    assert fresh == (name != "twins"), "noise is new in every round"


@pytest.mark.slow
def test_a_plain_mean_lets_promoters_through():
    tree = settings(variant="base", server__optimizer="adam", server__lr=0.1)
    plan = {"aggregators": "weighted_mean", "promoters": (0.0, 0.25), "train_rounds": 40, "targets": 3, "popular": 5}
    plan |= {"attackers": "twins", "seeds": (0,), "every": 20}
    dataset = tiny_dataset(num_items=150)
    clean, attacked = promotion(tree, lambda seed: dataset, plan)
    assert (clean.attackers, clean.promoters) == ("none", 0.0)
    assert (attacked.attackers, attacked.promoters) == ("twins", 25.0)
    assert attacked.exposure > clean.exposure + 20
    assert 0 <= attacked.ndcg <= 100
    with pytest.raises(ConfigError, match=r"audit.attackers: .*twins"):
        next(promotion(tree, lambda seed: dataset, plan | {"attackers": "twin"}))


def test_a_host_or_a_place_that_is_not_audited_is_refused():
    """Made-up uploads would meet another method: without what the host forms before its rounds."""
    plan = {"aggregators": "weighted_mean", "promoters": (0.0,), "train_rounds": 1, "targets": 3, "popular": 5}
    plan |= {"attackers": "twins", "seeds": (0,), "every": 1}
    for overrides, message in (
        ({"host__name": "fedprior"}, "host.name: .* found fedprior"),
        ({"host__name": "fedblend"}, "host.name: .* found fedblend"),
        ({"compute__store": "memory"}, "audit: expected compute.store device"),
    ):
        with pytest.raises(ConfigError, match=message):
            next(promotion(settings(variant="base", **overrides), lambda seed: tiny_dataset(), plan))


def test_a_share_of_no_client_is_not_shown_as_an_attack():
    plan = {"aggregators": "weighted_mean", "promoters": (0.0, 0.03), "train_rounds": 1, "targets": 3, "popular": 5}
    plan |= {"attackers": "twins", "seeds": (0,), "every": 1}
    with pytest.raises(ConfigError, match=r"one client or more, found 0.03 of the 13 in tiny"):
        next(promotion(settings(variant="base", host__name="fcf"), lambda seed: tiny_dataset(), plan))


def test_data_without_held_out_rows_is_refused():
    """Nothing would be better than nothing, and all numbers zero."""
    dataset = tiny_dataset()
    plan = {"aggregators": "weighted_mean", "promoters": (0.0,), "train_rounds": 1, "targets": 3, "popular": 5}
    plan |= {"attackers": "twins", "seeds": (0,), "every": 1}
    for field, name in (("valid_item", "validation"), ("test_item", "test")):
        without = dataclasses.replace(dataset, **{field: np.full(dataset.num_users, -1, np.int32)})
        with pytest.raises(ConfigError, match=f"audit: expected {name} rows, .* found none in tiny"):
            next(promotion(settings(variant="base", host__name="fcf"), lambda seed, x=without: x, plan))


def test_cohorts_under_promoters_are_drawn_as_the_settings_say(monkeypatch):
    made, drawn = poisoning.make_round, []
    monkeypatch.setattr(poisoning, "make_round", lambda *x, **y: drawn.append(y["poisson"]) or made(*x, **y))
    tree = settings(variant="base", host__name="fcf", server__sampling="poisson", server__clients_per_round=4)
    plan = {"aggregators": "weighted_mean", "promoters": (0.0,), "train_rounds": 1, "targets": 3, "popular": 5}
    next(promotion(tree, lambda seed: tiny_dataset(), plan | {"attackers": "twins", "seeds": (0,), "every": 1}))
    assert drawn == [True]


def test_fans_are_further_users_with_all_targets_and_popular_items():
    dataset = tiny_dataset(num_items=150)
    plan = Plan(np.array([3, 70]), np.array([1, 5, 9, 20]), 4)
    more = with_fans(dataset, plan, seed=0)
    assert more.num_users == dataset.num_users + 4
    old = more.train_user < dataset.num_users
    np.testing.assert_array_equal(more.train_item[old], dataset.train_item)
    for user in range(dataset.num_users, more.num_users):
        items = more.train_item[more.train_user == user]
        assert set(plan.targets) < set(items) <= set(plan.targets) | set(plan.popular)
        assert (np.diff(items) > 0).all()
    assert more.test_item is dataset.test_item
