"""What is chosen before the rounds: held-back items, settings of maps, and whether times mean anything."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest
from problems import histories, settings, tiny_dataset
from score_view_problem import DATASET, SHARED_ONLY, pairs_of

from configs.benchmark.base import BLEND, fields
from fedvlr_jax.baselines import select
from fedvlr_jax.data import load_configured
from fedvlr_jax.data.buckets import make_buckets
from fedvlr_jax.evaluation.metrics import user_values
from fedvlr_jax.federated import view_choice, view_maps
from fedvlr_jax.federated.held_back import HeldBack, hold_back, mean_ndcg
from fedvlr_jax.settings import default_settings, override
from fedvlr_jax.training.experiment import make_experiment
from fedvlr_jax.training.loop import train_in_memory

RNG = np.random.default_rng(0)


def test_the_newest_items_are_held_back_and_the_rest_has_ages_of_its_own():
    held = hold_back(DATASET)
    for u, items in enumerate(histories(DATASET)):
        newest = [item for item, _ in sorted(pairs_of(u), key=lambda pair: pair[1])]
        count = 0 if len(items) < 2 else min(3, max(1, len(items) // 3))
        assert held.target_um[u][held.target_um[u] >= 0].tolist() == newest[:count]
        rows = held.inner.train_user == u
        order = np.argsort(held.inner.train_age[rows])
        assert held.inner.train_item[rows][order].tolist() == newest[count:]
        assert sorted(held.inner.train_age[rows].tolist()) == list(range(len(items) - count))


def test_the_number_that_choices_go_by_is_the_mean_of_the_clients_own():
    held = hold_back(DATASET)
    score = RNG.normal(size=(DATASET.num_users, DATASET.num_items))
    own = []
    for u in range(DATASET.num_users):
        known = held.inner.train_item[held.inner.train_user == u]
        order = [i for i in np.argsort(-score[u]) if i not in known]
        places = [order.index(t) for t in held.target_um[u] if t >= 0]
        if places:
            own.append(np.mean([1 / np.log2(2 + place) if place < 50 else 0 for place in places]))
    assert mean_ndcg(score, held) == pytest.approx(np.mean(own))


def test_clients_of_one_item_choose_by_validation_since_they_hold_nothing_back():
    users = np.arange(DATASET.num_users)
    dataset = dataclasses.replace(
        DATASET,
        train_user=users.astype(np.int32),
        train_item=np.roll(DATASET.valid_item, 1),
        train_age=np.zeros(len(users), np.int32),
        valid_item=DATASET.valid_item,
        V=None,
        C=DATASET.C[::-1],
    )
    held = HeldBack(dataset, dataset.valid_item[:, None])
    assert not (hold_back(dataset).target_um >= 0).any()
    history_ui = np.eye(dataset.num_items)[dataset.train_item]
    (centred,) = view_maps.centred_by_modality(dataset).values()
    quality = [
        mean_ndcg(history_ui @ view_maps.content_kernel(centred, kernel), held) for kernel in view_maps.KERNELS
    ]
    assert np.argmax(quality) > 0  # or the first would do
    chosen = make_experiment(settings(**SHARED_ONLY), dataset).clients.prior.choice
    assert int(chosen["kernel text"]) == np.argmax(quality)


def test_maps_that_were_formed_to_choose_are_those_of_the_choice():
    """What is kept of choosing is not formed again; a larger catalogue, which keeps nothing, chooses the same."""
    features = [RNG.normal(size=(30, 4)).astype(np.float32) for _ in range(2)]
    dataset = dataclasses.replace(chain(order=True), V=features[0], C=features[1])
    held = hold_back(dataset)
    sums = view_maps.federate(held.inner)
    choice, maps = view_choice.choose(sums, held, dataset)
    assert choice.near_weight > 0
    assert set(maps) == {"ease", "collective", "visual", "text", "next", "prior"}
    formed = dict(view_maps.form(sums, dataset, choice))
    for name, x in maps.items():
        np.testing.assert_allclose(x, formed[name], rtol=1e-4, atol=1e-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(view_choice, "KEPT_ITEMS", 0)
        assert view_choice.choose(sums, held, dataset) == (choice, {})


def test_sums_of_two_maps_are_judged_as_the_map_that_they_are():
    held = hold_back(DATASET)
    judge = view_choice.judge_of(held)
    first, following = (RNG.normal(size=(DATASET.num_items,) * 2).astype(np.float32) for _ in range(2))
    expected = [(mean_ndcg(judge.recent_ui @ (first + x * following), held), x) for x in view_choice.NEXT_WEIGHTS]
    assert judge.best_weight(first, following) == pytest.approx(max(expected))


def chain(order):
    """60 clients of 9 items that follow each other on a ring of 30, or stand beside each other in rows by id."""
    users, length, size = 60, 9, 30
    rng = np.random.default_rng(5)
    items = (rng.integers(0, size, users)[:, None] + np.arange(length)) % size
    age = np.broadcast_to(np.arange(length - 2)[::-1], (users, length - 2))
    if not order:
        items = rng.permuted(items, axis=1)
        items[:, :-2].sort(axis=1)
    train, sort = items[:, : length - 2], np.argsort(items[:, : length - 2], axis=1)
    return dataclasses.replace(
        tiny_dataset(users, size),
        train_user=np.repeat(np.arange(users), length - 2).astype(np.int32),
        train_item=np.take_along_axis(train, sort, axis=1).reshape(-1).astype(np.int32),
        train_age=np.take_along_axis(age, sort, axis=1).reshape(-1).astype(np.int32),
        valid_item=items[:, -2].astype(np.int32),
        test_item=items[:, -1].astype(np.int32),
        V=None,
        C=None,
    )


@pytest.mark.parametrize("order", [True, False])
def test_a_run_reads_the_order_of_time_where_validation_says_that_it_means_something(order):
    tree = settings(**(SHARED_ONLY | {"host__choose_order": True}))
    dataset = chain(order)
    experiment = make_experiment(tree, dataset)
    chosen = {name: float(x) for name, x in experiment.clients.prior.choice.items()}
    assert chosen["order"] == order
    assert (experiment.clients.prior.age_r is not None) == order
    if not order:
        plain = make_experiment(tree, dataclasses.replace(dataset, train_age=None)).clients.prior
        for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(experiment.clients.prior), strict=True):
            np.testing.assert_array_equal(a, b)


def ages(dataset, kind):
    """Times that mean nothing: the order of rows, or a random one."""
    order = {"rows": lambda size: np.arange(size)[::-1], "random": np.random.default_rng(0).permutation}[kind]
    return np.concatenate([order(len(items)) for items in histories(dataset)]).astype(np.int32)


PRIOR = fields(
    client__lr=2.0,
    client__l2=0.02,
    client__steps=2,
    server__l2=0.001,
    host__choose_prior=True,
    host__model_weight=0.003,
    rounds=30,
)
OWN = {"fedblend": BLEND, "fedprior": PRIOR}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rows", "random"])
@pytest.mark.parametrize("name", ["KU", "synthetic"])
@pytest.mark.parametrize("host", OWN)
@pytest.mark.filterwarnings("ignore::fedvlr_jax.data.messages.DataWarning")  # repeated rows of KU
def test_times_that_mean_nothing_do_not_push_a_host_below_ease(host, name, kind, request):
    """Not significantly below EASE and content-EASE, which read no times; a blend on validation never below its best
    view."""
    root = str(request.getfixturevalue("ku_folder").parent) if name == "KU" else ""
    tree = override(
        default_settings(),
        OWN[host].to_dict() | {"host.name": host, "variant": "base", "data.name": name, "data.dir": root},
    )
    dataset = load_configured(tree["data"])
    dataset = dataclasses.replace(dataset, train_age=ages(dataset, kind))
    experiment = make_experiment(tree, dataset)
    trained = train_in_memory(experiment)
    if host == "fedblend":
        best = max(
            float(value) for key, value in experiment.clients.prior.choice.items() if key.startswith("quality")
        )
        assert trained.progress.best_value >= best - 1e-4
    for linear, value_u in linear_values(name, root).items():
        gain_u = user_values(trained.ranks, "NDCG@50") - value_u
        assert gain_u.mean() > -2 * gain_u.std() / np.sqrt(gain_u.size), linear


@functools.cache
def linear_values(name, root):
    """NDCG@50 of every user by EASE and content-EASE, which read no times."""
    dataset = load_configured(override(default_settings(), {"data.name": name, "data.dir": root})["data"])
    buckets = make_buckets(dataset)
    return {
        linear: user_values(select(dataset, buckets, linear).ranks, "NDCG@50") for linear in ("ease", "content_ease")
    }
