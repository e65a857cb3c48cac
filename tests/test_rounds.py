"""Laws of a round: both paths agree, layout is irrelevant, private state persists, faults stay local."""

from __future__ import annotations

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from laws import hosts
from laws.rounds import DATASET, after, first_state
from problems import (
    HOST_NAMES,
    MODELS,
    VARIANT_NAMES,
    client_data,
    relative_difference,
    settings,
    spread,
    tiny_dataset,
)

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.federated import executors
from fedvlr_jax.federated.client import _distinct, draw_batch, make_local_update
from fedvlr_jax.federated.private_state import gather_clients
from fedvlr_jax.federated.rounds import BucketPlan, make_round
from fedvlr_jax.models.model import derived

PATHS = ("fused", "picked", "gathered")
# Every host in two variants, the paths in turn; private item tables have two beside uploads.
PLACES = [(HOST_NAMES.index(host), VARIANT_NAMES.index(variant), host, variant) for host, variant in MODELS]
CASES = [
    (PATHS[v % 2 * 2] if host == "fedrap" else PATHS[(h + v // 2) % 3], host, variant)
    for h, v, host, variant in PLACES
    if (h + v) % 2 == 0
]
COVERING = [("gathered", "fcf", "fedvlr"), ("gathered", "fedrap", "mlp")]


@pytest.mark.parametrize(("path", "host", "variant"), spread(CASES, COVERING))
def test_paths_equal_uploads_path(path, host, variant):
    hosts.paths_agree(host, variant, (path,))


@pytest.mark.parametrize("variant", ["base", pytest.param("fedvlr", marks=pytest.mark.slow)])
def test_a_private_table_of_many_items_is_read_and_written_where_it_is_touched(variant):
    """Both paths confine it; against whole tables."""
    with jax.enable_x64(True):
        dataset = tiny_dataset(num_items=300, dtype=np.float64)
        common = {"host__name": "fedrap", "variant": variant, "host__additive_weight": 0.3, "client__l2": 0.1}
        algorithm, data = make_algorithm(settings(**common), dataset), client_data(dataset)
        plans = [
            (BucketPlan(5, path, touched_rows),)
            for path, touched_rows in (("gathered", True), ("uploads", True), ("uploads", False), ("gathered", False))
        ]
        sizes = {"num_users": dataset.num_users, "num_items": 300, "clients_per_round": dataset.num_users}
        start = jax.jit(algorithm.init)(jax.random.key(1))
        found = []
        for plan in plans:
            round_ = jax.jit(make_round(algorithm.model, algorithm.local, optax.sgd(0.1), plan, **sizes))
            state = start.replace(public=start.public.replace(opt_state=optax.sgd(0.1).init(start.public.params)))
            for _ in range(3):
                state, _ = round_(state, data)
            found.append((state.public.params, state.private.params))
        touched = np.any(np.asarray(found[0][1]["item_table"]) != 0, axis=2)
        assert 0 < touched.mean() < 0.5
        for other in found[1:]:
            assert relative_difference(found[0], other) <= 1e-12


def test_the_distinct_ids_of_a_draw_are_ascending_and_positions_lead_back():
    num_items = 30
    ids = np.random.default_rng(0).integers(0, 30, (4, 50)).astype(np.int32)
    ids[ids > 27] = num_items
    distinct, position = map(np.asarray, jax.vmap(lambda ids_n: _distinct(ids_n, num_items))(jnp.asarray(ids)))
    for row, found, where in zip(ids, distinct, position, strict=True):
        own = np.unique(row[row < num_items])
        np.testing.assert_array_equal(found, np.append(own, np.full(50 - len(own), num_items)))
        np.testing.assert_array_equal(where == 50, row == num_items)
        np.testing.assert_array_equal(found[where[where < 50]], row[where < 50])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("touched_rows", "objective"),
    spread(itertools.product([True, False], ["bce", "softmax"]), [(False, "softmax")]),
)
def test_a_client_alone_gives_the_upload_it_gives_among_others(touched_rows, objective):
    with jax.enable_x64(True):  # in float32 the two differ by the order of summation
        algorithm = make_algorithm(settings(objective=objective, host__name="fedrap"), DATASET)
        state = first_state(algorithm, 1)
        bucket = client_data(DATASET).buckets[0]
        local_settings = algorithm.local
        update = jax.jit(make_local_update(algorithm.model, local_settings))
        broadcast = algorithm.model.publish(state.public.params, client_data(DATASET).content)
        keys = jax.vmap(lambda u: jax.random.fold_in(jax.random.key(5), u))(bucket.user)

        def batch_of(history_l, key):
            return draw_batch(local_settings, DATASET.num_items, history_l, key, touched_rows=touched_rows)

        batch = jax.vmap(batch_of)(bucket.history, keys)
        local = gather_clients(state.private, bucket.user, batch.ids_n)
        together = jax.vmap(update, in_axes=(None, 0, 0, None))(broadcast, local, batch, jnp.asarray(4))
        for c in range(bucket.user.size):
            alone_batch = jax.jit(batch_of)(bucket.history[c], keys[c])
            alone = update(broadcast, jax.tree.map(lambda x, c=c: x[c], local), alone_batch, jnp.asarray(4))
            assert relative_difference(alone, jax.tree.map(lambda x, c=c: x[c], together)) <= 1e-12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "variant", "path"), list(itertools.product(["fedavg", "fedrap"], ["fedvlr"], ["fused", "uploads"]))
)
def test_layout_changes_nothing(host, variant, path):
    hosts.layout_changes_nothing(host, variant, path)


