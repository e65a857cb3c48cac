"""What a trained model would show: every client's best items that are not in its train history."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import jax
import numpy as np

from fedvlr_jax.algorithm import Algorithm
from fedvlr_jax.evaluation.top import top_items
from fedvlr_jax.federated.mesh import whole
from fedvlr_jax.federated.scoring import Snapshot
from fedvlr_jax.types import Array, Bucket, ClientData, FedState


def recommend(
    algorithm: Algorithm,
    parts: Iterable[tuple[FedState, Bucket]],
    clients: ClientData,
    *,
    num_users: int,
    num_items: int,
    k: int,
    chunk: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best items of all clients, as `evaluation.top.top_items` finds them.

    Args:
      algorithm: the model.
      parts: its trained state and all clients, some at a time (`training.backend.Backend.parts`).
      clients: features and prior as in training; its buckets are not read.
      num_users, num_items: |U|, |I|.
      k: how many, at least 1.
      chunk: most clients scored at once.

    Returns:
      ``(item_uk, score_uk)``, int32 and float32 [u, k], best first; -1 and -inf where a client has fewer candidates.
    """

    placed = whole(algorithm.mesh)

    @functools.partial(jax.jit, out_shardings=placed)
    def publish(state: FedState, clients: ClientData) -> Snapshot:
        return algorithm.snapshot(state, clients.content, clients.prior)

    @functools.partial(jax.jit, out_shardings=placed)
    def best(params: Snapshot, slots: Bucket) -> tuple[Array, Array]:
        return top_items(algorithm.rank_score, params, slots, num_items=num_items, k=k)

    published = None
    item_uk, score_uk = np.full((num_users, k), -1, np.int32), np.full((num_users, k), -np.inf, np.float32)
    for state, bucket in parts:
        if published is None:  # what all parts share
            shared = jax.tree.map(np.asarray, clients._replace(buckets=()))
            published = publish(state.replace(private=None), shared)
        params = published._replace(private=state.private)
        for begin in range(0, bucket.user.shape[0], chunk):
            slots = jax.tree.map(lambda x, at=slice(begin, begin + chunk): np.asarray(x)[at], bucket)
            items, scores = jax.device_get(best(params, slots))
            real_c = slots.user < num_users
            item_uk[slots.user[real_c]], score_uk[slots.user[real_c]] = items[real_c], scores[real_c]
    return item_uk, score_uk
