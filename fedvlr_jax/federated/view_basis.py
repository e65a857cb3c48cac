"""Where the weights of score views start, and the coordinates in which they are learned.

    w = start + turn y,   start = the best single view, scaled;   turn turn^T = (F + eps max(F) I)^-1
    F = (F(0) + F(start)) / 2,   F(w) = mean over clients of the covariance of t(z) under softmax(t(z) w)

Views are alike, so the loss is long and narrow in w; in y it is about as round as F says, and a plain gradient step
of rate 1 is nearly one of Newton's method. At y = 0 the blend ranks as the best single view does, and a penalty on y
pulls it there: with little to learn from, that is what it stays.

All that is read of clients are means over them: the quality of each view alone on held-back items, the log loss of
the best one at a few scales, and F at two points.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.federated.score_views import VIEWS, stretched
from fedvlr_jax.types import Array, ViewBasis

SCALES = tuple(2.0**k for k in range(-3, 5))
FLOOR = 1e-3
"""eps: directions in which F is smaller than this share of its largest are stretched no further."""
CHUNK = 64


class Learned(NamedTuple):
    """What clients learn from before coordinates are chosen: as `types.Evidence`, with z_ubv [u, b, v]."""

    z_ubv: Array
    target_ub: Array
    candidate_ub: Array


def choose_basis(learned: Learned, quality_v: np.ndarray, stretch: float) -> ViewBasis:
    """The start and the coordinates that suit all clients together.

    Args:
      learned: of all clients.
      quality_v: [v], of each view alone on the held-back items.
      stretch: a of t(z).
    """
    best, size = int(np.argmax(quality_v)), len(VIEWS)
    along_v = np.eye(size, dtype=np.float32)[best]
    losses = [float(_log_loss(learned, stretch, scale * along_v)) for scale in SCALES]
    start_v = SCALES[int(np.argmin(losses))] * along_v
    fisher_vv = sum(np.asarray(_fisher(learned, stretch, w_v), float) for w_v in (0 * start_v, start_v)) / 2
    size_k, turn_vk = np.linalg.eigh(fisher_vv)
    turn_vk = turn_vk / np.sqrt(np.maximum(size_k, 0) + FLOOR * max(size_k[-1], 1e-9))[None]
    return ViewBasis(jnp.asarray(start_v), jnp.asarray(turn_vk, jnp.float32), jnp.float32(stretch))


@jax.jit
def _log_loss(learned: Learned, stretch: float, w_v: Array) -> Array:
    def one(client: Learned) -> Array:
        _, log_p_b = _candidates(client, stretch, w_v)
        return -jnp.sum(jnp.where(client.target_ub > 0, log_p_b, 0.0)) / jnp.maximum(jnp.sum(client.target_ub), 1)

    return jnp.mean(jax.lax.map(one, learned, batch_size=CHUNK))


@jax.jit
def _fisher(learned: Learned, stretch: float, w_v: Array) -> Array:
    def one(client: Learned) -> Array:
        t_bv, log_p_b = _candidates(client, stretch, w_v)
        p_b = jnp.exp(log_p_b) * jnp.any(client.target_ub > 0)  # of a client that learns
        mean_v = p_b @ t_bv
        return (t_bv * p_b[:, None]).T @ t_bv - mean_v[:, None] * mean_v[None]

    def add(total_vv: Array, client: Learned) -> tuple[Array, None]:
        return total_vv + one(client), None

    total_vv, _ = jax.lax.scan(add, jnp.zeros((w_v.size, w_v.size)), learned)
    return total_vv / learned.target_ub.shape[0]


def _candidates(client: Learned, stretch: float, w_v: Array) -> tuple[Array, Array]:
    t_bv = stretched(client.z_ubv, stretch)
    return t_bv, jax.nn.log_softmax(jnp.where(client.candidate_ub, t_bv @ w_v, -jnp.inf))
