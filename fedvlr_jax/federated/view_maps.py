"""The item-item maps behind score views: from secure sums and item features, with settings that the run chooses.

    ease        B = I - Q diag(1 / diag Q),  Q = (G + lam I)^-1,  G = sum_u r_u r_u^T
    next        W = (P + lam_n I)^-1 N,      P, N of `prior.Sums`
    prior       B_near + x' W, B_near of pairs near in time: the map of host fedprior
    collective  B with G + sum_m a_m F_m F_m^T
    visual, text   kernels of centred features: cos, max(cos, 0)^3, or that of 64 whitened dimensions
    ... targets (B + x W) S^T, ... sources S (B + x W), where rows of S are a softmax of 12 cos over the 50 most alike
                of the items that somebody has, without the item itself

What a map is formed with is chosen by its view alone (`view_choice.py`). The sums are formed twice, without the
held-back items to fit weights and to choose, and with them to rank; a server learns these sums, the numbers that
choices go by, and nothing else.

Maps are formed one after the other, in float32, and at most six matrices [i, i] are alive at a time.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import scipy

from fedvlr_jax.baselines.content import centred_features
from fedvlr_jax.data.histories import add_at, places_of, split_by_user
from fedvlr_jax.federated import prior
from fedvlr_jax.federated.score_views import DECAY
from fedvlr_jax.types import Dataset

KERNELS = ("cos", "cubed", "whitened")
WHITENED = 64
SHARPNESS = 12.0
NEIGHBOURS = 50
ROWS = 512
"""Rows of a matrix [i, i] that are worked on at once."""


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


def federate(dataset: Dataset) -> ViewSums:
    """The two secure sums over clients."""
    gram_ii = np.zeros((dataset.num_items, dataset.num_items), np.float32)
    for ids_n in split_by_user(dataset, dataset.train_item):
        add_at(gram_ii, places_of(ids_n, dataset.num_items), 1.0)  # a client's block: r r^T at its items
    return ViewSums(gram_ii, prior.sum_clients(dataset, prior.PriorSettings(decay=DECAY), np.float32))


def form(
    sums: ViewSums,
    features: Dataset,
    choice: Choice,
    *,
    co_occurrence: bool = True,
    known: Mapping[str, np.ndarray] | None = None,
) -> Iterator[tuple[str, np.ndarray]]:
    """The maps by name, float32 [i, i], one after the other; those that sums or features do not allow are missing.

    Args:
      sums: of the histories.
      features: with the features to use, None where a modality is off.
      choice: of `view_choice.choose`.
      co_occurrence: False leaves out all maps but the kernels.
      known: maps of the same sums and choice that need not be formed again.
    """
    centred, found = centred_by_modality(features), known or {}
    gram_ii, ordered = sums
    del sums  # a caller that keeps no sums itself has the memory of each back where it is read no more

    def get(name: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        return found[name] if name in found else make()

    for modality, x in centred.items():
        yield modality, get(modality, functools.partial(content_kernel, x, choice.kernel[modality]))
    if not co_occurrence:
        return
    if centred:
        how = (centred, choice.strength, choice.ridge_collective)
        yield "collective", get("collective", functools.partial(collective, gram_ii, *how))
    following_ii = get("ease", functools.partial(prior.ease, gram_ii, choice.ridge))
    del gram_ii
    yield "ease", following_ii
    seen_i, similar_ii = ordered.count_i > 0, ordered.similar_ii
    if ordered.next_ii.any():
        next_ii = get("next", functools.partial(prior.next_map, ordered, choice.ridge_next))
        del ordered
        yield "next", next_ii
        near_ii = get("prior", functools.partial(prior.ease, similar_ii, choice.ridge_near))
        del similar_ii
        if "prior" not in found:
            near_ii += choice.near_weight * next_ii
        yield "prior", near_ii
        del near_ii
        following_ii = following_ii + choice.next_weight * next_ii
        del next_ii
    for modality, x in centred.items():
        alike_ii = _alike(x, seen_i)
        targets_ii = np.empty_like(following_ii)
        for begin in range(0, len(targets_ii), ROWS):  # as a whole it is copied twice
            targets_ii[begin : begin + ROWS] = (alike_ii @ following_ii[begin : begin + ROWS].T).T
        yield f"{modality} targets", targets_ii
        del targets_ii
        yield f"{modality} sources", alike_ii @ following_ii


def collective(
    gram_ii: np.ndarray, centred: Mapping[str, np.ndarray], strength: Mapping[str, float], ridge: float
) -> np.ndarray:
    """B of collective EASE, from features [i, d] by modality and their strengths in units of the ridge."""
    present = {m: x for m, x in centred.items() if strength.get(m)}
    if not present:
        return prior.ease(gram_ii, ridge)
    lower_ii = np.array(gram_ii, order="F")  # of a symmetric matrix `ease` reads the lower triangle
    for m, x_id in present.items():
        lower_ii = scipy.linalg.blas.ssyrk(
            ridge * strength[m], x_id.T, trans=1, beta=1, c=lower_ii, lower=1, overwrite_c=1
        )
    return prior.ease(lower_ii, ridge)


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


def _alike(feature_id: np.ndarray, seen_i: np.ndarray) -> scipy.sparse.csr_array:
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
        logit_rk[~unit_id[own_r].any(axis=1)] = -np.inf  # an item of which nothing is known is like none
        largest_r1 = np.maximum(logit_rk.max(axis=1, keepdims=True), -1e30)
        weight_rk = np.exp(logit_rk - largest_r1)
        column_ik[own_r], weight_ik[own_r] = found_rk, weight_rk / np.maximum(weight_rk.sum(axis=1), 1e-30)[:, None]
    start_r = np.arange(0, size * kept + 1, kept)
    return scipy.sparse.csr_array((weight_ik.ravel(), column_ik.ravel(), start_r), (size, size))


def unit_rows(x_id: np.ndarray) -> np.ndarray:
    """The rows at norm one; rows of zeros stay."""
    return x_id / np.maximum(np.linalg.norm(x_id, axis=1, keepdims=True), 1e-12)


def without_modalities(dataset: Dataset, on: tuple[str, ...]) -> Dataset:
    """The data set with the features of the modalities that are on."""
    V, C = (x if letter in on else None for letter, x in (("V", dataset.V), ("C", dataset.C)))
    return dataclasses.replace(dataset, V=V, C=C)
