"""A bound that follows a quantile of norms: where it goes, what the count costs, and where it is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws.rounds import DATASET, after
from laws.saving import require_saved
from problems import settings

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.federated.adaptive_clip import AdaptiveClip, divide_noise

FROZEN = {  # nothing is learned, so that norms stay nearly the same
    "variant": "base",
    "client__lr": 0.0,
    "server__lr": 0.0,
    "aggregation__transforms": "clip",
    "aggregation__clip_quantile": 0.7,
    "aggregation__clip_norm": 100.0,
}


@pytest.mark.slow
@pytest.mark.parametrize("path", ["factors", "uploads"])
def test_the_bound_goes_to_the_quantile_of_the_norms(path):
    """From far above it; 9 of 13 uploads are then within it."""
    state, _ = after(120, compute__path=path, **FROZEN)
    bound = float(state.public.memory)
    fixed = {**FROZEN, "aggregation__clip_quantile": 0.5, "aggregation__clip_rate": 0.0}
    counted = {}
    for factor in (0.7, 1.4):
        start = state.replace(public=state.public.replace(memory=jnp.asarray(factor * bound)))
        nearby, _ = after(1, start=start, compute__path=path, **fixed | {"aggregation__clip_rate": 1.0})
        share = 0.5 - np.log(float(nearby.public.memory) / (factor * bound))
        counted[factor] = round(13 * share)
    assert 0 <= counted[0.7] < 9.1 < counted[1.4] <= 13


def test_the_count_has_noise_of_its_size_and_the_uploads_the_rest():
    """Bound and mean together are one Gaussian mechanism of the noise multiplier that is accounted."""
    adaptive = AdaptiveClip(1.0, 0.5, 1.0, count_noise=2.0)
    keys = jax.random.split(jax.random.key(0), 2_000)
    bound = jax.vmap(lambda key: adaptive.next_bound(jnp.float32(1), jnp.float32(3), 10, key, jnp.int32(0)))(keys)
    shares = -np.log(bound)
    assert np.mean(shares) == pytest.approx(0.3, abs=0.02)
    assert np.std(shares) == pytest.approx(0.2, rel=0.06)
    noise, count_noise = divide_noise(3.0, 0.25)
    moved = np.array([1 / noise, 0.5 / count_noise])  # one client, in units of the noise on each
    assert np.linalg.norm(moved) == pytest.approx(1 / 3.0)
    common = {"aggregation__transforms": "clip,noise", "aggregation__noise_multiplier": 3.0}
    made = make_algorithm(
        settings(aggregation__clip_quantile=0.5, aggregation__count_share=0.25, **common), DATASET
    ).pipeline
    assert made.adaptive.count_noise == pytest.approx(count_noise)
    zero = jax.tree.map(jnp.zeros_like, {"views": jnp.zeros((400, 4))})
    drawn = made.at(jnp.float32(2.0)).transform.server(jax.random.key(1), zero, jnp.float32(13))
    assert np.std(drawn["views"]) == pytest.approx(noise * 2.0 / 13, rel=0.1)


def test_the_bound_is_saved_with_the_public_state(tmp_path):
    state, _ = after(2, **FROZEN)
    assert 0 < float(state.public.memory) < 100
    require_saved(tmp_path, state)


def test_a_bound_that_moves_is_refused_where_it_cannot():
    for overrides in (
        {"aggregation__transforms": ""},
        {"aggregation__transforms": "top_rows,clip"},
        {"aggregation__aggregator": "median"},
        {"secure__sum": True},
        {"compute__store": "disk"},
        {"compute__devices": 2},
    ):
        with pytest.raises(ConfigError, match=r"aggregation.clip_quantile"):
            make_algorithm(settings(**FROZEN | overrides), DATASET)
