"""What a trained model would show to users who were not trained: posted histories, scored without any training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from fedvlr_jax.algorithm import Algorithm
from fedvlr_jax.evaluation.top import top_items
from fedvlr_jax.federated.scoring import Snapshot
from fedvlr_jax.inference.recommend import recommended_rows
from fedvlr_jax.types import Array, Bucket, ClientData, Dataset, FedState

Best = Callable[[ClientData], tuple[np.ndarray, np.ndarray]]
"""``(clients) -> (item_ck, score_ck)`` of the users of one bucket, best first; -1 and -inf where there are fewer."""


def recommended_to_new(
    algorithm: Algorithm, state: FedState, clients: ClientData, dataset: Dataset, **options: Any
) -> np.ndarray:
    """`recommend.recommended_rows` of users who were not trained.

    Args:
      algorithm: the model.
      state: of the trained run; of its private part nothing is read.
      clients: the users (`training.experiment.client_data_of`).
      dataset: the same users (`data.posted.posted`).
      options: ``k``, ``chunk`` and ``titles`` as there.
    """
    for_new = algorithm._replace(rank_score=algorithm.new_score)
    parts = ((state, jax.tree.map(np.asarray, bucket)) for bucket in clients.buckets)
    return recommended_rows(for_new, parts, clients, dataset, **options)


def make_best(algorithm: Algorithm, state: FedState, clients: ClientData, *, num_items: int, k: int) -> Best:
    """The same as a function that is compiled once for each width of histories, for callers that ask often.

    Args:
      algorithm, state: as above.
      clients: of the trained run, whose features are read.
      num_items: |I|.
      k: items for each user.
    """
    public = state.replace(private=None)
    snapshot = jax.jit(lambda state, content: algorithm.snapshot(state, content))(public, clients.content)

    @jax.jit
    def best(params: Snapshot, slots: Bucket) -> tuple[Array, Array]:
        return top_items(algorithm.new_score, params, slots, num_items=num_items, k=k)

    reads_prior = algorithm.model.host.combine is not None or algorithm.model.host.view_weights is not None

    def ask(clients: ClientData) -> tuple[np.ndarray, np.ndarray]:
        (slots,) = clients.buckets
        params = snapshot._replace(prior=clients.prior) if reads_prior else snapshot
        return jax.device_get(best(params, slots))

    return ask
