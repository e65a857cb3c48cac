"""BPR-MF, VBPR and BM3 against dense float64 NumPy and finite differences, and the loop that trains all learners."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_oracle import adjacency, bpr_oracle, dense_linear, modalities_of, rows_of, unit
from problems import tiny_dataset
from ranking_oracle import load_real, one_bucket
from test_graph_learners import DIM, some_batch, start

from fedvlr_jax.baselines import BASELINES, select
from fedvlr_jax.baselines.batches import draw_negatives, draw_rows, draw_users, make_rows
from fedvlr_jax.baselines.bm3 import bm3
from fedvlr_jax.baselines.bpr_mf import bpr_mf
from fedvlr_jax.baselines.layers import dropout
from fedvlr_jax.baselines.learner import Learner
from fedvlr_jax.baselines.learning import fit_learner
from fedvlr_jax.baselines.vbpr import vbpr
from fedvlr_jax.data.synthetic import generate
from fedvlr_jax.errors import ConfigError, DataError
from fedvlr_jax.evaluation.metrics import summarise, warm_items

DATASET = tiny_dataset()
HYPER = {"reg": 0.3, "weight": 0.7, "dropout": 0.4}
CASES = [(bpr_mf, {}), (vbpr, {}), (bm3, {"layers": 1}), (bm3, {"layers": 2})]
QUICK = {"epochs": 6, "eval_every": 2, "patience": 9}


def factors(learner, params, dataset, layers=0):
    """Representations of users and items in NumPy; for BM3 before the predictor."""
    if learner is bpr_mf:
        return np.asarray(params["p_ud"]), np.asarray(params["q_id"])
    if learner is vbpr:
        features = np.hstack([dataset.C, dataset.V])
        item = np.hstack([np.asarray(params["q_id"]), features @ np.asarray(params["w_df"]).T])
        return np.asarray(params["user_ux"]), item
    p, q, a = np.asarray(params["p_ud"]), np.asarray(params["q_id"]), adjacency(dataset)
    users, items = [p], [q]
    for _ in range(layers):
        users, items = [*users, a @ items[-1]], [*items, a.T @ users[-1]]
    return np.mean(users, axis=0), np.mean(items, axis=0) + q


def pairwise_oracle(learner, params, dataset, batch, key, static):
    user, item = factors(learner, params, dataset)
    norm = np.mean([sum(x @ x for x in (user[u], item[i], item[j])) / 2 for u, i, j in rows_of(batch)])
    return bpr_oracle(user, item, batch) + HYPER["reg"] * norm


def bm3_oracle(learner, params, dataset, batch, key, static):
    h_u, h_i = factors(learner, params, dataset, **static)
    features = modalities_of(dataset)
    masks = [np.asarray(dropout(k, jnp.ones((n, DIM)), HYPER["dropout"])) for k, n in _masked(key, dataset, batch)]
    rows = [(u, i) for u, i, _ in rows_of(batch)]
    target_u, target_i = unit(h_u * masks[0]), unit(h_i * masks[1])
    online_u, online_i = (unit(dense_linear(params["predict"], x)) for x in (h_u, h_i))
    total = np.mean([1 - online_u[u] @ target_i[i] for u, i in rows])
    total += np.mean([1 - online_i[i] @ target_u[u] for u, i in rows])
    position = [k for k, w in enumerate(batch.weight) if w]
    for (name, x), mask in zip(features.items(), masks[2:], strict=True):
        e = dense_linear(params["project"][name], x)
        for k, (_, i) in zip(position, rows, strict=True):
            online = unit(dense_linear(params["predict"], e[i : i + 1]))[0]
            own = unit((e[i] * mask[k])[None])[0]
            total += HYPER["weight"] * ((1 - online @ target_i[i]) + (1 - online @ own)) / len(rows)
    return total + HYPER["reg"] * (np.linalg.norm(h_u) + np.linalg.norm(h_i)) / dataset.num_items


def _masked(key, dataset, batch):
    """The keys of the dropout masks and their row counts: users, items, then the batch's items by modality."""
    keys = jax.random.split(key, 4)
    return zip(keys, (dataset.num_users, dataset.num_items, len(batch.user), len(batch.user)), strict=True)


@pytest.mark.parametrize(("learner", "static"), CASES)
def test_losses_and_scores_equal_dense_numpy(learner, static):
    with jax.enable_x64(True):
        dataset = tiny_dataset(dtype=np.float64)
        inputs, params = start(learner, dataset, **static)
        batch, key = some_batch(dataset), jax.random.key(5)
        oracle = bm3_oracle if learner is bm3 else pairwise_oracle
        found = jax.jit(learner.loss)(params, inputs, (), batch, key, HYPER)
        assert float(found) == pytest.approx(oracle(learner, params, dataset, batch, key, static), rel=1e-9)
        user, item = factors(learner, params, dataset, **static)
        if learner is bm3:
            user, item = dense_linear(params["predict"], user), dense_linear(params["predict"], item)
        p, q = jax.jit(learner.represent)(params, inputs)
        np.testing.assert_allclose(p @ q.T, user @ item.T, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("learner", "static"), [(bpr_mf, {}), (vbpr, {})])
