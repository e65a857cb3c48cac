"""VBPR: BPR-MF with a second user factor for projected content (He and McAuley, "VBPR: Visual Bayesian personalized
ranking from implicit feedback", AAAI 2016): s_ui = p_u . q_i + h_u . (W f_i) with the joint features f = [C, V].

The published code, run on KU with its own grid, has 44.1/15.5 (test HR@50/NDCG@50 in percent). Here points of the
grid have 38 to 53 / 17 to 19, and with negatives from train items alone (`learning.fit_learner`) 38 to 49 / 17 to 19.
They agree on warm items and differ in how far the 88 test rows of unseen items are pushed down, which weight decay
decides.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import struct

from fedvlr_jax.baselines.batches import Triples
from fedvlr_jax.baselines.layers import (
    bpr_loss,
    glorot_normal,
    glorot_uniform,
    joint_features,
    squared_norm,
    take,
)
from fedvlr_jax.baselines.learner import Learner
from fedvlr_jax.types import Array, Dataset, PyTree


@struct.dataclass(kw_only=True)
class Inputs:
    """``features_if`` [i, f], the joint features, and the number of users."""

    features_if: Array
    num_users: int = struct.field(pytree_node=False)


def prepare(dataset: Dataset) -> Inputs:
    """The features on the device.

    Raises:
      DataError: if the set has none.
    """
    return Inputs(features_if=joint_features(dataset), num_users=dataset.num_users)


def init(key: Array, inputs: Inputs, dim: int) -> dict[str, Array]:
    """``user_ux`` [u, 2d] = [p, h], ``q_id`` and the projection ``w_df``."""
    num_items, num_features = inputs.features_if.shape
    key_user, key_item, key_w = jax.random.split(key, 3)
    return {
        "user_ux": glorot_uniform(key_user, (inputs.num_users, 2 * dim)),
        "q_id": glorot_uniform(key_item, (num_items, dim)),
        "w_df": glorot_normal(key_w, (dim, num_features)),
    }


def loss(
    params: dict[str, Array], inputs: Inputs, epoch: PyTree, batch: Triples, key: Array, hyper: dict[str, Array]
) -> Array:
    """BPR plus ``hyper["reg"]`` times the mean squared norm of the representations of the batch.

    The features are projected for all items or for those of the batch, whichever are fewer.
    """
    user_bx = take(params["user_ux"], batch.user)
    if len(params["q_id"]) < 2 * len(batch.user):
        _, item_ix = represent(params, inputs)
        item_bx, other_bx = take(item_ix, batch.positive), take(item_ix, batch.negative)
    else:
        item_bx, other_bx = _items(params, inputs, batch.positive), _items(params, inputs, batch.negative)
    penalty = squared_norm(batch.weight, user_bx, item_bx, other_bx)
    return bpr_loss(user_bx, item_bx, other_bx, batch.weight) + hyper["reg"] * penalty


def represent(params: dict[str, Array], inputs: Inputs) -> tuple[Array, Array]:
    """[p_u, h_u] and [q_i, W f_i]."""
    return params["user_ux"], jnp.concatenate([params["q_id"], inputs.features_if @ params["w_df"].T], axis=1)


def _items(params: dict[str, Array], inputs: Inputs, item_b: Array) -> Array:
    """[q_i, W f_i] of some items."""
    return jnp.concatenate(
        [take(params["q_id"], item_b), take(inputs.features_if, item_b) @ params["w_df"].T], axis=1
    )


vbpr = Learner(
    prepare=prepare,
    init=init,
    loss=loss,
    represent=represent,
    grid=tuple({"lr": lr, "reg": reg} for lr in (1e-3, 5e-3) for reg in (1e-3, 1e-2, 1e-1, 1.0)),
    needs_features=True,
)
