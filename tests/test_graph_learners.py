"""MGCN and PGL against dense float64 forward passes in NumPy, finite differences, and the exact inclusion
probabilities of sampled edges."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from graph_oracle import (
    adjacency,
    bpr_oracle,
    dense_light_gcn,
    dense_linear,
    freedom_oracle,
    inclusion_probabilities,
    info_nce_oracle,
    mgcn_loss_oracle,
    mgcn_oracle,
    multvae_oracle,
    pgl_loss_oracle,
    pgl_oracle,
    rows_of,
)
from problems import spread, tiny_dataset

from fedvlr_jax.baselines.batches import Triples, Users
from fedvlr_jax.baselines.contrast import info_nce
from fedvlr_jax.baselines.freedom import freedom
from fedvlr_jax.baselines.graph import Graph
from fedvlr_jax.baselines.learner import Learner
from fedvlr_jax.baselines.lightgcn import lightgcn
from fedvlr_jax.baselines.mgcn import mgcn
from fedvlr_jax.baselines.multvae import multvae
from fedvlr_jax.baselines.pgl import low_rank_graph, pgl, sample_graph
from fedvlr_jax.errors import ConfigError, DataError
from fedvlr_jax.types import Dataset

pgl_module = importlib.import_module("fedvlr_jax.baselines.pgl")  # the package's name pgl is the model
multvae_module = importlib.import_module("fedvlr_jax.baselines.multvae")
DIM = 6
HYPER = {"reg": 0.3, "contrast": 0.7, "weight": 0.4, "beta": 0.6}
MODES = ("VC", "V", "C")
GRADIENT_CASES = [
    (mgcn, {}, "VC"),
    (pgl, {"kind": "local"}, "VC"),
    (pgl, {"kind": "global"}, "C"),
    (freedom, {}, "VC"),
    (lightgcn, {"layers": 2}, ""),
    (multvae, {}, ""),
]


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def problem(modes: str) -> Dataset:
    dataset = tiny_dataset(dtype=np.float64)
    assert len(np.unique(dataset.train_item)) < dataset.num_items  # some items are in no train row
    return dataclasses.replace(dataset, **{m: None for m in "VC" if m not in modes})


def start(learner: Learner, dataset: Dataset, **static):
    """Inputs, and initial parameters moved off the points where biases are zero."""
    inputs = learner.prepare(dataset, **static)
    init = jax.jit(learner.init, static_argnums=2)
    leaves, tree = jax.tree.flatten(init(jax.random.key(1), inputs, DIM))
    rng = np.random.default_rng(2)
    return inputs, jax.tree.unflatten(tree, [x + 0.3 * rng.normal(size=x.shape) for x in leaves])


def some_batch(dataset: Dataset) -> Triples:
    """20 rows, more than users and fewer than items; two of padding, and one whose user had no negative."""
    rng = np.random.default_rng(3)
    rows = rng.choice(len(dataset.train_user), 20, replace=False)
    user, positive = dataset.train_user[rows], dataset.train_item[rows]
    negative, weight = rng.integers(0, dataset.num_items, 20).astype(np.int32), np.ones(20)
    user[-2:], positive[-2:], negative[-3:], weight[-3:] = dataset.num_users, dataset.num_items, dataset.num_items, 0
    return Triples(*map(jnp.asarray, (user, positive, negative, weight)))


def some_users(dataset: Dataset) -> Users:
    """Four users, one who weighs nothing, and padding."""
    return Users(jnp.asarray([3, 0, 7, 5, 1, dataset.num_users]), jnp.asarray([1.0, 1, 1, 1, 0, 0]))


def dense(graph: Graph) -> np.ndarray:
    """The matrix [t, s] of a graph; both of its directions have to agree."""
    forward, backward = np.zeros((2, graph.num_targets, graph.num_sources))
    for matrix, groups in ((forward, graph.forward), (backward.T, graph.backward)):
        target_wg = np.broadcast_to(groups.target_g, groups.source_wg.shape)
        np.add.at(matrix, (target_wg, np.asarray(groups.source_wg)), np.asarray(groups.weight_wg))
    np.testing.assert_array_equal(forward, backward)
    return forward


@pytest.mark.slow
@pytest.mark.parametrize("modes", spread(MODES, ["C"]))
def test_mgcn_equals_a_dense_forward_pass(modes):
    dataset = problem(modes)
    inputs, params = start(mgcn, dataset)
    expected = sum(mgcn_oracle(params, dataset))
    found = np.vstack(jax.jit(mgcn.represent)(params, inputs))
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    batch = some_batch(dataset)
    loss = jax.jit(mgcn.loss)(params, inputs, (), batch, jax.random.key(0), HYPER)
    assert float(loss) == pytest.approx(mgcn_loss_oracle(params, dataset, batch, HYPER), rel=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "modes"), spread(itertools.product(("local", "global"), MODES), [("local", "C"), ("global", "C")])
)
def test_pgl_equals_a_dense_forward_pass(kind, modes, monkeypatch):
    """Scores come from the whole graph, the loss from the subgraph of the epoch."""
    monkeypatch.setattr(pgl_module, "RANK", 3)
    dataset = problem(modes)
    inputs, params = start(pgl, dataset, kind=kind)
    found = np.vstack(jax.jit(pgl.represent)(params, inputs))
    np.testing.assert_allclose(found, pgl_oracle(params, dataset, adjacency(dataset)), rtol=1e-10, atol=1e-12)

    masks, rng = [], np.random.default_rng(4)

    def known_dropout(key, x, rate):
        masks.append((rng.random(x.shape) >= rate) / (1 - rate))
        return x * masks[-1]

    monkeypatch.setattr(pgl_module, "dropout", known_dropout)
    epoch, batch = jax.jit(pgl.start_epoch)(jax.random.key(5), inputs, HYPER), some_batch(dataset)
    loss = jax.jit(lambda *args: pgl.loss(*args))(params, inputs, epoch, batch, jax.random.key(0), HYPER)
    assert dense(epoch).any()
    assert not np.allclose(dense(epoch), adjacency(dataset))
    expected = pgl_loss_oracle(params, dataset, batch, HYPER, dense(epoch), masks)
    assert float(loss) == pytest.approx(expected, rel=1e-10)


def test_lightgcn_equals_a_dense_forward_pass():
    dataset = problem("")
    inputs, params = start(lightgcn, dataset, layers=2)
    p, q = np.asarray(params["p_ud"]), np.asarray(params["q_id"])
    expected = dense_light_gcn(adjacency(dataset), p, q)
    np.testing.assert_allclose(np.vstack(jax.jit(lightgcn.represent)(params, inputs)), expected, rtol=1e-10)
    batch = some_batch(dataset)
    norm = np.mean([sum(x @ x for x in (p[u], q[i], q[j])) / 2 for u, i, j in rows_of(batch)])
    ranking = bpr_oracle(*np.split(expected, [dataset.num_users]), batch)
    loss = jax.jit(lightgcn.loss)(params, inputs, (), batch, jax.random.key(0), HYPER)
    assert float(loss) == pytest.approx(ranking + HYPER["reg"] * norm, rel=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("modes", MODES)
def test_freedom_equals_a_dense_forward_pass(modes):
    """Scores come from all interactions, the loss from those of the epoch."""
    dataset = problem(modes)
    inputs, params = start(freedom, dataset)
    found = np.vstack(jax.jit(freedom.represent)(params, inputs))
    np.testing.assert_allclose(found, freedom_oracle(params, dataset, adjacency(dataset)), rtol=1e-10, atol=1e-12)
    epoch, batch = jax.jit(freedom.start_epoch)(jax.random.key(5), inputs, HYPER), some_batch(dataset)
    assert 0 < np.count_nonzero(dense(epoch)) == round(0.2 * len(dataset.train_user))
    user, item = np.split(freedom_oracle(params, dataset, dense(epoch)), [dataset.num_users])
    expected = bpr_oracle(user, item, batch)
    for name, x in params["features"].items():
        projected = dense_linear(params["project"][name], np.asarray(x))
        expected += HYPER["weight"] * bpr_oracle(user, projected, batch)
    loss = jax.jit(freedom.loss)(params, inputs, epoch, batch, jax.random.key(0), HYPER)
    assert float(loss) == pytest.approx(expected, rel=1e-10)


def test_multvae_equals_a_dense_forward_pass(monkeypatch):
    dataset = problem("")
    inputs, params = start(multvae, dataset)
    p, q = jax.jit(multvae.represent)(params, inputs)
    history = np.zeros((dataset.num_users, dataset.num_items))
    history[dataset.train_user, dataset.train_item] = 1
    scores, _, _ = multvae_oracle(params, history, 0)
    np.testing.assert_allclose(p @ q.T, scores, rtol=1e-10)

    kept, noise = np.random.default_rng(4).random((6, dataset.num_items)) < 0.5, []
    monkeypatch.setattr(multvae_module, "dropout", lambda key, x, rate: 2 * x * kept)
    monkeypatch.setattr(jax.random, "normal", lambda key, shape: noise.append(0.3 * np.ones(shape)) or noise[-1])
    batch = some_users(dataset)
    user, weight = np.minimum(batch.user, dataset.num_users - 1), np.asarray(batch.weight)
    scores, mean, log_var = multvae_oracle(params, 2 * history[user] * kept, 0.3)
    log_share = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    divergence = (np.exp(log_var) + mean**2 - 1 - log_var).sum(axis=1) / 2
    expected = -(history[user] * log_share).sum(axis=1) + HYPER["beta"] * divergence
    loss = jax.jit(lambda *x: multvae.loss(*x))(params, inputs, (), batch, jax.random.key(0), HYPER)
    assert float(loss) == pytest.approx((expected * weight).sum() / weight.sum(), rel=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(("learner", "static", "modes"), GRADIENT_CASES)
def test_gradients_equal_finite_differences(learner, static, modes):
    """Along a random direction of every parameter array."""
    dataset = problem(modes)
    inputs, params = start(learner, dataset, **static)
    epoch = jax.jit(learner.start_epoch)(jax.random.key(5), inputs, HYPER)
    loss = jax.jit(functools.partial(learner.loss, batch=some_batch(dataset), key=jax.random.key(6), hyper=HYPER))
    leaves, tree = jax.tree.flatten(params)
    grads = jax.tree.leaves(jax.jit(jax.grad(loss))(params, inputs, epoch))
    rng, step = np.random.default_rng(7), 1e-6
    for k, (leaf, grad) in enumerate(zip(leaves, grads, strict=True)):
        direction = rng.normal(size=leaf.shape)
        ends = [
            loss(
                jax.tree.unflatten(tree, [*leaves[:k], leaf + sign * step * direction, *leaves[k + 1 :]]),
                inputs,
                epoch,
            )
            for sign in (1, -1)
        ]
        slope = float(ends[0] - ends[1]) / (2 * step)
        assert float(jnp.sum(grad * direction)) == pytest.approx(slope, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("num_nodes", [5, 30])
def test_info_nce_counts_nodes_as_often_as_they_stand_in_the_batch(num_nodes):
    """Fewer nodes than rows, and more."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, num_nodes, 4))
    ids, weight = rng.integers(0, min(num_nodes, 12), 16), np.ones(16)
    ids[-2:], weight[-4:] = num_nodes, 0
    found = jax.jit(info_nce)(*map(jnp.asarray, (a, b, ids, weight)))
    assert float(found) == pytest.approx(info_nce_oracle(a, b, ids, weight), rel=1e-12)


