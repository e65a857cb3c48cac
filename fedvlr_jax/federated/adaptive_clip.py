"""A bound of clip that follows a quantile of the uploads' norms (Andrew et al., NeurIPS 2021).

Every client adds to a sum whether its upload was within the bound, and the server moves the bound C by the noised
share b of those that were, towards the share gamma that should be:

    C <- C exp(-rate (b - gamma)),      b = 1/2 + (sum_u (1[|upload_u| <= C] - 1/2) + noise) / n

A client moves that sum by 1/2. Sum of uploads (noise z_s C) and count (noise sigma_b) together are one Gaussian
mechanism of noise multiplier z with 1 / z^2 = 1 / z_s^2 + 1 / (2 sigma_b)^2, and the count takes a share of it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.federated import sampling
from fedvlr_jax.types import Array


class AdaptiveClip(NamedTuple):
    """How the bound moves.

    Attributes:
      first: the bound of the first round.
      quantile: gamma, the share of uploads that should stay as they are.
      rate: of the logarithm of the bound.
      count_noise: sigma_b, deviation of the noise on the count; 0 for none.
    """

    first: float
    quantile: float
    rate: float
    count_noise: float

    def next_bound(self, bound: Array, within: Array, num_clients: Array | int, key: Array, round_: Array) -> Array:
        """The bound of the next round, [].

        Args:
          bound: of this round.
          within: [], the sum over clients of 1/2 for an upload that stayed as it was, -1/2 for another.
          num_clients: n, the planned size of the cohort.
          key, round_: of the run, for the noise.
        """
        noise = self.count_noise * jax.random.normal(sampling.stream(key, sampling.COUNT, round_))
        share = 0.5 + (within + noise) / num_clients
        return bound * jnp.exp(-self.rate * (share - self.quantile))


def divide_noise(noise_multiplier: float, share: float) -> tuple[float, float]:
    """z and the share of the count -> (z_s, sigma_b): noise multiplier of the uploads, deviation on the count.

    >>> z, count = divide_noise(1.0, 0.2)
    >>> round(1 / z**2 + 1 / (2 * count) ** 2, 12)
    1.0
    """
    return noise_multiplier / math.sqrt(1 - share), noise_multiplier / (2 * math.sqrt(share))
