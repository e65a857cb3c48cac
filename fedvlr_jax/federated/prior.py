"""A federated item-to-item prior: one secure sum of small client blocks, solved once on the server in closed form.

Two linear models of "what comes next", both functions of sums over clients, so that a server that sees the sums alone
gets exactly what a centre with all histories would:

    similar   B = I - P diag(1 / diag P),  P = (sum_u K_u + ridge I)^-1            EASE on co-occurrence near in time
    next      W = (sum_u L_u^T L_u + ridge_next I)^-1 sum_u L_u^T                  ridge regression of the next item

with K_u(a, b) = (1 + |age_a - age_b|)^-reach (positive semi-definite) and L_u(t, l) = (1 + age_l - age_t - 1)^-decay
for items l older than t. Without times K_u is all ones, which is plain EASE (Steck, WWW 2019), and W is left out.

Items with few train rows have no evidence of their own: column i of ``B + next_weight W`` is shrunk towards the mean
of the columns of the items whose features are like its own, with weight m / (n_i + m). An unseen item is therefore
neither punished nor lifted for being unseen; it scores like its neighbours.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy

from fedvlr_jax.agreed import Prior
from fedvlr_jax.data.features import centred_rows
from fedvlr_jax.data.histories import add_at, places_of, split_by_user
from fedvlr_jax.data.messages import DataWarning
from fedvlr_jax.types import Dataset

ROWS = 512
"""Rows of a matrix that are mirrored at once."""


class PriorSettings(NamedTuple):
    """How the prior is formed.

    Attributes:
      reach: exponent of the co-occurrence kernel; 0 = all pairs of a history count alike.
      decay: exponent with which an older item counts less, in the next-item model and when scoring; 0 = not at all.
      ridge, ridge_next: penalties of the two models, in units of squared counts.
      next_weight: weight of the next-item model beside the other.
      shrinkage: m, train rows at which an item's own evidence weighs as much as its neighbours'; 0 = none lean.
      sharpness: inverse temperature of the softmax over cosines that makes the neighbours.
      content: strength of item features in the co-occurrence model, in units of `ridge`: its Gram matrix gains
        ``ridge content sum_m F_m F_m^T`` (centred features), as in collective EASE; 0 = without them.
    """

    reach: float = 0.5
    decay: float = 0.75
    ridge: float = 30.0
    ridge_next: float = 300.0
    next_weight: float = 4.0
    shrinkage: float = 0.2
    sharpness: float = 40.0
    content: float = 0.0


class Block(NamedTuple):
    """One client's part of the secure sum: three matrices [n, n] over its n train items, float64.

    Attributes:
      ids_n: int [n], its items.
      similar_nn: K_u. past_nn: L_u^T L_u. next_nn: L_u^T, row = older item.
    """

    ids_n: np.ndarray
    similar_nn: np.ndarray
    past_nn: np.ndarray
    next_nn: np.ndarray


class Sums(NamedTuple):
    """What the server gets to see: sums over all clients, [i, i], and train rows by item [i]."""

    similar_ii: np.ndarray
    past_ii: np.ndarray
    next_ii: np.ndarray
    count_i: np.ndarray


def client_block(
    ids_n: np.ndarray, age_n: np.ndarray | None, settings: PriorSettings, dtype: type = np.float64
) -> Block:
    """What one client computes from its own history and adds to the secure sum.

    Args:
      ids_n: its train items.
      age_n: for each how many are strictly newer, or None without times.
      settings: the exponents.
      dtype: of the numbers.
    """
    size = len(ids_n)
    if age_n is None:
        zero_nn: np.ndarray = np.zeros((size, size), dtype)
        return Block(ids_n, np.ones((size, size), dtype), zero_nn, zero_nn)
    gap_tl = age_n[None, :].astype(int) - age_n[:, None]  # > 0 where item l is older than item t
    gap_k = np.arange(age_n.max() + 1, dtype=float)  # there are few gaps, and powers cost
    decayed_k: np.ndarray = np.where(gap_k > 0, np.maximum(gap_k, 1.0) ** -settings.decay, 0.0).astype(dtype)
    near_k: np.ndarray = ((1 + gap_k) ** -settings.reach).astype(dtype)
    past_tl = decayed_k[np.maximum(gap_tl, 0)]
    return Block(ids_n, near_k[np.abs(gap_tl)], past_tl.T @ past_tl, past_tl.T)


def add_blocks(blocks: Iterable[Block], num_items: int, dtype: type = np.float64) -> Sums:
    """The secure sum; the server learns nothing else of a client."""
    shape = (num_items, num_items)
    sums = Sums(np.zeros(shape, dtype), np.zeros(shape, dtype), np.zeros(shape, dtype), np.zeros(num_items))
    for block in blocks:
        at_m = places_of(block.ids_n, num_items)
        add_at(sums.similar_ii, at_m, block.similar_nn)
        if block.next_nn.any():  # else there are no times, and pages of zeros that nobody touches take no memory
            add_at(sums.past_ii, at_m, block.past_nn)
            add_at(sums.next_ii, at_m, block.next_nn)
        sums.count_i[block.ids_n] += 1
    return sums


class ItemWeights(NamedTuple):
    """The solved prior before rare items are shrunk, and what it cost.

    Attributes:
      weight_ii: float64 [i, i], row = item of the history, column = scored item.
      count_i: [i], train rows of each item.
      megabytes: 10^6 bytes moved once: every client sends the lower triangles of its two symmetric matrices and the
        third one whole, and receives the rows of the weights at its n items.
    """

    weight_ii: np.ndarray
    count_i: np.ndarray
    megabytes: float


def federate(dataset: Dataset, settings: PriorSettings, features: Sequence[np.ndarray | None] = ()) -> ItemWeights:
    """Every client's block, their sum, and the closed form on the server; `features` as for `solve_weights`."""
    sums = sum_clients(dataset, settings)
    return ItemWeights(solve_weights(sums, settings, features), sums.count_i, megabytes_once(dataset))


