"""Where the weights of score views start, and the coordinates in which they are learned.

    w = start + turn y,   start = the best single view, scaled;   turn turn^T = (F + eps max(F) I)^-1
    F = (F(0) + F(start)) / 2,   F(w) = mean over clients of the covariance of t under softmax(t w)

Views are alike, so the loss is long and narrow in w; in y it is about as round as F says, and a plain gradient step
of rate 1 is nearly one of Newton's method. At y = 0 the blend ranks as the best single view does, and a penalty on y
pulls it there: with little to learn from, that is what it stays.

All that is read of clients are means over them: the quality of each view alone on validation items, the log loss of
the best one on held-back items at a few scales, and F at two points.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.agreed import ViewBasis
from fedvlr_jax.federated.score_views import VIEWS, shaped, weight_names
from fedvlr_jax.types import Array

SCALES = tuple(2.0**k for k in range(-3, 5))
FLOOR = 1e-3
"""eps: directions in which F is smaller than this share of its largest are stretched no further."""
CHUNK = 64


def numbers_once() -> int:
    """How many numbers a client sends for the basis: its view qualities, log losses, and two triangles of F."""
    size = len(weight_names())
    return len(VIEWS) + len(SCALES) + size * (size + 1)


class Learned(NamedTuple):
    """What clients learn from before coordinates are chosen: as `agreed.Evidence`, with z_ubv [u, b, v]."""

    z_ubv: Array
    target_ub: Array
    candidate_ub: Array


def choose_basis(learned: Learned, quality_v: np.ndarray) -> ViewBasis:
    """The start and the coordinates that suit all clients together.

    Args:
      learned: of all clients.
      quality_v: [v], of each view alone.
    """
    size = len(weight_names())
    along_k = np.eye(size, dtype=np.float32)[int(np.argmax(quality_v))]  # in its first shape
    losses = [float(_log_loss(learned, scale * along_k)) for scale in SCALES]
    start_k = SCALES[int(np.argmin(losses))] * along_k
    fisher_kk = sum(np.asarray(_fisher(learned, w_k), float) for w_k in (0 * start_k, start_k)) / 2
    size_k, turn_kk = np.linalg.eigh(fisher_kk)
    turn_kk = turn_kk / np.sqrt(np.maximum(size_k, 0) + FLOOR * max(size_k[-1], 1e-9))[None]
    return ViewBasis(jnp.asarray(start_k), jnp.asarray(turn_kk, jnp.float32))


@jax.jit
def _log_loss(learned: Learned, w_k: Array) -> Array:
    def one(client: Learned) -> Array:
        _, log_p_b = _candidates(client, w_k)
        return -jnp.sum(jnp.where(client.target_ub > 0, log_p_b, 0.0)) / jnp.maximum(jnp.sum(client.target_ub), 1)

    return jnp.mean(jax.lax.map(one, learned, batch_size=CHUNK))


@jax.jit
def _fisher(learned: Learned, w_k: Array) -> Array:
    def add(total_kk: Array, client: Learned) -> tuple[Array, None]:
        t_bk, log_p_b = _candidates(client, w_k)
        p_b = jnp.exp(log_p_b) * jnp.any(client.target_ub > 0)  # of a client that learns
        mean_k = p_b @ t_bk
        return total_kk + (t_bk * p_b[:, None]).T @ t_bk - mean_k[:, None] * mean_k[None], None

    total_kk, _ = jax.lax.scan(add, jnp.zeros((w_k.size, w_k.size)), learned)
    return total_kk / learned.target_ub.shape[0]


def _candidates(client: Learned, w_k: Array) -> tuple[Array, Array]:
    t_bk = shaped(client.z_ubv)
    return t_bk, jax.nn.log_softmax(jnp.where(client.candidate_ub, t_bk @ w_k, -jnp.inf))
