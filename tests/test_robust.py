"""Robust means of whole uploads: the least sum of distances, and what a minority of liars can do."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws.aggregators import broadcast, dense, in_float64, joined, make_aggregator, sent
from scipy import optimize

from fedvlr_jax.federated.aggregation import AGGREGATORS
from fedvlr_jax.models.model import Upload

ROBUST = ("krum", "multi_krum", "geometric_median")


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


@pytest.mark.parametrize("value", [-10.0, 1e30, -3e38])
@pytest.mark.parametrize("name", ROBUST)
def test_a_quarter_of_liars_does_not_move_it_far(name, value):
    found, honest = round_with_liars(name, value)
    spread = 0.1 * np.sqrt(honest.size)
    assert np.linalg.norm(found - honest) < 1.5 * spread, "it follows those who lie"
    if value == -10.0:
        moved, _ = round_with_liars("weighted_mean", value)
        assert np.linalg.norm(moved - honest) > 20 * spread
