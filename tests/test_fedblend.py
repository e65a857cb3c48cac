"""The weights of host fedblend: where they start, a round against NumPy in float64, and what leaves a client."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import client_data, histories, settings
from score_view_problem import AGES, DATASET, PLAIN, SHARED_ONLY, SIZE

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.benchmark.programs import MethodPrograms
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.evaluation.metrics import ndcg
from fedvlr_jax.federated.held_back import HeldBack, mean_ndcg
from fedvlr_jax.federated.score_views import VIEWS, coordinates, whole_views
from fedvlr_jax.settings import override
from fedvlr_jax.training import all_views, score_views
from fedvlr_jax.training.experiment import make_experiment
from fedvlr_jax.training.loop import train_in_memory
from fedvlr_jax.training.score_views import ConfiguredViews


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


def test_only_the_gradient_of_the_weights_leaves_a_client_in_a_round():
    algorithm = make_experiment(settings(**SHARED_ONLY), DATASET).algorithm
    assert algorithm.cost.bytes_up_per_client == algorithm.cost.bytes_down_per_client == 4 * SIZE
    public = algorithm.init(jax.random.key(0)).public
    broadcast = algorithm.model.publish(public.params, client_data(DATASET).content)
    assert broadcast.rows == {}
    assert [x.shape for x in jax.tree.leaves(broadcast.head)] == [(SIZE,)]


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


def test_swapped_clients_rank_with_the_deviation_of_the_next_one_however_many_are_ranked_at_once():
    tree = settings(**(SHARED_ONLY | {"host__deviation": 1.0}), client__lr=2.0)
    algorithm, clients = make_experiment(tree, DATASET)[3:1:-1]
    state, _ = jax.jit(algorithm.run, static_argnums=2)(algorithm.init(jax.random.key(0)), clients, 20)
    swapped = make_experiment(override(tree, {"host.swapped": True}), DATASET).algorithm
    shifted = jax.tree.map(lambda x: jnp.roll(x, -1, axis=0), state.private)
    (bucket,) = client_data(DATASET).buckets

    def scores(algorithm, private, clients_c):
        params = algorithm.snapshot(state.replace(private=private), clients.content, clients.prior)
        return np.asarray(algorithm.score(params, jax.tree.map(lambda x: x[clients_c], bucket)))

    everybody = np.arange(DATASET.num_users)
    own = scores(algorithm, state.private, everybody)
    expected = scores(algorithm, shifted, everybody)
    assert np.abs(own - expected).max() > 1e-2
    np.testing.assert_allclose(scores(swapped, state.private, everybody), expected, rtol=1e-5, atol=1e-5)
    for user in everybody:
        alone = scores(swapped, state.private, everybody[user : user + 1])
        np.testing.assert_allclose(alone, expected[user : user + 1], rtol=1e-4, atol=1e-4)


def test_without_times_every_seed_holds_back_items_of_its_own():
    plain = dataclasses.replace(DATASET, train_age=None)
    configured = ConfiguredViews(settings(**SHARED_ONLY), plain)
    held = [configured.formed(plain, seed).formed.target_um for seed in (0, 1, 0)]
    np.testing.assert_array_equal(held[0], held[2])
    assert (held[0] != held[1]).any()


def test_what_a_run_draws_it_draws_by_its_own_seed(monkeypatch):
    """Where the order of time is in question, too; what does not depend on it is formed once."""
    seeds = []

    def noted(views, target_um, candidates, seed):
        seeds.append(seed)
        return all_views.draw_candidates(views, target_um, candidates, seed)

    monkeypatch.setattr(score_views, "draw_candidates", noted)
    ConfiguredViews(settings(**(SHARED_ONLY | {"host__choose_order": True})), DATASET).formed(DATASET, 3)
    assert seeds == [3, 3, 3]  # two trials, and what clients learn from
    timed = ConfiguredViews(settings(**SHARED_ONLY), DATASET)
    assert timed.formed(DATASET, 0).formed is timed.formed(DATASET, 1).formed


@pytest.mark.parametrize("kind", ["no times", "times that mean nothing"])
def test_a_run_of_a_benchmark_has_the_views_of_the_training_command(kind):
    dataset = dataclasses.replace(DATASET, train_age=None if kind == "no times" else AGES)
    tree = settings(**(SHARED_ONLY | {"host__choose_order": True, "host__candidates": 12}), rounds=2)
    programs = MethodPrograms(tree, dataset, client_data(dataset))
    for seed in (0, 3):
        found = programs.group([{}], None, [seed]).clients.prior
        expected = make_experiment(override(tree, {"seed": seed}), dataset).clients.prior
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(a, b)


def test_runs_that_read_the_order_of_time_and_others_do_not_train_side_by_side(monkeypatch):
    tree = settings(**(SHARED_ONLY | {"host__choose_order": True}), rounds=2)
    programs = MethodPrograms(tree, DATASET, client_data(DATASET))
    formed = [
        ConfiguredViews(override(tree, {"host.order": order, "host.choose_order": False}), DATASET).of(DATASET)
        for order in (True, False)
    ]
    monkeypatch.setattr(programs, "_prior_of", lambda dataset, seed: formed[seed])
    assert programs.group([{}, {}], None, [1, 1]).clients.prior.age_r is None
    with pytest.raises(ConfigError, match=r"read the order of time alike .*choose_order decides otherwise"):
        programs.group([{}, {}], None, [0, 1])


def test_the_quality_of_a_view_is_the_metric_of_its_ranking_with_several_rows_of_a_user():
    """Every view alone on validation, where the other rows of a user are no candidates."""
    free = [np.setdiff1d(np.arange(DATASET.num_items), items)[:4] for items in histories(DATASET)]
    several = dataclasses.replace(
        DATASET,
        held_user=np.repeat(np.arange(DATASET.num_users), 4).astype(np.int32),
        valid_item=np.concatenate(free).astype(np.int32),
        test_item=np.full(4 * DATASET.num_users, -1, np.int32),
    )
    experiment = make_experiment(settings(**SHARED_ONLY), several)
    z_uiv = np.array(experiment.clients.prior.z_uiv)
    found = [float(experiment.clients.prior.choice[f"quality {name}"]) for name in VIEWS]
    targets = np.array(free)
    expected = np.zeros(len(VIEWS))
    for u, items in enumerate(histories(DATASET)):
        out = np.union1d(items, targets[u])
        rest_v = np.delete(z_uiv[u], out, axis=0)
        for target in targets[u]:
            above_v = (rest_v > z_uiv[u, target]).sum(axis=0)
            tied_v = 1 + (rest_v == z_uiv[u, target]).sum(axis=0)
            expected += ndcg(above_v, tied_v, 50) / targets.size
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    held = HeldBack(several, np.array(free, np.int32))
    for v in range(len(VIEWS)):
        assert mean_ndcg(z_uiv[..., v].copy(), held, alone=True) == pytest.approx(expected[v])
    assert mean_ndcg(z_uiv[..., 0].copy(), held) < expected[0]
