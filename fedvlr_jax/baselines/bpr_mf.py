"""BPR-MF: matrix factorisation with the pairwise loss (Rendle et al., "BPR: Bayesian personalized ranking from
implicit feedback", UAI 2009): s_ui = p_u . q_i, loss -log sigma(s_ui - s_uj), L2 on the factors used.
"""

from __future__ import annotations

import jax
from flax import struct

from fedvlr_jax.baselines.batches import Triples
from fedvlr_jax.baselines.layers import bpr_loss, glorot_uniform, squared_norm, take
from fedvlr_jax.baselines.learner import Learner
from fedvlr_jax.types import Array, Dataset, PyTree


@struct.dataclass(kw_only=True)
class Inputs:
    """All that the model reads beside the batches."""

    num_users: int = struct.field(pytree_node=False)
    num_items: int = struct.field(pytree_node=False)


def prepare(dataset: Dataset) -> Inputs:
    """The numbers of users and items."""
    return Inputs(num_users=dataset.num_users, num_items=dataset.num_items)


def init(key: Array, inputs: Inputs, dim: int) -> dict[str, Array]:
    """Factors ``p_ud`` and ``q_id``, Glorot uniform."""
    key_p, key_q = jax.random.split(key)
    shapes = (inputs.num_users, dim), (inputs.num_items, dim)
    return {"p_ud": glorot_uniform(key_p, shapes[0]), "q_id": glorot_uniform(key_q, shapes[1])}


def loss(
    params: dict[str, Array], inputs: Inputs, epoch: PyTree, batch: Triples, key: Array, hyper: dict[str, Array]
) -> Array:
    """BPR plus ``hyper["reg"]`` times the mean squared norm of the factors of the batch."""
    p_bd = take(params["p_ud"], batch.user)
    q_bd, other_bd = take(params["q_id"], batch.positive), take(params["q_id"], batch.negative)
    penalty = squared_norm(batch.weight, p_bd, q_bd, other_bd)
    return bpr_loss(p_bd, q_bd, other_bd, batch.weight) + hyper["reg"] * penalty


def represent(params: dict[str, Array], inputs: Inputs) -> tuple[Array, Array]:
    """The factors themselves."""
    return params["p_ud"], params["q_id"]


bpr_mf = Learner(
    prepare=prepare,
    init=init,
    loss=loss,
    represent=represent,
    grid=tuple({"lr": lr, "reg": reg} for lr in (1e-3, 5e-3) for reg in (1e-3, 1e-2, 1e-1, 1.0)),
)