def sum_clients(dataset: Dataset, settings: PriorSettings, dtype: type = np.float64) -> Sums:
    """Every client's block, and their sum, in numbers of some type."""
    blocks = (client_block(ids, age, settings, dtype) for ids, age in _clients(dataset))
    return add_blocks(blocks, dataset.num_items, dtype)


def warn_without_times(dataset: Dataset, settings: PriorSettings) -> None:
    """A `DataWarning` where the settings ask for an order of time that the data lacks: what is left is EASE."""
    if dataset.train_age is None and (settings.reach or settings.next_weight):
        warnings.warn(
            f"{dataset.name}: the prior orders histories by time, and the data has no timestamps: all pairs of a "
            "history count alike, and the next-item model is left out",
            DataWarning,
            stacklevel=2,
        )


def megabytes_once(dataset: Dataset) -> float:
    """10^6 bytes of the prior's one exchange, see `ItemWeights`; 4 bytes a number."""
    length_u = np.bincount(dataset.train_user, minlength=dataset.num_users).astype(np.int64)
    return 4e-6 * float((2 * length_u**2 + length_u + length_u * dataset.num_items).sum())


def make_prior(
    dataset: Dataset, weights: ItemWeights, features: Sequence[np.ndarray | None], settings: PriorSettings
) -> Prior:
    """The prior of a data set, on the device.

    Args:
      dataset: histories and their ages.
      weights: of `federate` for the same histories.
      features: [i, dv] and [i, dc] with unit-norm rows, None where absent: then rare items lean on all seen ones.
      settings: as for `weights`.
    """
    return shrink(weights.weight_ii, weights.count_i, features, settings).of(dataset)


class Shrunk(NamedTuple):
    """A prior in which rare items lean on others: what the server hands out, for histories of anybody.

    Attributes:
      weight_ii: float64 [i, i], row = item of the history, column = scored item.
      blend_ii: float64 [i, i], as of `agreed.Prior`.
      settings: how it was formed.
    """

    weight_ii: np.ndarray
    blend_ii: np.ndarray
    settings: PriorSettings

    def item_scores(self, histories: Dataset, inside_r: np.ndarray) -> np.ndarray:
        """float64 [l, i], what every train row that is `inside_r`, bool [rows], adds to the scores of its user."""
        weight_r = recency(histories.train_age, self.settings, len(histories.train_item))
        return weight_r[inside_r, None] * self.weight_ii[histories.train_item[inside_r]]

    def scores(self, histories: Dataset) -> np.ndarray:
        """float64 [u, i], prior scores of the users of `histories`, whoever the weights were formed of."""
        return weighed_histories(histories, self.settings) @ self.weight_ii

    def of(self, histories: Dataset) -> Prior:
        """The prior of the users of `histories`, on the device."""
        choice = {name: jnp.float32(x) for name, x in self.settings._asdict().items()}
        return Prior(jnp.float32(self.scores(histories)), jnp.float32(self.blend_ii), choice)


def shrink(
    weight_ii: np.ndarray, count_i: np.ndarray, features: Sequence[np.ndarray | None], settings: PriorSettings
) -> Shrunk:
    """Some weights [i, i] with the columns of rare items drawn towards those of items with features like theirs."""
    blend_ii = make_blend(count_i, features, settings)
    return Shrunk(weight_ii @ blend_ii.T, blend_ii, settings)


