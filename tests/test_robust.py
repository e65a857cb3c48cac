"""Robust means of whole uploads: the least sum of distances, and what a minority of liars can do."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws.aggregators import broadcast, dense, in_float64, joined, make_aggregator, sent
from laws.rounds import DATASET
from problems import settings
from scipy import optimize

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.federated.aggregation import AGGREGATORS
from fedvlr_jax.models.hosts import HOSTS
from fedvlr_jax.models.model import Upload
from fedvlr_jax.types import content_of

ROBUST = ("krum", "multi_krum", "geometric_median", "trimmed_rows")


def flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)])


@in_float64
def check_least_distances(seed: int) -> None:
    of = sent(seed)
    table, head, _ = dense(of)
    points, alpha = np.concatenate([table.reshape(len(table), -1), head], axis=1), np.asarray(of.alpha_c)

    def distances(z):
        return float(alpha @ np.linalg.norm(points - z, axis=1))

    found = flat(joined(make_aggregator("geometric_median"), of))
    best = optimize.minimize(distances, points.mean(axis=0), method="BFGS", tol=1e-9)
    assert distances(found) <= min(best.fun, *map(distances, points)) * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_geometric_median_has_the_least_sum_of_distances(seed):
    check_least_distances(seed)


def round_with_liars(name: str, value: float) -> tuple[np.ndarray, np.ndarray]:
    """The mean of 12 clients around ones, of which 3 send `value` instead, and what the honest send on average."""
    rng = np.random.default_rng(0)
    rows, head = (jnp.asarray(1 + 0.1 * rng.normal(size=shape), jnp.float32) for shape in ((12, 6, 2, 3), (12, 4)))
    honest = flat(jax.tree.map(lambda x: x[3:].mean(axis=0), ({"views": rows}, {"w": head})))
    rows, head = rows.at[:3].set(value), head.at[:3].set(value)
    made = AGGREGATORS[name](byzantine=0.25, trim=0.25)
    uploads = Upload(jnp.tile(jnp.arange(6), (12, 1)), {"views": rows}, {"w": head})
    carry = made.add(made.init(broadcast(), 12), uploads, jnp.ones(12))
    return flat(made.finish(carry, jnp.float32(12))), honest


@pytest.mark.slow
@pytest.mark.parametrize("value", [-10.0, 1e30, -3e38])
@pytest.mark.parametrize("name", ROBUST)
def test_a_quarter_of_liars_does_not_move_it_far(name, value):
    found, honest = round_with_liars(name, value)
    spread = 0.1 * np.sqrt(honest.size)
    assert np.linalg.norm(found - honest) < 1.5 * spread, "it follows those who lie"
    if value == -10.0:
        moved, _ = round_with_liars("weighted_mean", value)
        assert np.linalg.norm(moved - honest) > 20 * spread


@pytest.mark.parametrize("name", sorted(set(AGGREGATORS) - {"weighted_mean"}))
def test_a_row_that_few_clients_send_is_finite_however_large_it_is(name):
    """One number that is none would be in every parameter after the next step; most rows are sent by few clients."""
    rows = np.random.default_rng(0).normal(size=(5, 6, 2, 3)).astype(np.float32)
    rows[0, 0], rows[:2, 1], rows[:2, 2] = 3e38, 3e38, [[[2e38]], [[3e38]]]
    rows[0, 3:] = 1e30
    sent_ci = np.ones((5, 6), bool)
    sent_ci[1:, 0], sent_ci[2:, 1], sent_ci[2:, 2], sent_ci[2:, 3] = False, False, False, False
    ids_cn = np.where(sent_ci, np.arange(6), 6)
    made = AGGREGATORS[name](byzantine=0.2, trim=0.1)
    uploads = Upload(jnp.asarray(ids_cn), {"views": jnp.asarray(rows)}, {"w": jnp.ones((5, 4))})
    add, finish = jax.jit(made.add), jax.jit(made.finish)
    for number in (1, 5):
        some = jax.tree.map(lambda x, n=number: x[:n], uploads)
        found = finish(add(made.init(broadcast(), number), some, jnp.ones(number)), jnp.float32(number))
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


@pytest.mark.slow
def test_trimmed_rows_leave_out_those_who_push_one_row_together():
    """Honest rows that cancel, and four of forty that pull row 4 together and send rows of their own elsewhere."""
    half = np.random.default_rng(0).normal(size=(18, 6, 2, 3))

    def row_4(name: str, pull: np.ndarray) -> np.ndarray:
        rows = np.concatenate([half, -half, half[:4]])
        rows[36:, 4] = pull
        made = AGGREGATORS[name](trim=0.1)
        uploads = Upload(jnp.tile(jnp.arange(6), (40, 1)), {"views": jnp.asarray(rows)}, {"w": jnp.zeros((40, 4))})
        carry = made.add(made.init(broadcast(), 40), uploads, jnp.ones(40))
        return np.asarray(made.finish(carry, jnp.float32(40)).rows["views"][4])

    pull, other = np.full((2, 3), 2.0), np.array([[1.0, 2.0, 2.0], [2.0, 2.0, 2.0]])
    np.testing.assert_allclose(row_4("trimmed_rows", pull), row_4("trimmed_rows", other), atol=1e-6)
    assert np.abs(row_4("weighted_mean", pull) - row_4("weighted_mean", other)).max() > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("host", HOSTS)
def test_trimmed_rows_take_what_clients_of_every_host_send(host):
    model = make_algorithm(settings(host__name=host, variant="fedvlr"), DATASET).model
    shapes = jax.eval_shape(lambda key: model.publish(model.init_public(key), content_of(DATASET)), jax.random.key(0))
    one = jax.tree.map(lambda x: np.random.default_rng(0).normal(size=x.shape).astype(np.float32), shapes)
    three = jax.tree.map(lambda x: jnp.broadcast_to(x, (3, *x.shape)), one)
    made = AGGREGATORS["trimmed_rows"](trim=0.3)
    carry = made.add(made.init(one, 3), Upload(None, *three), jnp.array([1.0, 2.0, 0.5]))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6), made.finish(carry, 3.5), one)
