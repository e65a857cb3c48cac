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
