"""What a trained model would show: every client's best items that are not in its train history."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from fedvlr_jax.algorithm import Algorithm
from fedvlr_jax.data.heldout import held_users, rows_a_user
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.evaluation.top import top_items
from fedvlr_jax.federated.scoring import Snapshot
from fedvlr_jax.inference.scoring import score_clients
from fedvlr_jax.types import Array, Bucket, ClientData, Dataset, FedState

EXCLUDED = ("train", "seen")


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
      algorithm, parts, clients, num_users, num_items, chunk: as `scoring.score_clients`.
      k: how many, at least 1.

    Returns:
      ``(item_uk, score_uk)``, int32 and float32 [u, k], best first; -1 and -inf where a client has fewer candidates.
    """

    def best(params: Snapshot, slots: Bucket) -> tuple[Array, Array]:
        return top_items(algorithm.rank_score, params, slots, num_items=num_items, k=k)

    item_uk, score_uk = np.full((num_users, k), -1, np.int32), np.full((num_users, k), -np.inf, np.float32)
    sizes = {"num_users": num_users, "num_items": num_items, "chunk": chunk}
    for user_c, (items, scores) in score_clients(algorithm, parts, clients, best, **sizes):
        real_c = user_c < num_users
        item_uk[user_c[real_c]], score_uk[user_c[real_c]] = items[real_c], scores[real_c]
    return item_uk, score_uk


def recommended_rows(
    algorithm: Algorithm,
    parts: Iterable[tuple[FedState, Bucket]],
    clients: ClientData,
    dataset: Dataset,
    *,
    k: int,
    chunk: int,
    users: np.ndarray | None = None,
    exclude: str = "train",
    titles: bool = False,
) -> np.ndarray:
    """The k best items of some users, one row for each.

    Args:
      algorithm, parts, clients, chunk: as `recommend`.
      dataset: what was trained on.
      k: how many, at least 1; more than there are candidates are all of them.
      users: numbers of the users, or None for all.
      exclude: "train" leaves out the train history; "seen" also the user's validation and test items.
      titles: add a field title, where the data set has titles.

    Returns:
      A structured array with the fields user, rank (int32, from 1), item and score (float32); users and items in the
      ids of the data set, where it has some. Users come in the order of their numbers, their best items first.

    Raises:
      ConfigError: a `k` below 1, or an `exclude` that does not exist.
    """
    if not isinstance(k, int | np.integer) or k < 1:
        raise ConfigError(f"k: expected a whole number of at least 1, found {k!r}")
    if exclude not in EXCLUDED:
        raise ConfigError(f"exclude: expected one of {', '.join(EXCLUDED)}, found {exclude!r}")
    best = recommend(
        algorithm,
        parts if users is None else _of_users(parts, users),
        clients,
        num_users=dataset.num_users,
        num_items=dataset.num_items,
        k=min(k + (int(rows_a_user(dataset).max()) if exclude == "seen" else 0), dataset.num_items),
        chunk=chunk,
    )
    item_uk, score_uk = _without_held_out(dataset, *best) if exclude == "seen" else best
    return _rows(dataset, item_uk[:, :k], score_uk[:, :k], titles=titles)


def _of_users(parts: Iterable[tuple[FedState, Bucket]], users: np.ndarray) -> Iterator[tuple[FedState, Bucket]]:
    """The parts with the slots of some users alone."""
    for state, bucket in parts:
        chosen_c = np.isin(np.asarray(bucket.user), users)
        if chosen_c.any():
            yield state, jax.tree.map(lambda x, at=chosen_c: np.asarray(x)[at], bucket)


def _without_held_out(dataset: Dataset, item_uk: np.ndarray, score_uk: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same without validation and test items; what comes after them moves up."""
    user_h, item_th = held_users(dataset).astype(np.int64), np.stack([dataset.valid_item, dataset.test_item])
    pair_th = np.where(item_th >= 0, user_h * dataset.num_items + item_th, -1)
    pair_uk = np.arange(len(item_uk))[:, None] * dataset.num_items + item_uk
    held_uk = (item_uk >= 0) & np.isin(pair_uk, pair_th)
    order_uk = np.argsort(held_uk, axis=1, kind="stable")
    items, scores = np.where(held_uk, -1, item_uk), np.where(held_uk, -np.inf, score_uk)
    return np.take_along_axis(items, order_uk, axis=1), np.take_along_axis(scores, order_uk, axis=1)


def _rows(dataset: Dataset, item_uk: np.ndarray, score_uk: np.ndarray, *, titles: bool) -> np.ndarray:
    """One row for every recommended item; see `recommended_rows`."""
    user, place = np.nonzero(item_uk >= 0)
    item = item_uk[user, place]
    columns: dict[str, Any] = {
        "user": user if dataset.user_ids is None else dataset.user_ids[user],
        "rank": place.astype(np.int32) + 1,
        "item": item if dataset.item_ids is None else dataset.item_ids[item],
        "score": score_uk[user, place],
    }
    if titles and dataset.item_titles is not None:
        columns["title"] = dataset.item_titles[item]
    rows = np.empty(user.size, [(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        rows[name] = values
    return rows