def test_gradients_equal_finite_differences(learner, static):
    """Of the pairwise models; BM3's target side is cut from the gradient, see the next test."""
    with jax.enable_x64(True):
        dataset = tiny_dataset(dtype=np.float64)
        inputs, params = start(learner, dataset, **static)
        batch = some_batch(dataset)
        loss = jax.jit(lambda p: learner.loss(p, inputs, (), batch, jax.random.key(5), HYPER))
        grads = jax.jit(jax.grad(loss))(params)
        rng = np.random.default_rng(7)
        for name in params:
            direction, step = rng.normal(size=params[name].shape), 1e-6
            ends = [loss(params | {name: params[name] + sign * step * direction}) for sign in (1, -1)]
            slope = float(ends[0] - ends[1]) / (2 * step)
            assert float(jnp.sum(grads[name] * direction)) == pytest.approx(slope, rel=1e-5, abs=1e-8)


@pytest.mark.slow
def test_gradient_of_bm3_equals_finite_differences_with_its_targets_held(monkeypatch):
    """What stop_gradient cuts off is recorded at the parameters, and stays there while they are moved."""
    with jax.enable_x64(True):
        dataset = tiny_dataset(dtype=np.float64)
        inputs, params = start(bm3, dataset, layers=1)
        batch, key = some_batch(dataset), jax.random.key(5)

        def loss(p):
            return bm3.loss(p, inputs, (), batch, key, HYPER)

        grads, targets = jax.grad(loss)(params), []
        monkeypatch.setattr(jax.lax, "stop_gradient", lambda x: targets.append(x) or x)
        loss(params)
        assert len(targets) == 4  # users, items, two modalities
        leaves, tree = jax.tree.flatten(params)
        rng, step = np.random.default_rng(7), 1e-6
        for k, (leaf, grad) in enumerate(zip(leaves, jax.tree.leaves(grads), strict=True)):
            direction, ends = rng.normal(size=leaf.shape), []
            for sign in (1, -1):
                held = iter(targets)
                monkeypatch.setattr(jax.lax, "stop_gradient", lambda x, held=held: next(held))
                moved = [*leaves[:k], leaf + sign * step * direction, *leaves[k + 1 :]]
                ends.append(float(loss(jax.tree.unflatten(tree, moved))))
            slope = (ends[0] - ends[1]) / (2 * step)
            assert float(jnp.sum(grad * direction)) == pytest.approx(slope, rel=1e-5, abs=1e-8)


def test_the_online_side_of_bm3_learns_and_its_targets_do_not():
    """With a predictor of zeros the online side is constant, and only the penalty is left to learn."""
    with jax.enable_x64(True):
        dataset = tiny_dataset(dtype=np.float64)
        inputs, params = start(bm3, dataset, layers=1)
        batch, key = some_batch(dataset), jax.random.key(5)

        def gradient(params, reg):
            return jax.jit(jax.grad(bm3.loss))(params, inputs, (), batch, key, HYPER | {"reg": reg})

        assert all(float(jnp.abs(g).max()) > 1e-4 for g in jax.tree.leaves(gradient(params, 0.0)["project"]))
        silent = params | {"predict": jax.tree.map(jnp.zeros_like, params["predict"])}
        found = gradient(silent, 0.0)
        assert all(float(jnp.abs(found[name]).max()) < 1e-6 for name in ("p_ud", "q_id"))
        assert float(jnp.abs(gradient(silent, 1.0)["q_id"]).max()) > 1e-3


@pytest.mark.parametrize("pool", ["catalogue", "train"])
def test_negatives_are_uniform_over_the_pool_without_the_history(pool):
    rows, draws = make_rows(DATASET, pool), 20_000
    allowed = set(range(DATASET.num_items)) if pool == "catalogue" else set(DATASET.train_item.tolist())
    for user in (0, 5, 12):
        own = set(DATASET.train_item[DATASET.train_user == user].tolist())
        drawn = np.asarray(draw_negatives(jax.random.key(user), rows, jnp.full(draws, user)))
        counts = np.bincount(drawn, minlength=DATASET.num_items)
        assert set(np.flatnonzero(counts).tolist()) == allowed - own
        expected = draws / len(allowed - own)
        assert (np.abs(counts[sorted(allowed - own)] - expected) < 5 * np.sqrt(expected)).all()


def test_an_epoch_has_every_train_row_once():
    batches = draw_rows(jax.random.key(0), make_rows(DATASET), 16)
    weight = np.asarray(batches.weight).ravel() > 0
    pairs = zip(np.asarray(batches.user).ravel()[weight], np.asarray(batches.positive).ravel()[weight], strict=True)
    assert sorted(pairs) == sorted(zip(DATASET.train_user, DATASET.train_item, strict=True))