def test_a_local_subgraph_keeps_its_share_of_the_edges_and_weighs_them_anew():
    dataset = problem("VC")
    inputs = pgl.prepare(dataset, kind="local")
    sample, pairs = jax.jit(sample_graph), set()
    for seed in range(4):
        found = dense(sample(jax.random.key(seed), inputs))
        kept = list(zip(*np.nonzero(found), strict=True))
        assert len(kept) == round(0.3 * len(dataset.train_user))
        np.testing.assert_allclose(found, adjacency(dataset, kept), rtol=1e-12)
        assert (adjacency(dataset)[found > 0] > 0).all()
        pairs.add(tuple(kept))
    assert len(pairs) == 4


def test_edges_are_sampled_with_the_stated_probabilities():
    user, item = np.array([0, 0, 0, 0, 0, 1, 1, 2, 2, 3]), np.array([0, 1, 2, 3, 4, 0, 1, 0, 5, 0])
    dataset = dataclasses.replace(
        problem("C"), num_users=4, train_user=user.astype(np.int32), train_item=item.astype(np.int32)
    )
    inputs = pgl.prepare(dataset, kind="local")
    weight = adjacency(dataset)[user, item]
    expected = inclusion_probabilities(weight, 3)
    assert expected.max() > 1.5 * expected.min()
    draws = 40_000
    keys = jax.random.split(jax.random.key(0), draws)
    groups = jax.jit(jax.vmap(lambda key: sample_graph(key, inputs).forward))(keys)
    is_kept = np.zeros(len(user) + 1)  # the last entry is for empty slots of groups
    np.add.at(is_kept, np.asarray(groups.edge_wg[0]), np.asarray(groups.weight_wg > 0).sum(axis=0))
    error = np.sqrt(expected * (1 - expected) / draws)
    assert is_kept.sum() == 3 * draws
    assert (np.abs(is_kept[:-1] / draws - expected) < 4.5 * error).all()


