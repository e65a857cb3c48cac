"""Laws of ROUTERS: weights are weights, a closed form is the plain steps, and fedvlr trains with any of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.models.router import ROUTERS, Phi, Router
from fedvlr_jax.types import Array
from laws.judging import require_close, require_equal, require_finite, require_form
from laws.rounds import open_paths, require_paths_agree

DIM, NUM_VIEWS, STEPS, LR = 5, 3, 4, 0.7


def make_router(name: str) -> Router:
    """The row of that name for `NUM_VIEWS` views."""
    return ROUTERS[name](DIM, NUM_VIEWS, jax.nn.relu)


def parameters(router: Router) -> Any:
    """What `Router.weights` takes, drawn with key 0; public parameters too where there are any."""
    own = router.init(jax.random.key(0))
    return own if router.init_shared is None else Phi(router.init_shared(jax.random.key(2)), own)


def read_history(router: Router, scale: float = 1.0) -> Any:
    """What the router reads of a random history of four rows and one of padding."""
    rows_ljd = scale * jax.random.normal(jax.random.key(1), (5, NUM_VIEWS, DIM))
    weight_l = jnp.array([1.0, 1, 1, 1, 0])
    return router.read(rows_ljd * weight_l[:, None, None], weight_l)


def weights_are_weights(name: str) -> None:
    """Non-negative and summing to one, for any history."""
    router = make_router(name)
    phi = parameters(router)
    require_finite(f"router {name}: initial parameters are not finite", phi)
    for scale in (0.0, 1.0, 100.0):
        w_j = router.weights(phi, read_history(router, scale))
        assert w_j.shape == (NUM_VIEWS,), f"router {name}: expected a weight for each view, found {w_j.shape}"
        require_finite(f"router {name}: weights are not finite", w_j)
        assert (w_j >= 0).all(), f"router {name}: weights are negative: {w_j}"
        total = float(jnp.sum(w_j))
        assert abs(total - 1) < 1e-5, f"router {name}: weights sum to {total}, not to one"


def it_is_pure(name: str) -> None:
    """The same key and history give the same parameters and weights, made once or twice, compiled or not."""
    first, second = (make_router(name) for _ in range(2))
    pooled, again_pooled = (read_history(router) for router in (first, second))
    phi, again = (parameters(router) for router in (first, second))
    require_equal(f"router {name}: init is not a function of the key", phi, again)
    w_j = first.weights(phi, pooled)
    require_equal(f"router {name}: weights are not a function", second.weights(again, again_pooled), w_j)
    require_close(f"router {name}: jit changes its weights", jax.jit(first.weights)(phi, pooled), w_j, rtol=1e-5)


def padding_is_inert(name: str) -> None:
    """What a router reads of a history does not depend on rows of weight 0, nor do its gradients become NaN there."""
    router = make_router(name)
    rows_ljd = jax.random.normal(jax.random.key(1), (3, NUM_VIEWS, DIM))
    padded_ljd = jnp.concatenate([rows_ljd, jnp.zeros((2, NUM_VIEWS, DIM))])
    weight_l = jnp.array([1.0, 1, 1, 0, 0])
    alone = router.read(rows_ljd, weight_l[:3])
    require_close(
        f"router {name}: padding changes what it reads", router.read(padded_ljd, weight_l), alone, rtol=1e-5
    )
    phi = parameters(router)
    gradient = jax.grad(lambda rows: router.weights(phi, router.read(rows, weight_l))[0])(padded_ljd)
    require_finite(f"router {name}: its gradient is not finite at padding", gradient)


def the_closed_form_equals_plain_steps(name: str) -> None:
    """SGD steps on random linear losses of the weights: parameters and the cotangent of the history, in float64."""
    with jax.enable_x64(True):
        router = make_router(name)
        if router.closed_form is None:
            return
        phi = jax.tree.map(lambda x: x.astype(float), router.init(jax.random.key(0)))
        pooled_jd = jax.random.normal(jax.random.key(1), (NUM_VIEWS, DIM))
        found, expected = (
            jax.jit(steps, static_argnums=0)(router, phi, pooled_jd) for steps in (_closed_steps, _plain_steps)
        )
        require_form(f"router {name}: its closed form returns other parameters", found, expected)
        message = f"router {name}: its closed form is not the plain steps"
        require_close(message, found, expected, rtol=1e-6, atol=1e-9)
        moved = max(
            float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (expected[0], phi)), strict=True)
        )
        assert moved > 1e-3, f"router {name}: steps move its parameters by {moved} at most"


def _plain_steps(router: Router, phi: Any, pooled_jd: Array) -> tuple[Any, Array]:
    total = jnp.zeros_like(pooled_jd)
    for cost_j in _costs():
        of_phi, of_pooled = jax.grad(lambda phi, h, c=cost_j: c @ router.weights(phi, h), (0, 1))(phi, pooled_jd)
        phi, total = jax.tree.map(lambda x, g: x - LR * g, phi, of_phi), total + of_pooled
    return phi, total


def _closed_steps(router: Router, phi: Any, pooled_jd: Array) -> tuple[Any, Array]:
    closed = router.closed_form
    summary, unsummarise = jax.vjp(lambda h: closed.summarise(phi, h), pooled_jd)
    moving, total = closed.start(phi), jax.tree.map(jnp.zeros_like, summary)
    for cost_j in _costs():
        of_moving, of_summary = jax.grad(lambda m, s, c=cost_j: c @ closed.weights(m, s), (0, 1))(moving, summary)
        moving = jax.tree.map(lambda x, g: x - LR * g, moving, of_moving)
        total = jax.tree.map(jnp.add, total, of_summary)
    return closed.finish(phi, pooled_jd, moving), unsummarise(total)[0]


def _costs() -> np.ndarray:
    return np.random.default_rng(2).normal(size=(STEPS, NUM_VIEWS))


def fedvlr_trains_on_all_paths(name: str) -> None:
    """Two finite rounds, the same on every path."""
    common = {"fusion__router": name, "fusion__operators": "id,visual"}
    require_paths_agree(f"router {name}", open_paths(**common), **common)


LAWS = {
    weights_are_weights: (),
    it_is_pure: (),
    padding_is_inert: (),
    the_closed_form_equals_plain_steps: (),
    # Another way to read stands in for the others.
    fedvlr_trains_on_all_paths: (
        *("mlp", "bias", "uniform", "common", "shared", "shared_low_rank", "shared_bias", "statistics_bias"),
    ),
}
