"""bfloat16 as an option: rounded views and products, exact sums and states, and what that costs in metrics."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import client_data, relative_difference, settings, spread, tiny_dataset

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.data.buckets import heldout_targets, make_client_data
from fedvlr_jax.data.synthetic import generate
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.evaluation.metrics import summarise, warm_items
from fedvlr_jax.evaluation.ranking import rank_all
from fedvlr_jax.models.hosts.host import product

DATASET = tiny_dataset()


def after(data, dataset, rounds, **overrides):
    """The state after some rounds, and a function that scores and one that ranks with it."""
    algorithm = make_algorithm(settings(**overrides), dataset)
    run = jax.jit(algorithm.run, static_argnums=2)
    state, _ = run(jax.jit(algorithm.init)(jax.random.key(0)), data, rounds)

    def rank(state):
        params = algorithm.snapshot(state, data.content)
        return rank_all(algorithm.score, params, data.buckets, heldout_targets(dataset), chunk=64)

    score = jax.jit(lambda state: algorithm.score(algorithm.snapshot(state, data.content), data.buckets[0]))
    return state, score, jax.jit(rank)


def test_a_product_of_rounded_rows_is_summed_in_float32():
    rows = jnp.ones((1, 4096), jnp.bfloat16)
    assert product(rows, jnp.ones(4096)).tolist() == [4096]
    weights = jnp.zeros(4096).at[0].set(256).at[1].set(1)
    found = product(rows, weights)
    assert (found.dtype, found.tolist()) == (jnp.float32, [257])  # bfloat16 has no 257
    exact = jnp.float32(1 + 2**-20)
    assert product(jnp.ones((1, 1)), exact[None])[0] == exact  # nothing is rounded without rounded rows


CASES = [
    ("fcf", "fedvlr", "fused"),
    ("fedncf", "fedvlr", "picked"),
    ("fedrap", "vbpr", "uploads"),
    ("pfedrec", "mlp", "gathered"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("host", "variant", "path"), spread(CASES, CASES[2:3]))
def test_rounding_moves_scores_a_little_and_no_type(host, variant, path):
    data, common = client_data(DATASET), {"host__name": host, "variant": variant, "compute__path": path}
    (exact, score, _), (rounded, score_rounded, _) = (
        after(data, DATASET, 3, compute__precision=precision, **common) for precision in ("float32", "bfloat16")
    )
    for state in (exact, rounded):
        types = {x.dtype for x in jax.tree.leaves((state.public.params, state.private.params))}
        assert types == {jnp.dtype("float32")}
    assert 1e-6 < relative_difference(rounded.public.params, exact.public.params) < 2e-2
    s_ci, s_rounded_ci = score(exact), score_rounded(rounded)
    assert s_rounded_ci.dtype == jnp.float32
    assert 1e-6 < np.abs(s_rounded_ci - s_ci).max() / np.abs(s_ci).max() < 3e-2
    # Scores that were rounded themselves would tie: of 40 of one user many would be equal.
    distinct = [len(np.unique(row)) for row in np.asarray(s_rounded_ci)]
    assert min(distinct) == DATASET.num_items


@pytest.mark.slow
def test_metrics_differ_by_less_than_seeds_do():
    dataset = generate(0, num_users=96, num_items=120, num_interactions=1200)
    data = make_client_data(dataset, min_length=64)
    common = {"objective": "softmax", "server__optimizer": "adam", "server__lr": 0.02, "fusion__dim": 16}
    found = []
    for precision in ("float32", "bfloat16"):
        state, _, rank = after(data, dataset, 30, compute__precision=precision, **common)
        found.append(summarise(rank(state), warm_items(dataset.train_item, dataset.num_items))["valid"]["NDCG@50"])
    assert found[0] != found[1]
    assert found[0] > 0.2
    assert abs(found[0] - found[1]) < 0.01


def test_an_unknown_precision_is_refused():
    with pytest.raises(ConfigError, match=r"compute\.precision: expected one of float32, bfloat16, found .bf16."):
        make_algorithm(settings(compute__precision="bf16"), DATASET)
