"""How well a blend of score views would rank validation items, before the rounds: the order of time is chosen by it.

The shared weights are fitted by plain steps along the gradient of the clients' mean loss, which in the coordinates of
`view_basis.py` come near to the optimum in few; each step is a sum over clients, as in the rounds.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.agreed import Evidence, ViewBasis
from fedvlr_jax.federated.score_views import shaped, weight_names
from fedvlr_jax.models.hosts.fedblend import held_back_loss
from fedvlr_jax.training.all_views import AllViews, own_quality
from fedvlr_jax.types import Array

STEPS, EVERY = 30, 3


def numbers_of_a_trial() -> int:
    """How many numbers a client receives and sends: weights and gradients of all steps, and its qualities."""
    return 2 * STEPS * len(weight_names()) + STEPS // EVERY + 1


def trial_quality(
    judged: tuple[AllViews, np.ndarray], evidence: Evidence, basis: ViewBasis, loss_power: float
) -> float:
    """The best NDCG@50 on the way from the best single view to the fitted shared weights, both included.

    Args:
      judged: views of all clients and int32 [u, m], the items that are ranked or -1.
      evidence: what clients learn from; leaves [u, ...].
      basis: the coordinates.
      loss_power: q of the loss.
    """
    weight_ks = basis.start_k[:, None] + basis.turn_kk @ _fit(evidence, loss_power).T
    own_hs = own_quality(*judged, through=lambda z_civ: _weighed(z_civ, weight_ks))
    return float(own_hs.mean(axis=0).max()) if own_hs.size else 0.0


@jax.jit
def _fit(evidence: Evidence, loss_power: float) -> Array:
    """y after 0, EVERY, ... STEPS steps, [s, k]."""

    def loss(y_k: Array) -> Array:
        s_ub = jnp.where(evidence.candidate_b, evidence.base_b + evidence.x_bk @ y_k, -jnp.inf)
        return jnp.mean(jax.vmap(held_back_loss, in_axes=(0, 0, None))(s_ub, evidence.target_b, loss_power))

    def step(y_k: Array, _: None) -> tuple[Array, Array]:
        return y_k - jax.grad(loss)(y_k), y_k

    y_k, found_sk = jax.lax.scan(step, jnp.zeros(evidence.x_bk.shape[-1]), length=STEPS)
    return jnp.concatenate([found_sk[::EVERY], y_k[None]])


@jax.jit
def _weighed(z_civ: Array, weight_ks: Array) -> Array:
    return shaped(z_civ) @ weight_ks