def make_blend(count_i: np.ndarray, features: Sequence[np.ndarray | None], settings: PriorSettings) -> np.ndarray:
    """float64 [i, i]: how far the column of an item is its own, and how far that of each item like it."""
    own_i = count_i / (count_i + settings.shrinkage) if settings.shrinkage else np.ones(len(count_i))
    neighbour_ii = neighbours(features, count_i > 0, settings.sharpness)
    return np.diag(own_i) + (1 - own_i)[:, None] * neighbour_ii


def weighed_histories(histories: Dataset, settings: PriorSettings) -> np.ndarray:
    """float64 [u, i], every history with the weights of its items."""
    history_ui, size = np.zeros((histories.num_users, histories.num_items)), len(histories.train_item)
    history_ui[histories.train_user, histories.train_item] = recency(histories.train_age, settings, size)
    return history_ui


def feature_gram(features: Sequence[np.ndarray | None], num_items: int) -> np.ndarray:
    """sum_m F_m F_m^T of centred features, float64 [i, i]; zeros without any."""
    present = [np.asarray(x, np.float64) for x in features if x is not None]
    return sum((x @ x.T for x in map(centred_rows, present)), np.zeros((num_items, num_items)))


def solve_weights(sums: Sums, settings: PriorSettings, features: Sequence[np.ndarray | None] = ()) -> np.ndarray:
    """B + next_weight W, float64 [i, i], row = item of the history, column = scored item.

    `features` are read where ``settings.content`` is not zero.
    """
    gram_ii = sums.similar_ii
    if settings.content:
        gram_ii = gram_ii + settings.ridge * settings.content * feature_gram(features, len(gram_ii))
    weight_ii = ease(gram_ii, settings.ridge)
    if settings.next_weight and sums.next_ii.any():
        weight_ii += settings.next_weight * next_map(sums, settings.ridge_next)
    return weight_ii


def ease(gram_ii: np.ndarray, ridge: float) -> np.ndarray:
    """B = I - P diag(1 / diag P) with P = (gram + ridge I)^-1, in the type of `gram_ii`; as `inverse`."""
    weight_ii = inverse(gram_ii, ridge)
    diagonal_i = weight_ii.diagonal().copy()
    np.negative(weight_ii, out=weight_ii)
    weight_ii /= diagonal_i[None]
    np.fill_diagonal(weight_ii, 0)
    return weight_ii


def next_map(sums: Sums, ridge: float) -> np.ndarray:
    """W = (P + ridge I)^-1 N, in the type of the sums."""
    return inverse(sums.past_ii, ridge) @ sums.next_ii


def recency(age: np.ndarray | None, settings: PriorSettings, size: int) -> np.ndarray:
    """Weights (1 + age)^-decay of history items when scoring, float64 [size]; ones without times."""
    return np.ones(size) if age is None else (1.0 + age) ** -settings.decay


def _clients(dataset: Dataset) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Items and ages of every client."""
    ids, age = split_by_user(dataset, dataset.train_item), dataset.train_age
    return list(zip(ids, [None] * len(ids) if age is None else split_by_user(dataset, age), strict=True))


def neighbours(features: Sequence[np.ndarray | None], seen_i: np.ndarray, sharpness: float) -> np.ndarray:
    """float64 [i, i]: every row a distribution over the seen items with features like its own item, not itself."""
    present = [np.asarray(x, np.float64) for x in features if x is not None]
    size = len(seen_i)
    cosine_ii = sum((x @ x.T for x in present), np.zeros((size, size))) / max(len(present), 1)
    logit_ii = np.where(seen_i[None], sharpness * cosine_ii, -np.inf)
    np.fill_diagonal(logit_ii, -np.inf)
    weight_ii = np.exp(logit_ii - logit_ii.max(axis=1, keepdims=True))
    return weight_ii / weight_ii.sum(axis=1, keepdims=True)


def inverse(gram_ii: np.ndarray, ridge: float) -> np.ndarray:
    """(G + ridge I)^-1 of a positive semi-definite G, whose lower triangle is read; in place of one copy of it."""
    factorise, invert = scipy.linalg.lapack.get_lapack_funcs(("potrf", "potri"), (gram_ii,))
    work_ii = np.array(gram_ii, order="F")
    work_ii[np.diag_indices_from(work_ii)] += ridge
    work_ii, info = factorise(work_ii, lower=1, overwrite_a=1)
    if info:
        raise ValueError(f"expected a positive definite matrix, found a pivot that is not positive at {info - 1}")
    lower_ii, _ = invert(work_ii, lower=1, overwrite_c=1)
    for begin in range(0, len(lower_ii), ROWS):  # mirror, a block of columns at a time
        end = begin + ROWS
        block = lower_ii[begin:end, begin:end]
        block[...] = np.tril(block) + np.tril(block, -1).T
        lower_ii[begin:end, end:] = lower_ii[end:, begin:end].T
    return lower_ii.T  # row after row
