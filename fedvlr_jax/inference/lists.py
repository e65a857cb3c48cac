"""The lists of recommendations of a trained model, judged as wholes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from fedvlr_jax.algorithm import Algorithm
from fedvlr_jax.evaluation.lists import ItemFacts, Lists, item_facts, list_chunk, no_lists
from fedvlr_jax.federated.scoring import Snapshot
from fedvlr_jax.inference.scoring import score_clients
from fedvlr_jax.types import Bucket, ClientData, Dataset, FedState


def judge_lists(
    algorithm: Algorithm,
    parts: Iterable[tuple[FedState, Bucket]],
    clients: ClientData,
    dataset: Dataset,
    *,
    chunk: int,
) -> Lists:
    """The lists of all clients, as `evaluation.lists.list_all` has them (NumPy; sums over clients are float64).

    Args:
      algorithm, parts, clients, chunk: as `scoring.score_clients`.
      dataset: what was trained on.
    """

    def judge(params: Snapshot, slots: Bucket, facts: ItemFacts) -> Lists:
        lists = list_chunk(algorithm.rank_score, params, slots, facts, num_users=dataset.num_users)
        return lists._replace(exposure_ki=lists.exposure_ki[None], missed_ki=lists.missed_ki[None])

    facts = item_facts(dataset)
    values, *sums = no_lists(facts, dataset.num_users)
    exposure_ki, missed_ki = (x_ki.astype(np.float64) for x_ki in sums)
    sizes = {"num_users": dataset.num_users, "num_items": dataset.num_items, "chunk": chunk}
    for user_c, found in score_clients(algorithm, parts, clients, judge, facts, **sizes):
        real_c = user_c < dataset.num_users
        for name, x_uk in values.items():
            x_uk[user_c[real_c]] = found.values[name][real_c]
        exposure_ki += found.exposure_ki.sum(axis=0, dtype=np.float64)
        missed_ki += found.missed_ki.sum(axis=0, dtype=np.float64)
    return Lists(values, exposure_ki, missed_ki)
