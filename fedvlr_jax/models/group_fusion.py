"""Group-wise fusion after GFMFR (Zhang et al., WWW 2026): groups of users share a fused teacher of features.

The server fuses the features of an item with a learned embedding e_k of every group k, and a head of the group turns
that into one logit:

    F_ki = mlp(e_k, V_i W_v + b_v, C_i W_c + b_c),      T_ik = a_k . F_ki + b_k.

A client belongs to the groups with private weights pi_u = softmax(m_u), and its teacher's logits are
t_ui = sum_k pi_uk T_ik. It learns from items by ids alone, and from the teacher by a divergence of its own scores:

    loss(s_u) + loss(t_u) + distil KL(softmax(t_u) || softmax(s_u)),      t_u constant in the last term.

The public description gives the parts (fusion on the server, a representation for each group of users with similar
interests, distillation into any federated recommender) and leaves the rest open. Here: who belongs to which group is
private and learned by the client, where the authors' code clusters the heads that clients upload, since no head
leaves a client here; the teacher learns from the clients' recommendation loss, through the one pull-back of a
round, where that code fits it to the mean of a group's uploaded item tables; the divergence is that of distributions
over the rows of a step, with a weight that stays; the number of groups and the weight are settings.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedvlr_jax.models.fusion import Mlp
from fedvlr_jax.types import Array


class GroupFusion(nn.Module):
    """The teachers of all groups.

    Attributes:
      dim: d.
      groups: how many groups there are.
      init_scale: standard deviation of the initial embeddings and heads of the groups.
      activation: of the hidden layer.
      dtype: the type that layers compute in, None for that of the parameters.
    """

    dim: int
    groups: int
    init_scale: float
    activation: Callable[[Array], Array] = nn.relu
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, V: Array | None, C: Array | None) -> Array:
        """Logits T [i, k] of items with features V [i, dv] and C [i, dc], of which one may be None: zeros then."""
        normal, shape = nn.initializers.normal(self.init_scale), (self.groups, self.dim)
        e_kd, a_kd = (self.param(name, normal, shape) for name in ("embedding", "head"))
        b_k = self.param("bias", nn.initializers.zeros, (self.groups,))
        items = len(V if V is not None else C if C is not None else ())
        over_groups = (self.groups, items, self.dim)
        v_kid, c_kid = (
            jnp.zeros(over_groups, e_kd.dtype)
            if features is None
            else jnp.broadcast_to(nn.Dense(self.dim, dtype=self.dtype, name=name)(features)[None], over_groups)
            for name, features in (("visual", V), ("textual", C))
        )
        mlp = Mlp(self.dim, 1, (True, V is not None, C is not None), self.activation, dtype=self.dtype, name="fusion")
        F_kid = mlp(jnp.broadcast_to(e_kd[:, None], over_groups), v_kid, c_kid)
        return jnp.einsum("kid,kd->ik", F_kid.astype(a_kd.dtype), a_kd) + b_k[None]


def membership(private: dict[str, Array]) -> Array:
    """pi_u [k], how much a client belongs to each group; not negative, summing to one."""
    return jax.nn.softmax(private["group"])
