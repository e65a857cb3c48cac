"""The item-item maps behind score views: from secure sums and item features, with settings that the run chooses.

    ease        B = I - Q diag(1 / diag Q),  Q = (G + lam I)^-1,  G = sum_u r_u r_u^T
    next        W = (P + lam_n I)^-1 N,      P, N of `prior.Sums`
    prior       B_near + x' W, B_near of pairs near in time: the map of host fedprior
    collective  B with G + sum_m a_m F_m F_m^T
    visual, text   kernels of centred features: cos, max(cos, 0)^3, or that of 64 whitened dimensions
    ... targets (B + x W) S^T, ... sources S (B + x W), where rows of S are a softmax of 12 cos over the 50 most alike
                of the items that somebody has, without the item itself

What a map is formed with is chosen by the NDCG of its view alone on held-back items (`held_back.py`): each client
adds one number for each candidate to a secure sum. The sums are formed twice, without the held-back items to fit
weights and to choose, and with them to rank; a server learns these sums, these numbers, and nothing else.

Maps are formed one after the other, in float32, and at most seven matrices [i, i] are alive at a time.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from scipy import sparse

from fedvlr_jax.baselines.content import centred_features
from fedvlr_jax.data.histories import split_by_user
from fedvlr_jax.federated import prior
from fedvlr_jax.federated.held_back import HeldBack, mean_ndcg_of
from fedvlr_jax.federated.score_views import DECAY
from fedvlr_jax.types import Dataset

RIDGES = (20.0, 50.0, 100.0, 200.0, 400.0)
RIDGES_NEXT = (1000.0, 300.0, 100.0, 30.0)
NEXT_WEIGHTS = (0.0, 1.0, 2.0, 4.0)
STRENGTHS = (0.0, 0.03, 0.1, 0.3, 1.0)
RIDGES_NEAR = (30.0, 200.0)
KERNELS = ("cos", "cubed", "whitened")
WHITENED = 64
SHARPNESS = 12.0
NEIGHBOURS = 50
ROWS = 512
"""Rows of a matrix [i, i] that are worked on at once."""
DENSE = 0.05  # share of the catalogue from which on histories are multiplied as dense rows

T = TypeVar("T")


class ViewSums(NamedTuple):
    """All that the server learns of histories, float32: G [i, i], and `prior.Sums` of pairs near in time."""

    gram_ii: np.ndarray
    ordered: prior.Sums


class Choice(NamedTuple):
    """What maps are formed with, each chosen by its view alone.

    Attributes:
      ridge: lam. ridge_next: lam_n. next_weight: x. ridge_near, near_weight: of `prior`, the latter x'.
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

    def numbers(self) -> dict[str, float]:
        """The choice as numbers by name; a kernel as its place in `KERNELS`."""
        flat = {name: value for name, value in self._asdict().items() if name not in ("strength", "kernel")}
        strength = {f"strength {modality}": value for modality, value in self.strength.items()}
        return flat | strength | {f"kernel {m}": float(KERNELS.index(name)) for m, name in self.kernel.items()}


