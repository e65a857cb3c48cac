"""The prior of one noised sum: what a budget of differential privacy leaves of co-occurrence and popularity.

Once, before the rounds, every client sends two statistics of its n train items: co-occurrence x x^T / n, whose
Frobenius norm is 1, and popularity x / sqrt(n), whose L2 norm is 1. Weighted by `SHARES` their joint norm is 1,
whoever sends them, so one client more or less moves the sum by 1, and Gaussian noise on it is what is accounted.

What is made of the noised sums costs nothing more. Which of the item-to-item weights below serves depends on how many
clients stand against how many items, so it is chosen on validation; that choice is not covered by the guarantee.

    direct       S without its diagonal                          co-occurrence, as it is
    ridge        EASE on S + twice the noise's spectral edge     co-occurrence, one item given the others
    popularity   every row the popularity of all items           survives the smallest budgets
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fedvlr_jax.data.histories import split_by_user
from fedvlr_jax.federated.prior import ItemWeights
from fedvlr_jax.types import Dataset

SHARES = (0.8, 0.2)
"""Squared weights of co-occurrence and popularity in what a client sends."""

RIDGE = 1.0
"""Penalty of the weights beside that for the noise, in units of one client's whole co-occurrence."""


class Release(NamedTuple):
    """The noised sums over all clients, in units of one client, and the deviations of their noise.

    Attributes:
      similar_ii: float64 [i, i], symmetric. popular_i: float64 [i].
      similar_noise: on the diagonal; off it, where two numbers are one, it is that over sqrt(2).
      popular_noise: on every number.
    """

    similar_ii: np.ndarray
    popular_i: np.ndarray
    similar_noise: float
    popular_noise: float


def contribution(ids_n: np.ndarray, num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """What a client with these train items adds before noise, weighted: [i, i] and [i], of joint norm 1 (or 0)."""
    similar_ii, popular_i = np.zeros((num_items, num_items)), np.zeros(num_items)
    if len(ids_n):
        similar_ii[np.ix_(ids_n, ids_n)] = math.sqrt(SHARES[0]) / len(ids_n)
        popular_i[ids_n] = math.sqrt(SHARES[1] / len(ids_n))
    return similar_ii, popular_i


def release(dataset: Dataset, noise: float, seed: int) -> Release:
    """The noised sums of a data set.

    Args:
      dataset: histories.
      noise: deviation of the noise for a sum that one client moves by 1.
      seed: of the noise; whoever knows it can take the noise off.
    """
    size, rng = dataset.num_items, np.random.default_rng((seed, 17))
    similar_ii, popular_i = np.zeros((size, size)), np.zeros(size)
    for ids_n in split_by_user(dataset, dataset.train_item):
        similar_ii[np.ix_(ids_n, ids_n)] += math.sqrt(SHARES[0]) / len(ids_n)
        popular_i[ids_n] += math.sqrt(SHARES[1] / len(ids_n))
    upper_ii = np.triu(rng.normal(0, noise / math.sqrt(2), (size, size)), 1)
    similar_ii += upper_ii + upper_ii.T + np.diag(rng.normal(0, noise, size))
    popular_i += rng.normal(0, noise, size)
    similar_noise, popular_noise = (noise / math.sqrt(share) for share in SHARES)
    similar_ii /= math.sqrt(SHARES[0])
    return Release(similar_ii, popular_i / math.sqrt(SHARES[1]), similar_noise, popular_noise)


def item_weights(released: Release) -> dict[str, ItemWeights]:
    """Candidates for the prior by name; everything in them is made of the release alone."""
    similar_ii, popular_i, similar_noise, popular_noise = released
    size = len(popular_i)
    count_i = np.maximum(popular_i - 2 * popular_noise, 0.0)  # an item is seen where the noise does not explain it
    if not count_i.any():
        count_i = np.ones(size)
    megabytes = 4e-6 * size * (size + 3) / 2
    edge = similar_noise * math.sqrt(2 * size)  # the largest eigenvalue of the noise alone, nearly
    return {
        name: ItemWeights(weight_ii, count_i, megabytes)
        for name, weight_ii in (
            ("direct", similar_ii - np.diag(np.diag(similar_ii))),
            ("ridge", _ease(similar_ii + (RIDGE + 2 * edge) * np.eye(size))),
            ("popularity", np.tile(popular_i, (size, 1))),
        )
    }


def _ease(gram_ii: np.ndarray) -> np.ndarray:
    inverse_ii = np.linalg.inv(gram_ii)
    weight_ii = -inverse_ii / np.diag(inverse_ii)
    np.fill_diagonal(weight_ii, 0.0)
    return weight_ii
