"""FedEASE: EASE and content-EASE computed federated, exactly, with one secure sum.

The models read the histories only through R^T R = sum_u r_u r_u^T, a sum over clients:

1. every client uploads the block r_u r_u^T on the items that it has (`gram_block`);
2. the server adds the blocks (`sum_gram_blocks`), solves for the weights B (`ridge`; item features it has anyway) and
   publishes them;
3. every client scores with its own history, s_u = r_u B.

Integers are added, so the Gram matrix and all that follows equal the centralised ones to the bit.

What it reveals: the server learns the sum, as any secure-aggregation protocol would let it. A list of pairs also
shows *which* pairs a client holds; a protocol that hides them has to send the whole triangle. Likewise a client that
downloads the rows of B which it needs shows its items, and one that takes all of B does not. `messages` counts both
ways. Choosing the penalties on validation takes one B for every point of the grid and no further upload.

A point of a grid may have ``noise`` and ``clip`` beside its penalty (`federated_factor`). That shows how the model
bears noise on the sum; no accountant runs, so it is noise robustness and not differential privacy.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.baselines.base import Hyper, HyperGrid, table_baseline
from fedvlr_jax.baselines.content import allowed_points, centred_features
from fedvlr_jax.baselines.content_ease import content_ease
from fedvlr_jax.baselines.ease import ease
from fedvlr_jax.baselines.ridge import gram_factor, ridge_tables
from fedvlr_jax.data.histories import split_by_user
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.types import Array, Dataset

BYTES_PAIR, BYTES_NUMBER = 4 + 4, 4  # (uint32 position, float32 value); one float32


class GramBlock(NamedTuple):
    """A client's upload: the upper triangle of r_u r_u^T, diagonal included, where it is not zero.

    Attributes:
      position: uint32 [m], ``j (j + 1) / 2 + i`` for the pair of items i <= j; m = n_u (n_u + 1) / 2.
      value: float32 [m], 1, or less where the block was clipped.
    """

    position: np.ndarray
    value: np.ndarray


class Messages(NamedTuple):
    """Bytes that FedEASE moves, once: there are no further rounds.

    Attributes:
      up_pairs_u: int64 [u], the pairs of each client's block, 4 bytes of position and 4 of value each.
      up_triangle: every client's upload if it must hide its pairs: |I| (|I| + 1) / 2 numbers of 4 bytes.
      down_rows_u: int64 [u], the rows of B of a client's own items, n_u |I| numbers of 4 bytes.
      down_whole: all of B, for every client.
    """

    up_pairs_u: np.ndarray
    up_triangle: int
    down_rows_u: np.ndarray
    down_whole: int


def gram_block(history: np.ndarray, clip: float | None = None) -> GramBlock:
    """What one client uploads.

    Args:
      history: int [n_u], its distinct items.
      clip: the largest L2 norm of the uploaded values; None for no limit.
    """
    history = np.sort(history).astype(np.int64)
    first, second = np.triu_indices(history.size)
    low, high = history[first], history[second]
    norm = np.sqrt(low.size)
    value = 1.0 if clip is None or norm <= clip else clip / norm
    return GramBlock((high * (high + 1) // 2 + low).astype(np.uint32), np.full(low.size, value, np.float32))


def sum_gram_blocks(
    blocks: Iterable[GramBlock], num_items: int, *, deviation: float = 0.0, seed: int = 0
) -> np.ndarray:
    """The sum of the clients' blocks as a symmetric matrix, float64 [i, i]; exact for values of 1.

    Args:
      blocks: one for each client.
      num_items: |I|, at most 92,681, which is what 32 bits can number pairs of.
      deviation: standard deviation of Gaussian noise on every entry of the triangle.
      seed: of the noise.
    """
    total_p = np.zeros(num_items * (num_items + 1) // 2)
    for block in blocks:
        total_p[block.position] += block.value  # the pairs of one block are distinct
    if deviation:
        total_p += deviation * np.random.default_rng(seed).standard_normal(total_p.size)
    gram_ii = np.empty((num_items, num_items))
    high, low = np.tril_indices(num_items)  # in the order of positions
    gram_ii[high, low] = gram_ii[low, high] = total_p
    return gram_ii


def federated_factor(dataset: Dataset, *, noise: float = 0.0, clip: float | None = None, seed: int = 0) -> np.ndarray:
    """T, float64 [r, i], with T^T T the federated Gram matrix: what the server solves with (`ridge`).

    Args:
      dataset: its train rows, one client for each user.
      noise: multiplier; the noise on the sum has the standard deviation ``noise * clip``.
      clip: the largest L2 norm of a client's block, see `gram_block`.
      seed: of the noise.

    Returns:
      Without noise the same bits as from the centralised matrix. A noisy matrix may have negative eigenvalues, with
      which the model does not exist: the nearest matrix without them is taken.

    Raises:
      ConfigError: noise below 0 or without a clip, or a clip that is not positive.
    """
    if noise < 0 or (clip is not None and clip <= 0) or (noise and clip is None):
        raise ConfigError(f"fed_ease: expected noise >= 0 and, with noise, a clip > 0, found {noise=} and {clip=}")
    blocks = (gram_block(history, clip) for history in split_by_user(dataset, dataset.train_item))
    gram_ii = sum_gram_blocks(blocks, dataset.num_items, deviation=noise * (clip or 0.0), seed=seed)
    if not noise:
        return gram_factor(gram_ii)
    size_r, turn_ir = np.linalg.eigh(gram_ii)
    positive_r = size_r > 0
    return np.sqrt(size_r[positive_r])[:, None] * turn_ir.T[positive_r]


def messages(dataset: Dataset) -> Messages:
    """The bytes of both directions for each client, with and without hiding its items."""
    length_u = np.bincount(dataset.train_user, minlength=dataset.num_users).astype(np.int64)
    num_items = dataset.num_items
    return Messages(
        up_pairs_u=BYTES_PAIR * (length_u * (length_u + 1) // 2),
        up_triangle=BYTES_NUMBER * (num_items * (num_items + 1) // 2),
        down_rows_u=BYTES_NUMBER * length_u * num_items,
        down_whole=BYTES_NUMBER * num_items**2,
    )


def megabytes(dataset: Dataset) -> float:
    """10^6 bytes of all clients in both directions, as lists of pairs up and rows of B down."""
    found = messages(dataset)
    return float(np.sum(found.up_pairs_u + found.down_rows_u)) / 1e6


def fit_plain(dataset: Dataset, grid: HyperGrid) -> Iterator[tuple[Hyper, Array]]:
    """As `ease.fit_grid`; ``noise``, ``clip`` and ``seed`` of a point as in `federated_factor`."""
    return _fit(dataset, {}, grid)


def fit_content(dataset: Dataset, grid: HyperGrid) -> Iterator[tuple[Hyper, Array]]:
    """As `content_ease.fit_grid`; ``noise``, ``clip`` and ``seed`` of a point as in `federated_factor`."""
    return _fit(dataset, centred_features(dataset), allowed_points(dataset, grid))


def _fit(dataset: Dataset, features: dict[str, np.ndarray], grid: HyperGrid) -> Iterator[tuple[Hyper, Array]]:
    for options, points in itertools.groupby(grid, key=_sum_options):
        yield from ridge_tables(federated_factor(dataset, **options), dataset, features, tuple(points))


def _sum_options(hyper: Hyper) -> dict[str, Any]:
    """Those settings of a point that concern the sum."""
    return {name: hyper[name] for name in ("noise", "clip", "seed") if name in hyper}


fed_ease = table_baseline(fit_plain, ease.grid, megabytes=megabytes)
fed_content_ease = table_baseline(fit_content, content_ease.grid, needs_features=True, megabytes=megabytes)
