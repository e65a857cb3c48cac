"""Factors of uploads: the norms and the clipped sums that they give are those of the uploads themselves."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws.rounds import DATASET, late_state
from problems import (
    MODELS,
    client_data,
    planned,
    relative_difference,
    settings,
    spread,
    tiny_dataset,
)

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.federated.aggregation import add_uploads
from fedvlr_jax.federated.client import draw_batch, make_local_update
from fedvlr_jax.federated.factors import Factors, add_factors, make_factored_update, upper_norm
from fedvlr_jax.federated.private_state import gather_clients
from fedvlr_jax.federated.transforms import make_clip, upload_norm

HIGHEST = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
ROUND = 12  # late enough for curricula
UNTAUGHT = [model for model in MODELS if "fedncf" not in model and "gfmfr" not in model]
CASES = [
    *((*model, "bce", "mlp") for model in UNTAUGHT),
    *itertools.product(["fcf", "fedrap"], ["fedvlr", "vbpr"], ["softmax"], ["mlp"]),
    *itertools.product(["fcf"], ["fedvlr"], ["squared", "bpr"], ["statistics_bias", "shared_low_rank", "bias"]),
]
FAST = [
    ("fcf", "fedvlr", "bce", "mlp"),
    ("fcf", "fedvlr", "squared", "bias"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("host", "variant", "objective", "router"), spread(CASES, FAST))
def test_factors_give_the_norms_and_clipped_sums_of_uploads(host, variant, objective, router):
    with jax.enable_x64(True):
        overrides = {"host__name": host, "variant": variant, "objective": objective, "fusion__router": router}
        dataset = tiny_dataset(dtype=np.float64)
        algorithm = make_algorithm(settings(host__additive_weight=0.3, client__l2=0.05, **overrides), dataset)
        model, local, data = algorithm.model, algorithm.local, client_data(dataset)
        state, (bucket,) = late_state(algorithm, ROUND), data.buckets

        @jax.jit
        def both(state, bucket):
            broadcast = model.publish(state.public.params, data.content)
            keys = jax.vmap(lambda u: jax.random.fold_in(jax.random.key(5), u))(bucket.user)
            draw = functools.partial(draw_batch, local, dataset.num_items, touched_rows=False)
            batch_c, own_c = jax.vmap(draw)(bucket.history, keys), gather_clients(state.private, bucket.user, None)
            found = [
                jax.vmap(make(model, local), in_axes=(None, 0, 0, None))(broadcast, own_c, batch_c, jnp.int32(ROUND))
                for make in (make_local_update, make_factored_update)
            ]
            (moved, upload_c, loss_ca), (moved_too, factors_c, loss_too_ca) = found
            norm_c = jax.vmap(upload_norm)(upload_c)
            clip = make_clip(clip_norm=jnp.median(norm_c))
            alpha_c = jnp.where(bucket.user == 3, 0.0, 1.0 + bucket.user)
            clipped_c, _ = jax.vmap(clip.client, in_axes=(None, 0, None))(None, upload_c, ())
            zero = jax.tree.map(jnp.zeros_like, broadcast)
            sums = (
                add_uploads(zero, clipped_c, alpha_c),
                add_factors(zero, factors_c, alpha_c * clip.by_norm(factors_c.norm), broadcast.rows.get("D")),
            )
            return norm_c, factors_c.norm, sums, (moved, loss_ca), (moved_too, loss_too_ca)

        norm_c, found_c, (expected, found), steps, steps_too = both(state, bucket)
        assert np.ptp(norm_c) > 1e-3 * np.max(norm_c)
        np.testing.assert_allclose(found_c, norm_c, rtol=1e-10)
        assert relative_difference(found, expected) <= 1e-10
        assert relative_difference(steps_too, steps) <= 1e-10


def test_a_norm_is_never_below_that_of_the_upload_where_its_terms_cancel():
    """Two steps that undo each other leave a difference far below either."""
    rng = np.random.default_rng(0)
    for scale in (1e-4, 1e-6):
        e_i, q_f = rng.normal(size=50), rng.normal(size=8)
        e_ai = np.stack([e_i, -e_i + scale * rng.normal(size=50)]).astype(np.float32)
        query_af = np.stack([q_f, q_f]).astype(np.float32)
        factors = Factors(e_ai, {"views": query_af}, np.zeros(0, np.int32), {}, None, {}, np.zeros(()))
        true = np.linalg.norm(e_ai.astype(np.float64).T @ query_af.astype(np.float64))
        assert float(upper_norm(jax.tree.map(jnp.asarray, factors))) >= true


def products(jaxpr):
    """The precisions of all matrix products of a program."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            yield eqn.params["precision"]
        for inner in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from products(getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize("host", ["fcf", "fedrap"])
def test_a_bound_holds_where_an_accelerator_rounds_the_factors_of_products(host):
    """With TF32 or bfloat16 a norm would be off by 1e-3 or more, and what is added another than what was bounded."""
    algorithm = make_algorithm(settings(host__name=host, variant="mlp"), DATASET)
    model, local = algorithm.model, algorithm.local
    state, data = algorithm.init(jax.random.key(0)), client_data(DATASET)
    broadcast, _ = algorithm.server.open_round(state.public, data.content)
    batch = draw_batch(local, DATASET.num_items, data.buckets[0].history[0], jax.random.key(0), touched_rows=False)
    own = jax.tree.map(lambda x: x[0], state.private)
    made = jax.eval_shape(make_factored_update(model, local), broadcast, own, batch, jnp.int32(0))[1]
    public_id = broadcast.rows.get("D")
    of_norm = list(products(jax.make_jaxpr(upper_norm)(made, public_id).jaxpr))
    assert len(of_norm) >= 2
    assert set(of_norm) == {HIGHEST}

    def exact(**overrides):
        """Products of a round that are those of float32; every one has those of the norm."""
        tree = settings(host__name=host, variant="mlp", compute__path="factors", **overrides)
        run = make_algorithm(tree, DATASET).run
        return sum(x == HIGHEST for x in products(jax.make_jaxpr(lambda *x: run(*x, 1))(state, data).jaxpr))

    assert exact(aggregation__transforms="clip") > exact() == len(of_norm), "the sum of clipped uploads too"


@pytest.mark.parametrize(("host", "expected"), [("fcf", "factors"), ("fedncf", "uploads")])
def test_a_clip_keeps_the_factors_where_there_are_any(host, expected):
    algorithm = make_algorithm(settings(host__name=host, aggregation__transforms="clip,noise"), DATASET)
    plan = planned(algorithm, DATASET)
    assert {bucket.path for bucket in plan} == {expected}


def test_factors_are_refused_where_an_upload_has_none_or_more_than_its_norm_is_needed():
    for overrides in (
        {"host__name": "fedncf"},
        {"client__move_items": True},
        {"variant": "gfmfr"},
        {"compute__precision": "bfloat16"},
        {"aggregation__transforms": "top_rows,clip,noise"},
        {"aggregation__aggregator": "median"},
        {"aggregation__transforms": "clip", "secure__sum": True},
    ):
        with pytest.raises(ConfigError, match=r"compute.path"):
            make_algorithm(settings(compute__path="factors", **overrides), DATASET)
