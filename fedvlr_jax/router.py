"""Client side: the mixture-of-experts router phi_u that weighs the views for one user.

The router reads the client's own history through every view, h_u = concat_j mean_{i in O_u} F_j[i], and returns
one weight vector per client: Linear(|G| d -> d), ReLU, Linear(d -> |G|), softmax. It is normalised once. The
activation can be a smooth one, which statements about smooth objectives need.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn

from fedvlr_jax.types import Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"relu": nn.relu, "gelu": nn.gelu, "softplus": nn.softplus}
"""Activations of the router and of operator `mlp` by the name in the config; all but relu are smooth."""


class Router(nn.Module):
    """``pooled_jd [j, d] -> w_j [j]``, non-negative and summing to one; 12,547 parameters at |G| = 3, d = 64."""

    dim: int
    num_views: int
    activation: Callable[[Array], Array] = nn.relu

    @nn.compact
    def __call__(self, pooled_jd: Array) -> Array:
        hidden_d = self.activation(nn.Dense(self.dim, name="hidden")(pooled_jd.reshape(-1)))
        return nn.softmax(nn.Dense(self.num_views, name="out")(hidden_d))