@pytest.mark.parametrize("batch", [1, 7, 16, 10_000])
def test_an_epoch_has_every_user_with_a_history_once_and_no_empty_step(batch):
    without = DATASET.train_user != 4
    dataset = dataclasses.replace(
        DATASET, train_user=DATASET.train_user[without], train_item=DATASET.train_item[without]
    )
    rows = make_rows(dataset)
    batches, steps_of_rows = draw_users(jax.random.key(0), rows, batch), -(-len(rows.user_e) // batch)
    user, weight = np.asarray(batches.user), np.asarray(batches.weight)
    assert sorted(user[user < dataset.num_users]) == list(range(dataset.num_users))
    assert sorted(user[weight > 0]) == sorted(set(range(dataset.num_users)) - {4})
    assert (user < dataset.num_users).any(axis=1).all()
    assert len(user) <= steps_of_rows
    assert len(user) == 1 if batch == 10_000 else len(user) > 1


def test_a_user_who_has_everything_has_no_negative():
    full = dataclasses.replace(
        DATASET, train_user=np.zeros(40, np.int32), train_item=np.arange(40, dtype=np.int32), num_users=1
    )
    assert (np.asarray(draw_negatives(jax.random.key(0), make_rows(full), jnp.zeros(4, int))) == 40).all()


def fitted(dataset=DATASET, learner=bpr_mf, points=({"lr": 0.05, "reg": 0.01},), seeds=(0,), **changes):
    return fit_learner(learner, dataset, one_bucket(dataset), points, seeds, **(QUICK | changes))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_another_one_another():
    first, again, other = fitted()[0], fitted()[0], fitted(seeds=(1,))[0]
    assert first.curve[-1].valid == again.curve[-1].valid
    np.testing.assert_array_equal(first.ranks.greater, again.ranks.greater)
    assert (np.asarray(first.ranks.greater) != np.asarray(other.ranks.greater)).any()


def test_points_and_seeds_come_in_order_and_share_programs():
    points = ({"lr": 0.05, "reg": 0.01}, {"lr": 0.01, "reg": 0.1})
    found = fitted(points=points, seeds=(0, 1))
    assert [(f.hyper, f.seed) for f in found] == [(p, s) for p in points for s in (0, 1)]
    assert sum(f.seconds_compile for f in found[1:]) == 0
    np.testing.assert_array_equal(found[0].ranks.greater, fitted()[0].ranks.greater)


def test_test_items_choose_no_epoch():
    changed = dataclasses.replace(DATASET, test_item=np.roll(DATASET.test_item, 4))
    ours, theirs = fitted()[0], fitted(changed)[0]
    assert (ours.best_epoch, ours.valid) == (theirs.best_epoch, theirs.valid)
    assert [p.valid for p in ours.curve] == [p.valid for p in theirs.curve]


def test_the_best_epoch_is_the_first_with_the_best_validation_value():
    (found,) = fitted(epochs=20, eval_every=1, patience=4)
    values = [p.valid["NDCG@50"] for p in found.curve]
    assert found.best_epoch == 1 + int(np.argmax(values))
    assert len(values) == min(20, found.best_epoch + 4)
    assert found.valid == max(values)


def test_a_diverged_run_fails_alone():
    bad, good = fitted(points=({"lr": 1e30, "reg": 0.01}, {"lr": 0.05, "reg": 0.01}))
    assert "not finite" in bad.failure
    assert bad.ranks is None
    assert good.failure == ""


def test_bad_input_is_refused():
    with pytest.raises(ConfigError, match="epochs: expected at least 1, found 0"):
        fitted(epochs=0)
    with pytest.raises(ConfigError, match="negatives: expected one of catalogue, train, found 'all'"):
        fitted(negatives="all")
    with pytest.raises(DataError, match="no validation row"):
        fitted(dataclasses.replace(DATASET, valid_item=np.full(13, -1, np.int32)))
    with pytest.raises(DataError, match="neither visual nor textual"):
        fitted(dataclasses.replace(DATASET, V=None, C=None), learner=vbpr)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bpr_mf", "vbpr", "bm3"])
def test_training_beats_popularity_on_the_synthetic_set(name):
    dataset, learner = generate(0), BASELINES[name]
    assert isinstance(learner, Learner)
    popularity = select(dataset, one_bucket(dataset), "popularity").summary["test"]
    point = {"lr": 5e-3} | {k: v for k, v in learner.grid[1].items() if k != "lr"}
    (found,) = fit_learner(learner, dataset, one_bucket(dataset), [point], [0], epochs=150)
    test = summarise(found.ranks, warm_items(dataset.train_item, dataset.num_items))["test"]
    assert test["HR@50"] > 1.3 * popularity["HR@50"]
    assert test["NDCG@50"] > 1.3 * popularity["NDCG@50"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "hit", "gain"), [("bpr_mf", 34, 15), ("vbpr", 36, 16), ("bm3", 36, 15)])
def test_known_numbers_on_ku(ku_folder, name, hit, gain):
    """Lower ends of what seeds give: 43 % of the test rows are unseen items, on which seeds differ by 20 points."""
    dataset, learner = load_real(ku_folder), BASELINES[name]
    (found,) = fit_learner(learner, dataset, one_bucket(dataset), [learner.grid[6]], [0], epochs=200)
    test = summarise(found.ranks, warm_items(dataset.train_item, dataset.num_items))["test"]
    assert 100 * test["HR@50"] > hit
    assert 100 * test["NDCG@50"] > gain
