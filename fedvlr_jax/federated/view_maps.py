"""The item-item maps behind score views: from secure sums and item features, with settings that the run chooses.

    ease        B = I - Q diag(1 / diag Q),  Q = (G + lam I)^-1,  G = sum_u r_u r_u^T
    next        W = (P + lam_n I)^-1 N,      P, N of `prior.Sums`
    following   B + x W
    prior       B_near + x' W, B_near of pairs near in time: the map of host fedprior
    collective  B with G + sum_m a_m F_m F_m^T
    visual, text   kernels of centred features: cos, max(cos, 0)^3, or that of 64 whitened dimensions
    neighbours  rows are softmax of 12 cos over the items that somebody has, without the item itself

What a map is formed with is chosen by the NDCG of its view alone on held-back items (`held_back.py`): each client
adds one number for each candidate to a secure sum. The sums are formed twice, without the held-back items to fit
weights and to choose, and with them to rank; a server learns these sums, these numbers, and nothing else.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from fedvlr_jax.baselines.base import HyperGrid, train_matrix
from fedvlr_jax.baselines.content import centred_features
from fedvlr_jax.baselines.fed_ease import gram_block, sum_gram_blocks
from fedvlr_jax.baselines.ridge import gram_factor, ridge_scores
from fedvlr_jax.data.histories import split_by_user
from fedvlr_jax.federated import prior
from fedvlr_jax.federated.held_back import HeldBack, mean_ndcg
from fedvlr_jax.federated.score_views import DECAY
from fedvlr_jax.types import Dataset

RIDGES = (20.0, 50.0, 100.0, 200.0, 400.0)
RIDGES_NEXT = (30.0, 100.0, 300.0, 1000.0)
NEXT_WEIGHTS = (0.0, 1.0, 2.0, 4.0)
STRENGTHS = (0.0, 0.03, 0.1, 0.3, 1.0)
RIDGES_NEAR = (30.0, 200.0)
KERNELS = ("cos", "cubed", "whitened")
WHITENED = 64
SHARPNESS = 12.0


class ViewSums(NamedTuple):
    """All that the server learns of histories: G [i, i], and `prior.Sums` with co-occurrence near in time."""

    gram_ii: np.ndarray
    ordered: prior.Sums


class Choice(NamedTuple):
    """What maps are formed with, each chosen by its view alone.

    Attributes:
      ridge: lam. ridge_next: lam_n. next_weight: x of `following`. ridge_near, near_weight: of `prior`.
      strength: a_m / lam of `collective` by modality. ridge_collective: its lam.
      kernel: of `KERNELS`, by modality.
    """

    ridge: float
    ridge_next: float
    next_weight: float
    ridge_near: float
    near_weight: float
    strength: Mapping[str, float]
    ridge_collective: float
    kernel: Mapping[str, str]


NUM_CANDIDATES = len(RIDGES) + len(RIDGES_NEXT) + len(RIDGES_NEAR) + 2 * (3 * len(STRENGTHS) + len(KERNELS))
"""Maps that choices are made among; the weights of sums of two maps need no further ones."""

NUM_MAPS = 10
"""Views that are read through a map: smoothing maps are multiplied by the server."""


def megabytes_once(dataset: Dataset) -> float:
    """10^6 bytes that move before the first round, 4 a number, for histories with and without held-back items.

    Every client of n items sends three lower triangles and one whole matrix of its block, receives the rows of a map
    at its items for each view and once more for each candidate, and sends one number a candidate.
    """
    length_u = np.bincount(dataset.train_user, minlength=dataset.num_users).astype(np.int64)
    blocks_u = 2 * (3 * length_u * (length_u + 1) // 2 + length_u**2)
    rows_u = (2 * NUM_MAPS + NUM_CANDIDATES) * length_u * dataset.num_items
    return 4e-6 * float((blocks_u + rows_u + NUM_CANDIDATES).sum())


def federate(dataset: Dataset) -> ViewSums:
    """The two secure sums over clients."""
    histories = split_by_user(dataset, dataset.train_item)
    gram_ii = sum_gram_blocks((gram_block(history) for history in histories), dataset.num_items)
    ordered = prior.sum_clients(dataset, prior.PriorSettings(decay=DECAY))
    return ViewSums(gram_ii, prior.Sums(*(x.astype(np.float32) for x in ordered)))


def choose(sums: ViewSums, held: HeldBack, features: Dataset) -> Choice:
    """The best settings of each map by its view alone on the held-back items.

    Args:
      sums: of the inner histories.
      held: inner histories and held-back items.
      features: a data set with the features to use, None where a modality is off.
    """
    flat_ui, recent_ui = _histories(held.inner)
    centred, factor_ri = _centred(features), gram_factor(sums.gram_ii)

    def judge(*points: dict[str, float]) -> dict[str, float]:
        scored = ridge_scores(factor_ri, flat_ui, centred, points)
        return max(((mean_ndcg(s_ui, held), k, point) for k, (point, s_ui) in enumerate(scored)))[2]

    best = judge(*({"l2": ridge} for ridge in RIDGES))
    ridge = best["l2"]
    for modality in centred:
        around = itertools.product(STRENGTHS, (0.5, 1.0, 2.0))
        best = judge(*(best | {modality: rho, "l2": scale * ridge} for rho, scale in around))
    kernel = {}
    for modality, x in centred.items():
        found = [(mean_ndcg(flat_ui @ _kernel(x, name), held), name) for name in KERNELS]
        kernel[modality] = max(found)[1]
    ridge_next, next_weight, ridge_near, near_weight = RIDGES_NEXT[-1], 0.0, RIDGES_NEAR[0], 0.0
    if sums.ordered.next_ii.any():
        following = {r: recent_ui @ prior.next_map(sums.ordered, r) for r in RIDGES_NEXT}
        ridge_next = max(RIDGES_NEXT, key=lambda r: mean_ndcg(following[r], held))
        after_ui = following[ridge_next]
        ((_, ease_ui),) = ridge_scores(factor_ri, recent_ui, {}, ({"l2": ridge},))
        next_weight = max(NEXT_WEIGHTS, key=lambda x: mean_ndcg(ease_ui + x * after_ui, held))
        near = {r: recent_ui @ prior.ease(sums.ordered.similar_ii, r) for r in RIDGES_NEAR}
        pairs = itertools.product(RIDGES_NEAR, NEXT_WEIGHTS)
        ridge_near, near_weight = max(pairs, key=lambda p: mean_ndcg(near[p[0]] + p[1] * after_ui, held))
    strength = {modality: best.get(modality, 0.0) for modality in centred}
    return Choice(ridge, ridge_next, next_weight, ridge_near, near_weight, strength, best["l2"], kernel)


def form(sums: ViewSums, features: Dataset, choice: Choice, *, co_occurrence: bool = True) -> dict[str, np.ndarray]:
    """The maps by name, float32 [i, i]; those that the sums or the features do not allow are missing.

    Args:
      sums: of the histories.
      features: as for `choose`.
      choice: of `choose`.
      co_occurrence: False leaves out all maps but the kernels.
    """
    maps, centred = {}, _centred(features)
    for modality, x in centred.items():
        maps[modality] = _kernel(x, choice.kernel[modality])
        maps[f"{modality} neighbours"] = prior.neighbours([unit_rows(x)], sums.ordered.count_i > 0, SHARPNESS)
    if co_occurrence:
        maps |= _co_occurrence(sums, centred, choice)
    return {name: x.astype(np.float32) for name, x in maps.items()}


def _co_occurrence(sums: ViewSums, centred: dict[str, np.ndarray], choice: Choice) -> dict[str, np.ndarray]:
    eye_ii, factor_ri = np.eye(len(sums.gram_ii), dtype=np.float32), gram_factor(sums.gram_ii)
    points: HyperGrid = ({"l2": choice.ridge}, dict(choice.strength) | {"l2": choice.ridge_collective})
    (_, ease_ii), *rest = ridge_scores(factor_ri, eye_ii, centred, points if centred else points[:1])
    maps = {"ease": ease_ii, "following": ease_ii}
    if rest:
        maps["collective"] = rest[0][1]
    if sums.ordered.next_ii.any():
        maps["next"] = prior.next_map(sums.ordered, choice.ridge_next)
        maps["following"] = ease_ii + choice.next_weight * maps["next"]
        near_ii = prior.ease(sums.ordered.similar_ii, choice.ridge_near)
        maps["prior"] = near_ii + choice.near_weight * maps["next"]
    return maps


def _histories(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """R flat, and with the weights of recent items, float32 [u, i]."""
    flat_ui = train_matrix(dataset)
    recent_ui = np.zeros_like(flat_ui)
    settings = prior.PriorSettings(decay=DECAY)
    weight_r = prior.recency(dataset.train_age, settings, len(dataset.train_item))
    recent_ui[dataset.train_user, dataset.train_item] = weight_r
    return flat_ui, recent_ui


def _centred(features: Dataset) -> dict[str, np.ndarray]:
    return {} if features.V is None and features.C is None else centred_features(features)


def _kernel(feature_id: np.ndarray, name: str) -> np.ndarray:
    """A kernel of centred features with zero diagonal, float64 [i, i]."""
    if name == "whitened":
        size_d, turn_dd = np.linalg.eigh(feature_id.T @ feature_id)
        kept_d = np.flatnonzero(size_d > 1e-9 * max(size_d[-1], 1e-30))[-WHITENED:]
        feature_id = feature_id @ (turn_dd[:, kept_d] / np.sqrt(size_d[kept_d])[None])
    unit_id = unit_rows(feature_id)
    kernel_ii = unit_id @ unit_id.T
    np.fill_diagonal(kernel_ii, 0)
    return kernel_ii if name == "cos" else np.maximum(kernel_ii, 0) ** 3


def unit_rows(x_id: np.ndarray) -> np.ndarray:
    """The rows at norm one; rows of zeros stay."""
    return x_id / np.maximum(np.linalg.norm(x_id, axis=1, keepdims=True), 1e-12)


def without_modalities(dataset: Dataset, on: tuple[str, ...]) -> Dataset:
    """The data set with the features of the modalities that are on."""
    V, C = (x if letter in on else None for letter, x in (("V", dataset.V), ("C", dataset.C)))
    return dataclasses.replace(dataset, V=V, C=C)