def described(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """`Choice.numbers` as a person reads them."""
    return {
        name: KERNELS[int(value)] if name.startswith("kernel") else float(f"{float(value):.6g}")
        for name, value in sorted(numbers.items())
    }


NUM_CANDIDATES = len(RIDGES) + len(RIDGES_NEXT) + len(RIDGES_NEAR) + 2 * (2 + len(STRENGTHS) + len(KERNELS))
"""Most maps that choices are made among; the weights of sums of two maps need no further ones."""

NUM_MAPS = 10  # that views are read through


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
    gram_ii = np.zeros((dataset.num_items, dataset.num_items), np.float32)
    for ids_n in split_by_user(dataset, dataset.train_item):
        gram_ii[np.ix_(ids_n, ids_n)] += 1  # a client's block: r r^T at its items
    return ViewSums(gram_ii, prior.sum_clients(dataset, prior.PriorSettings(decay=DECAY), np.float32))


def choose(sums: ViewSums, held: HeldBack, features: Dataset) -> Choice:
    """The best settings of each map by its view alone on the held-back items.

    Args:
      sums: of the inner histories.
      held: inner histories and held-back items.
      features: a data set with the features to use, None where a modality is off.
    """
    flat_ui, recent_ui = _histories(held.inner)
    centred, gram_ii = centred_by_modality(features), sums.gram_ii

    def judge(map_ii: np.ndarray, history_ui: sparse.csr_array = flat_ui) -> float:
        return mean_ndcg_of(lambda begin, end: _through(history_ui[begin:end], map_ii), held)

    @functools.cache
    def quality(ridge: float, *strength: float) -> float:
        return judge(_collective(gram_ii, centred, dict(zip(centred, strength, strict=False)), ridge))

    ridge = _first_peak(RIDGES, quality)
    strength: list[float] = []

    def with_next(rho: float) -> float:
        """With features of one more modality, of strength rho."""
        return quality(ridge, *strength, *([rho] if rho else []))

    def best_kernel(feature_id: np.ndarray) -> str:
        return max(KERNELS, key=lambda name: judge(content_kernel(feature_id, name)))

    for _ in centred:
        strength.append(_first_peak(STRENGTHS, with_next))
    around = (ridge, 2 * ridge, 0.5 * ridge) if any(strength) else (ridge,)
    flat_only = Choice(
        ridge=ridge,
        ridge_next=RIDGES_NEXT[0],
        next_weight=0.0,
        ridge_near=RIDGES_NEAR[0],
        near_weight=0.0,
        strength=dict(zip(centred, strength, strict=True)),
        ridge_collective=max(around, key=lambda ridge: quality(ridge, *strength)),
        kernel={m: best_kernel(x) for m, x in centred.items()},
    )
    if not sums.ordered.next_ii.any():
        return flat_only

    ridge_next = _first_peak(RIDGES_NEXT, lambda r: judge(prior.next_map(sums.ordered, r), recent_ui))
    next_ii = prior.next_map(sums.ordered, ridge_next)

    def best_weight(first_ii: np.ndarray) -> tuple[float, float]:
        """The best quality of ``first + x next``, and x."""
        return max((judge(first_ii + x * next_ii if x else first_ii, recent_ui), x) for x in NEXT_WEIGHTS)

    _, next_weight = best_weight(prior.ease(gram_ii, ridge))
    near = {r: best_weight(prior.ease(sums.ordered.similar_ii, r)) for r in RIDGES_NEAR}
    ridge_near = max(near, key=lambda r: near[r])
    return flat_only._replace(
        ridge_next=ridge_next, next_weight=next_weight, ridge_near=ridge_near, near_weight=near[ridge_near][1]
    )


def _first_peak(values: Sequence[float], judge: Callable[[float], float]) -> float:
    """The first value that is better than the one after it; a value costs a solution, and quality has one peak."""
    best, best_value = -np.inf, values[0]
    for value in values:
        quality = judge(value)
        if quality < best:
            break
        best, best_value = quality, value
    return best_value


def form(
    sums: ViewSums, features: Dataset, choice: Choice, *, co_occurrence: bool = True
) -> Iterator[tuple[str, np.ndarray]]:
    """The maps by name, float32 [i, i], one after the other; those that sums or features do not allow are missing.

    Args:
      sums: of the histories.
      features: as for `choose`.
      choice: of `choose`.
      co_occurrence: False leaves out all maps but the kernels.
    """
    centred, ordered = centred_by_modality(features), sums.ordered
    for modality, x in centred.items():
        yield modality, content_kernel(x, choice.kernel[modality])
    if not co_occurrence:
        return
    if centred:
        yield "collective", _collective(sums.gram_ii, centred, choice.strength, choice.ridge_collective)
    following_ii = prior.ease(sums.gram_ii, choice.ridge)
    yield "ease", following_ii
    if ordered.next_ii.any():
        next_ii = prior.next_map(ordered, choice.ridge_next)
        yield "next", next_ii
        near_ii = prior.ease(ordered.similar_ii, choice.ridge_near)
        near_ii += choice.near_weight * next_ii
        yield "prior", near_ii
        del near_ii
        following_ii = following_ii + choice.next_weight * next_ii
        del next_ii
    for modality, x in centred.items():
        alike_ii = _alike(x, ordered.count_i > 0)
        targets_ii = np.empty_like(following_ii)
        for begin in range(0, len(targets_ii), ROWS):  # as a whole it is copied twice
            targets_ii[begin : begin + ROWS] = (alike_ii @ following_ii[begin : begin + ROWS].T).T
        yield f"{modality} targets", targets_ii
        del targets_ii
        yield f"{modality} sources", alike_ii @ following_ii


def _collective(
    gram_ii: np.ndarray, centred: Mapping[str, np.ndarray], strength: Mapping[str, float], ridge: float
) -> np.ndarray:
    present = [np.sqrt(ridge * strength[m]) * x for m, x in centred.items() if strength.get(m)]
    if present:
        stacked_id = np.concatenate(present, axis=1)
        with_features_ii = stacked_id @ stacked_id.T
        with_features_ii += gram_ii
        return prior.ease(with_features_ii, ridge)
    return prior.ease(gram_ii, ridge)


def _histories(dataset: Dataset) -> tuple[sparse.csr_array, sparse.csr_array]:
    """R flat, and with the weights of recent items, float32 [u, i]."""
    shape = (dataset.num_users, dataset.num_items)
    settings = prior.PriorSettings(decay=DECAY)
    weight_r = prior.recency(dataset.train_age, settings, len(dataset.train_item)).astype(np.float32)
    at = (dataset.train_user, dataset.train_item)
    return sparse.csr_array((np.ones_like(weight_r), at), shape), sparse.csr_array((weight_r, at), shape)


def _through(history_ci: sparse.csr_array, map_ii: np.ndarray) -> np.ndarray:
    dense = history_ci.nnz > DENSE * history_ci.shape[0] * history_ci.shape[1]
    return (history_ci.toarray() if dense else history_ci) @ map_ii


def centred_by_modality(features: Dataset) -> dict[str, np.ndarray]:
    """float32 [i, d] by modality."""
    found = {} if features.V is None and features.C is None else centred_features(features)
    return {modality: x.astype(np.float32) for modality, x in found.items()}


def content_kernel(feature_id: np.ndarray, name: str) -> np.ndarray:
    """A kernel of centred features with zero diagonal, float32 [i, i]."""
    if name == "whitened":
        size_d, turn_dd = np.linalg.eigh((feature_id.T @ feature_id).astype(np.float64))
        kept_d = np.flatnonzero(size_d > 1e-6 * max(size_d[-1], 1e-30))[-WHITENED:]
        feature_id = feature_id @ (turn_dd[:, kept_d] / np.sqrt(size_d[kept_d])[None]).astype(np.float32)
    unit_id = unit_rows(feature_id)
    kernel_ii = unit_id @ unit_id.T
    np.fill_diagonal(kernel_ii, 0)
    if name != "cos":
        np.maximum(kernel_ii, 0, out=kernel_ii)
        kernel_ii *= kernel_ii * kernel_ii
    return kernel_ii


def _alike(feature_id: np.ndarray, seen_i: np.ndarray) -> sparse.csr_array:
    """S, float32 [i, i]: every row a distribution over the seen items most like its own item, not itself."""
    unit_id, size = unit_rows(feature_id), len(feature_id)
    kept = min(NEIGHBOURS, size)
    column_ik, weight_ik = np.empty((size, kept), np.int32), np.empty((size, kept), np.float32)
    for begin in range(0, size, ROWS):
        own_r = np.arange(begin, min(begin + ROWS, size))
        logit_ri = SHARPNESS * unit_id[own_r] @ unit_id.T
        logit_ri[:, ~seen_i] = -np.inf
        logit_ri[own_r - begin, own_r] = -np.inf
        found_rk = np.argpartition(-logit_ri, kept - 1, axis=1)[:, :kept]
        logit_rk = np.take_along_axis(logit_ri, found_rk, axis=1)
        largest_r1 = np.maximum(logit_rk.max(axis=1, keepdims=True), -1e30)
        weight_rk = np.exp(logit_rk - largest_r1)
        column_ik[own_r], weight_ik[own_r] = found_rk, weight_rk / np.maximum(weight_rk.sum(axis=1), 1e-30)[:, None]
    start_r = np.arange(0, size * kept + 1, kept)
    return sparse.csr_array((weight_ik.ravel(), column_ik.ravel(), start_r), (size, size))


def unit_rows(x_id: np.ndarray) -> np.ndarray:
    """The rows at norm one; rows of zeros stay."""
    return x_id / np.maximum(np.linalg.norm(x_id, axis=1, keepdims=True), 1e-12)


def without_modalities(dataset: Dataset, on: tuple[str, ...]) -> Dataset:
    """The data set with the features of the modalities that are on."""
    V, C = (x if letter in on else None for letter, x in (("V", dataset.V), ("C", dataset.C)))
    return dataclasses.replace(dataset, V=V, C=C)
