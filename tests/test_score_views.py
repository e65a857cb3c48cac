"""Score views and the weights of host fedblend against NumPy in float64, and what leaves a client."""

from __future__ import annotations

import dataclasses
import functools
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import client_data, histories, settings, tiny_dataset

from configs.benchmark.base import BLEND, fields
from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.baselines import select
from fedvlr_jax.data import load_configured
from fedvlr_jax.data.buckets import make_buckets
from fedvlr_jax.evaluation.metrics import user_values
from fedvlr_jax.federated import view_choice, view_maps
from fedvlr_jax.federated.held_back import hold_back, mean_ndcg
from fedvlr_jax.federated.score_views import (
    SHAPES,
    VIEWS,
    coordinates,
    kept_map,
    view_scores,
    weight_names,
    whole_views,
)
from fedvlr_jax.settings import default_settings, override
from fedvlr_jax.training import all_views
from fedvlr_jax.training.experiment import make_experiment
from fedvlr_jax.training.loop import train_in_memory
from fedvlr_jax.training.score_views import ConfiguredViews

RNG = np.random.default_rng(0)
PLAIN = tiny_dataset()
AGES = np.concatenate([RNG.permutation(len(items)) for items in histories(PLAIN)]).astype(np.int32)
DATASET = dataclasses.replace(PLAIN, train_age=AGES)
CHOICE = view_maps.Choice(
    ridge=5.0,
    ridge_next=7.0,
    next_weight=2.0,
    ridge_near=3.0,
    near_weight=4.0,
    strength={"visual": 0.3, "text": 0.1},
    ridge_collective=6.0,
    kernel={"visual": "cos", "text": "cubed"},
)
SIZE = len(weight_names())
SHARED_ONLY = {
    "host__name": "fedblend",
    "variant": "base",
    "host__fusion_weight": 0.0,
    "host__deviation": 0.0,
    "host__choose_order": False,
}


@pytest.fixture(scope="module")
def views():
    """The views of all clients by the package, [u, i, v], and those of the oracle by name."""
    sums = view_maps.federate(DATASET)
    experiment = make_experiment(settings(**SHARED_ONLY), DATASET)
    maps = {name: jnp.asarray(x) for name, x in view_maps.form(sums, DATASET, CHOICE)}
    prior = experiment.clients.prior._replace(z_uiv=None, maps=maps)
    (bucket,) = client_data(DATASET).buckets
    return np.asarray(jax.jit(whole_views)(prior, bucket)), oracle_views()


def pairs_of(u):
    """(item, age) of the rows of a client."""
    rows = DATASET.train_user == u
    return list(zip(DATASET.train_item[rows].tolist(), DATASET.train_age[rows].tolist(), strict=True))


def oracle_ease(gram, ridge):
    inverse = np.linalg.inv(gram + ridge * np.eye(len(gram)))
    return np.eye(len(gram)) - inverse / np.diag(inverse)[None, :]


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


def loss_of(y, evidence, power):
    """Mean over clients of the mean over held-back items of (1 - p^q) / q, in float64."""
    base, x, target, candidate = (np.asarray(x, float) for x in evidence)
    losses = []
    for u in range(len(x)):
        s = base[u] + x[u] @ y
        log_p = s - np.log(np.exp(s[candidate[u] > 0]).sum())
        loss = (1 - np.exp(power * log_p)) / power if power else -log_p
        losses.append(loss[target[u] > 0].mean() if target[u].any() else 0.0)
    return np.mean(losses)


