"""Client side: the mixture-of-experts router phi_u that weighs the views for one user.

The router reads the client's own history through every view, h_u = concat_j mean_{i in O_u} F_j[i], and returns
one weight vector per client: Linear(|G| d -> d), ReLU, Linear(d -> |G|), softmax. It is normalised once.
"""

from __future__ import annotations

import flax.linen as nn

from fedvlr_jax.types import Array


class Router(nn.Module):
    """``pooled_jd [j, d] -> w_j [j]``, non-negative and summing to one; 12,547 parameters at |G| = 3, d = 64."""

    dim: int
    num_views: int

    @nn.compact
    def __call__(self, pooled_jd: Array) -> Array:
        hidden_d = nn.relu(nn.Dense(self.dim, name="hidden")(pooled_jd.reshape(-1)))
        return nn.softmax(nn.Dense(self.num_views, name="out")(hidden_d))