@pytest.mark.parametrize("rank", [1, 4])
def test_a_global_subgraph_has_the_largest_entries_of_the_best_low_rank_approximation(rank):
    dataset = problem("VC")
    left, value, right = np.linalg.svd(adjacency(dataset), full_matrices=False)
    approximation = (left[:, :rank] * value[:rank]) @ right[:rank]
    found = dense(low_rank_graph(dataset, rank))
    size = np.abs(approximation)
    limit = np.sort(size, axis=None)[-len(dataset.train_user)]
    np.testing.assert_allclose(found, np.where(size >= limit * (1 - 1e-6), approximation, 0), rtol=1e-5, atol=1e-12)
    assert (found[adjacency(dataset) == 0] != 0).any()


def test_a_global_subgraph_of_full_rank_is_the_graph_itself():
    dataset = problem("VC")
    np.testing.assert_allclose(dense(low_rank_graph(dataset, 13)), adjacency(dataset), rtol=1e-6)


def test_an_unknown_kind_and_a_set_without_features_are_refused():
    with pytest.raises(ConfigError, match="kind: expected one of local, global, found 'middle'"):
        pgl.prepare(problem("VC"), kind="middle")
    for learner, static in ((mgcn, {}), (pgl, {"kind": "local"})):
        with pytest.raises(DataError, match="tiny has neither visual nor textual features"):
            learner.prepare(problem(""), **static)