@pytest.mark.parametrize("power", [0.5, 0.0])
def test_a_round_is_a_step_along_the_gradient_of_the_shared_weights(power):
    tree = settings(**SHARED_ONLY, client__steps=1, server__lr=1.0, host__loss_power=power)
    experiment = make_experiment(tree, DATASET)
    algorithm, clients = experiment.algorithm, experiment.clients
    start = algorithm.init(jax.random.key(0))
    y = np.linspace(-0.5, 0.5, SIZE)
    head = start.public.params["host"] | {"head": {"y": jnp.asarray(y, jnp.float32)}}
    start = start.replace(public=start.public.replace(params=start.public.params | {"host": head}))
    end, info = jax.jit(algorithm.run, static_argnums=2)(start, clients, 1)
    evidence, step, gradient = clients.evidence, 1e-5, np.zeros(y.size)
    for v in range(y.size):
        moved = [loss_of(y + sign * step * np.eye(y.size)[v], evidence, power) for sign in (1, -1)]
        gradient[v] = (moved[0] - moved[1]) / (2 * step)
    found = y - np.asarray(end.public.params["host"]["head"]["y"])
    np.testing.assert_allclose(found, gradient, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(info.loss[0], loss_of(y, evidence, power), rtol=1e-5)


def test_weights_start_at_the_best_view_in_coordinates_in_which_all_matter_alike():
    """F from its formula in float64, at zero and at the start: turn^T F turn is the identity but for its floor."""
    experiment = make_experiment(settings(**SHARED_ONLY), DATASET)
    views = experiment.clients.prior
    start, turn = (np.asarray(x, float) for x in views.basis)
    quality = [float(views.choice[f"quality {name}"]) for name in VIEWS]
    assert np.flatnonzero(start).tolist() == [int(np.argmax(quality))]
    evidence = [np.asarray(x, float) for x in views.evidence]
    t_ubv = evidence[1] @ np.linalg.inv(turn)  # back from the coordinates
    np.testing.assert_allclose(evidence[0], t_ubv @ start, atol=1e-3)
    fisher = np.zeros((SIZE, SIZE))
    for w in (0 * start, start):
        for u in range(DATASET.num_users):
            if evidence[2][u].any():
                t = t_ubv[u][evidence[3][u] > 0]
                p = np.exp(t @ w) / np.exp(t @ w).sum()
                fisher += np.cov(t.T, aweights=p, bias=True) / (2 * DATASET.num_users)
    floor = 1e-3 * np.linalg.eigvalsh(fisher)[-1]
    np.testing.assert_allclose(turn @ turn.T @ (fisher + floor * np.eye(SIZE)), np.eye(SIZE), atol=0.02)


def test_before_the_first_round_the_blend_ranks_as_its_best_view():
    experiment = make_experiment(settings(**SHARED_ONLY), DATASET)
    algorithm, clients = experiment.algorithm, experiment.clients
    params = algorithm.snapshot(algorithm.init(jax.random.key(0)), clients.content, clients.prior)
    best = int(np.argmax(clients.prior.basis.start_k))
    for bucket in clients.buckets:
        z_ci = np.asarray(whole_views(clients.prior, bucket))[..., best]
        expected = clients.prior.basis.start_k[best] * z_ci
        np.testing.assert_allclose(algorithm.score(params, bucket), expected, rtol=1e-4, atol=1e-5)


def test_round_0_is_evaluated_and_may_be_the_best():
    tree = settings(**SHARED_ONLY, server__lr=0.0, client__lr=0.0, rounds=2, eval__every=2)
    experiment = make_experiment(tree, DATASET)
    progress = train_in_memory(experiment).progress
    quality = [float(value) for name, value in experiment.clients.prior.choice.items() if name.startswith("quality")]
    assert progress.best_round == 0
    assert progress.best_value == pytest.approx(max(quality), abs=1e-5)


def test_a_map_of_strongest_entries_scores_as_the_map_without_the_others(views):
    """With all entries kept it is the map; with some, those dropped are zeros."""
    (bucket,), count = client_data(DATASET).buckets, jnp.ones(DATASET.num_items)
    dense = jnp.asarray(RNG.normal(size=(DATASET.num_items,) * 2), jnp.float32)
    for size in (DATASET.num_items - 1, 7):
        kept = kept_map(np.asarray(dense), size)
        cut = np.where(np.abs(dense) >= np.sort(np.abs(dense), axis=1)[:, [-size]], dense, 0)
        found, expected = (view_scores({"ease": x}, count, bucket.history, None)[0] for x in (kept, jnp.asarray(cut)))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_only_the_gradient_of_the_weights_leaves_a_client_in_a_round():
    algorithm = make_experiment(settings(**SHARED_ONLY), DATASET).algorithm
    assert algorithm.cost.bytes_up_per_client == algorithm.cost.bytes_down_per_client == 4 * SIZE
    public = algorithm.init(jax.random.key(0)).public
    broadcast = algorithm.model.publish(public.params, client_data(DATASET).content)
    assert broadcast.rows == {}
    assert [x.shape for x in jax.tree.leaves(broadcast.head)] == [(SIZE,)]


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


def test_validation_rows_choose_where_learning_starts_and_test_rows_nothing():
    def views_of(**held):
        return make_experiment(settings(**SHARED_ONLY), dataclasses.replace(DATASET, **held)).clients.prior

    views = views_of()
    for a, b in zip(*(jax.tree.leaves(x) for x in (views, views_of(test_item=DATASET.test_item[::-1]))), strict=True):
        np.testing.assert_array_equal(a, b)
    other = views_of(valid_item=DATASET.valid_item[::-1])
    np.testing.assert_array_equal(views.z_uiv, other.z_uiv)
    np.testing.assert_array_equal(views.evidence.target_b, other.evidence.target_b)
    changed = {name for name, value in views.choice.items() if value != other.choice[name]}
    assert changed
    assert all(name.startswith("quality") for name in changed)


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


FAULTS = {
    "no times": {"train_age": None},
    "no features": {"V": None, "C": None},
    "one modality": {"V": None},
    "neither": {"V": None, "C": None, "train_age": None},
    "times that mean nothing": {"train_age": 0 * AGES},
    "features that are all alike": {"V": np.ones_like(PLAIN.V), "C": None},
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_any_data_set_trains_and_ranks(fault):
    dataset = dataclasses.replace(DATASET, **FAULTS[fault])
    algorithm, clients = make_experiment(settings(**SHARED_ONLY, server__lr=0.3), dataset)[3:1:-1]
    state, info = jax.jit(algorithm.run, static_argnums=2)(algorithm.init(jax.random.key(0)), clients, 30)
    assert info.loss[-1] < info.loss[0]
    assert not info.num_dropped.any()
    params = algorithm.snapshot(state, clients.content, clients.prior)
    for bucket in clients.buckets:
        assert np.isfinite(algorithm.score(params, bucket)).all()


def test_drawn_candidates_hold_the_targets_and_nothing_of_the_history():
    everything, some = (
        make_experiment(settings(**SHARED_ONLY, host__candidates=n), DATASET).clients.evidence for n in (0, 12)
    )
    assert everything.x_bk.shape[1] == DATASET.num_items
    assert some.x_bk.shape[1] == 12
    np.testing.assert_array_equal(some.target_b.sum(axis=1), everything.target_b.sum(axis=1))
    assert some.candidate_b.all()
    assert not (everything.target_b > everything.candidate_b).any()


def test_views_and_draws_do_not_depend_on_how_many_clients_are_formed_at_once(monkeypatch):
    formed = ConfiguredViews(settings(**SHARED_ONLY), DATASET).formed(DATASET).formed
    inner, drawn = formed.inner._replace(z_uiv=None), []
    for size in (7, 256):
        monkeypatch.setattr(all_views, "CHUNK", size)
        drawn.append(all_views.draw_candidates(inner, formed.target_um, 12, seed=3))
    np.testing.assert_allclose(drawn[0].z_ubv, drawn[1].z_ubv, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(drawn[0].target_ub, drawn[1].target_ub)
    np.testing.assert_array_equal(drawn[0].candidate_ub, drawn[1].candidate_ub)


def test_a_deviation_is_private_and_stays_small():
    tree = settings(**(SHARED_ONLY | {"host__deviation": 0.01}), client__lr=0.5)
    algorithm, clients = make_experiment(tree, DATASET)[3:1:-1]
    state, _ = jax.jit(algorithm.run, static_argnums=2)(algorithm.init(jax.random.key(0)), clients, 50)
    d_uv = 0.1 * np.asarray(state.private.params["theta"]["d"])
    assert 0 < np.abs(d_uv).max() < 0.5
    broadcast = algorithm.model.publish(state.public.params, clients.content)
    assert [x.shape for x in jax.tree.leaves(broadcast)] == [(SIZE,)]


def test_trained_logits_are_one_more_view():
    tree = settings(**(SHARED_ONLY | {"host__fusion_weight": 0.5}))
    algorithm, clients = make_experiment(tree, DATASET)[3:1:-1]
    state = algorithm.init(jax.random.key(0))
    params, bucket = algorithm.snapshot(state, clients.content, clients.prior), clients.buckets[0]
    alone = np.asarray(algorithm.score(params._replace(prior=None), bucket))
    scaled = (alone - alone.mean(axis=1, keepdims=True)) / alone.std(axis=1, keepdims=True)
    base, _ = coordinates(whole_views(clients.prior, bucket), clients.prior.basis)  # y = 0
    np.testing.assert_allclose(algorithm.score(params, bucket), base + 0.5 * scaled, rtol=1e-4, atol=1e-5)


def test_make_algorithm_needs_no_views():
    """Only the rounds need them; an algorithm is made of sizes and features."""
    assert make_algorithm(settings(**SHARED_ONLY), DATASET).cost.num_public == SIZE


@pytest.mark.parametrize(
    "aggregation", [{"aggregator": "median"}, {"transforms": "clip,noise", "noise_multiplier": 0.1}]
)
def test_uploads_of_a_head_alone_are_clipped_joined_and_made_noisy(aggregation):
    tree = settings(**SHARED_ONLY, **{f"aggregation__{name}": x for name, x in aggregation.items()})
    algorithm, clients = make_experiment(tree, DATASET)[3:1:-1]
    state, info = jax.jit(algorithm.run, static_argnums=2)(algorithm.init(jax.random.key(0)), clients, 2)
    assert np.isfinite(state.public.params["host"]["head"]["y"]).all()
    assert (info.update_norm > 0).all()


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


def test_features_enter_the_gram_matrix_of_collective_ease():
    gram = np.cov(RNG.normal(size=(6, 30))).astype(np.float32)
    centred = {m: RNG.normal(size=(6, 3)).astype(np.float32) for m in ("visual", "text")}
    full = gram + 2.0 * (0.3 * centred["visual"] @ centred["visual"].T + 0.1 * centred["text"] @ centred["text"].T)
    found = view_maps.collective(gram, centred, {"visual": 0.3, "text": 0.1}, 2.0)
    np.testing.assert_allclose(found, oracle_ease(full.astype(float), 2.0) * (1 - np.eye(6)), rtol=1e-3, atol=1e-4)


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
