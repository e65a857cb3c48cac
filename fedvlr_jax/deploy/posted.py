"""Posted histories: recommendations for users who were not trained, a request at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from fedvlr_jax.api import Fitted
from fedvlr_jax.data.ids import ids_or_numbers
from fedvlr_jax.data.posted import posted
from fedvlr_jax.errors import DataError
from fedvlr_jax.inference.new_users import make_best
from fedvlr_jax.training.experiment import make_join, on_one_device
from fedvlr_jax.types import Bucket, Dataset

AskNew = Callable[[Dataset], tuple[np.ndarray, np.ndarray]]
"""``(one posted history) -> (item_k, score_k)``, best first."""

WIDTHS = (32, 128)
"""Lengths of histories whose programs are compiled at the start; longer ones are compiled when they come."""

MOST_BYTES = 1 << 20  # of a posted history


class BadRequest(ValueError):
    """A request that the caller has to mend; the status is that of HTTP."""

    def __init__(self, status: int, message: str):
        """The status and one line."""
        super().__init__(message)
        self.status = status


def make_ask(fitted: Fitted, k: int) -> AskNew | None:
    """The k best items for a posted history; None for private states in a store or on several devices."""
    if not on_one_device(fitted.settings):
        return None
    num_items = fitted.dataset.num_items
    join, clients = make_join(fitted.experiment), fitted.experiment.clients
    best = make_best(fitted.experiment.algorithm, fitted.state, clients, num_items=num_items, k=min(k, num_items))

    def ask(histories: Dataset) -> tuple[np.ndarray, np.ndarray]:
        brought = join(histories)
        (bucket,) = brought.buckets
        history_1l = np.asarray(bucket.history)
        width = next((w for w in WIDTHS if w >= history_1l.shape[1]), 1 << (history_1l.shape[1] - 1).bit_length())
        padded = np.pad(history_1l, ((0, 0), (0, width - history_1l.shape[1])), constant_values=num_items)
        items, scores = best(brought._replace(buckets=(Bucket(bucket.user, jnp.asarray(padded)),)))
        return items[0], scores[0]

    ids = ids_or_numbers(fitted.dataset.item_ids, num_items).tolist()
    for width in WIDTHS:
        ask(posted(fitted.dataset, {"": ids[:width]}).dataset)
    return ask


def parse_posted(content: bytes, most: int) -> tuple[list[Any], int]:
    """The history and k of a request's body, ``{"history": [...], "k": 10}``.

    Raises:
      BadRequest: naming the field, what was expected, and what was found.
    """
    if len(content) > MOST_BYTES:
        raise BadRequest(413, f"expected at most {MOST_BYTES} bytes, found {len(content)}")
    try:
        asked = json.loads(content)
    except ValueError as error:
        raise BadRequest(400, f"expected an object of JSON, found {error}") from error
    history, k = (asked.get("history"), asked.get("k", 10)) if isinstance(asked, dict) else (None, 10)
    if not isinstance(history, list) or not all(isinstance(id_, str | int) for id_ in history):
        raise BadRequest(400, 'history: expected {"history": [ids of items, the oldest first]}, found none')
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= most:
        raise BadRequest(400, f"k: expected 1 to {most}, found {k!r}")
    return history, k


def answer_history(
    dataset: Dataset, known: Mapping[str, int], ask: AskNew | None, history: Sequence[Any]
) -> tuple[list[tuple[int, float]], tuple[str, ...]]:
    """The best items of a posted history, (number, score), and the ids that no item has.

    Raises:
      BadRequest: no known item, or a run that cannot be asked.
    """
    if ask is None:
        raise BadRequest(501, "this run has its private states in a store or on several devices")
    try:
        made = posted(dataset, {"": history}, known)
    except DataError as error:
        raise BadRequest(400, f"history: expected an item of {dataset.name}, found none in {len(history)}") from error
    items, scores = ask(made.dataset)
    return list(zip(items.tolist(), scores.tolist(), strict=True)), made.ignored[0]