def test_only_the_cohort_moves_and_its_private_state_persists():
    algorithm = make_algorithm(settings(server__clients_per_round=4, host__name="fedrap"), DATASET)
    run = jax.jit(algorithm.run, static_argnums=2)
    data = client_data(DATASET)
    states = [first_state(algorithm)]
    for _ in range(6):
        states.append(run(states[-1], data, 1)[0])
    moved_once = set()
    for before, now in itertools.pairwise(states):
        same_u = np.ones(DATASET.num_users, bool)
        for a, b in zip(jax.tree.leaves(before.private), jax.tree.leaves(now.private), strict=True):
            same_u &= np.all(np.asarray(a) == np.asarray(b), axis=tuple(range(1, a.ndim)))
        assert (~same_u).sum() == 4
        moved_once |= set(np.flatnonzero(~same_u))
    assert len(moved_once) > 4
    content = data.content
    score = jax.jit(lambda state: algorithm.score(algorithm.snapshot(state, content), data.buckets[0]))
    trained, forgotten = score(states[-1]), score(states[-1].replace(private=states[0].private))
    differs_u = np.any(np.asarray(trained != forgotten), axis=1)
    assert set(np.flatnonzero(differs_u)) == moved_once


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "bad"),
    spread(
        [("fused", np.nan), ("gathered", np.inf), ("picked", np.inf), ("uploads", np.nan)],
        [("gathered", np.inf)],
    ),
)
def test_a_client_that_is_not_finite_is_left_out_and_counted(path, bad):
    algorithm = make_algorithm(settings(compute__path=path), DATASET)
    state = first_state(algorithm)
    culprit = 6
    poisoned = jax.tree.map(lambda x: x.at[culprit].set(bad), state.private.params)
    poisoned = state.replace(private=state.private.replace(params=poisoned))
    run = jax.jit(algorithm.run, static_argnums=2)
    got, info = run(poisoned, client_data(DATASET), 2)
    assert info.num_dropped.tolist() == [1, 1]
    assert np.isfinite(info.loss).all()
    others = np.setdiff1d(np.arange(DATASET.num_users), culprit)
    without = run(state, client_data(DATASET, order=others), 2)[0]
    assert relative_difference(got.public, without.public) <= 1e-6
    pick = lambda s: jax.tree.map(lambda x: x[others], s.private)  # noqa: E731
    assert relative_difference(pick(got), pick(without)) <= 1e-6
    for x in jax.tree.leaves(got.private.params):
        np.testing.assert_array_equal(x[culprit], np.full(x.shape[1:], bad))


def test_a_round_of_only_broken_clients_leaves_the_model_alone():
    algorithm = make_algorithm(settings(), DATASET)
    state = first_state(algorithm)
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), state.private.params)
    state = state.replace(private=state.private.replace(params=broken))
    new, info = jax.jit(algorithm.run, static_argnums=2)(state, client_data(DATASET), 1)
    assert int(info.num_dropped[0]) == DATASET.num_users
    chex.assert_trees_all_equal(new.public.params, state.public.params)


@pytest.mark.slow
@pytest.mark.parametrize("host", ["fedavg", "fedncf"])
def test_moving_items_coincides_with_algorithm_1_for_one_local_step(host):
    common = {"host__name": host, "client__steps": 1, "compute__path": "uploads", "client__item_lr": 0.7}
    fixed, _ = after(2, **common)
    moving, _ = after(2, client__move_items=True, **common)
    assert relative_difference(moving.public, fixed.public) <= 1e-6
    several, _ = after(2, client__move_items=True, **(common | {"client__steps": 3}))
    plain, _ = after(2, **(common | {"client__steps": 3}))
    assert relative_difference(several.public.params, plain.public.params) > 1e-4


@pytest.mark.parametrize("variant", ["base", "mlp", pytest.param("fedvlr", marks=pytest.mark.slow)])
def test_what_a_host_derives_once_for_all_clients_changes_nothing(monkeypatch, variant):
    with jax.enable_x64(True):
        algorithm = make_algorithm(settings(host__name="fedncf", variant=variant, compute__path="picked"), DATASET)
        data = client_data(DATASET)
        state = first_state(algorithm)
        once = jax.jit(algorithm.run, static_argnums=2)(state, data, 2)[0]
        asked = []
        monkeypatch.setattr(executors, "derived", lambda model, broadcast: asked.append(1) or broadcast)
        by_each = jax.jit(lambda *x: algorithm.run(*x, 2))(state, data)[0]
        assert asked
        for side in ("public", "private"):
            assert relative_difference(getattr(once, side).params, getattr(by_each, side).params) <= 1e-12
        rows = derived(algorithm.model, algorithm.model.publish(state.public.params, data.content)).rows
        assert "QW" in rows
        assert "Q" not in rows


@pytest.mark.slow
def test_aggregation_weights_sum_to_one():
    """Scaling all alpha_u by a constant changes nothing; FedAvg weighs by history length, FCF does not."""
    fedavg, _ = after(1, host__name="fedavg", variant="base")
    fcf, _ = after(1, host__name="fcf", variant="base")
    assert relative_difference(fedavg.public.params, fcf.public.params) > 1e-6
    one_client = client_data(DATASET, order=np.array([3]))
    alone, _ = after(1, host__name="fedavg", variant="base", data=one_client, client__steps=1)
    alone_equal, _ = after(1, host__name="fcf", variant="base", data=one_client, client__steps=1)
    alone_d, equal_d = (s.public.params["variant"]["D"] for s in (alone, alone_equal))
    assert relative_difference(alone_d, equal_d) <= 1e-6


def test_one_trace_over_several_calls_and_same_seed_same_bits():
    algorithm = make_algorithm(settings(), DATASET)
    run = jax.jit(chex.assert_max_traces(n=1)(algorithm.run), static_argnums=2, donate_argnums=0)
    data = client_data(DATASET)
    finals = []
    for _ in range(2):
        state = first_state(algorithm, 7)
        for _ in range(3):
            state, _ = run(state, data, 2)
        finals.append(jax.device_get((state.public, state.private)))
    chex.assert_trees_all_equal(*finals)


def test_rounds_in_one_scan_equal_rounds_one_by_one():
    algorithm = make_algorithm(settings(server__optimizer="adam"), DATASET)
    run = jax.jit(algorithm.run, static_argnums=2)
    data, state = client_data(DATASET), first_state(algorithm, 2)
    together, infos = run(state, data, 3)
    for k in range(3):
        state, info = run(state, data, 1)
        np.testing.assert_allclose(info.loss[0], infos.loss[k], rtol=1e-6)
    assert relative_difference(state.public, together.public) <= 1e-6


@pytest.mark.slow
def test_stateful_client_optimizer_keeps_its_state_per_client():
    state, _ = after(2, client__optimizer="adam", server__clients_per_round=5)
    counts = np.asarray(jax.tree.leaves(state.private.opt_state)[0])
    assert counts.shape == (DATASET.num_users,)
    assert counts.sum() == 2 * 5 * 2
    assert set(counts) <= {0, 2, 4}
