"""What a reader wants to know of a data set before a result on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from fedvlr_jax.data.facts import count_ratings
from fedvlr_jax.evaluation.list_metrics import gini
from fedvlr_jax.types import Dataset

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


class DataSummary(NamedTuple):
    """Sizes and shapes of a data set.

    Attributes:
      users, items, interactions: how many; interactions of all splits.
      density: share of the (user, item) pairs with an interaction.
      history_q: train rows of a user at `QUANTILES` of the users.
      gini: of the train rows of all items: 0 where all have as many, towards 1 where one has all.
      unseen_items: items without train rows.
      test_rows, cold_test_rows: test rows, and those of them whose item has no train rows.
      time_span: the earliest and the latest time as numbers, None where nobody said.
      missing: by modality letter the items without a feature of their own: all where the set lacks the modality,
        None where nobody said.
    """

    users: int
    items: int
    interactions: int
    density: float
    history_q: tuple[float, ...]
    gini: float | None
    unseen_items: int
    test_rows: int
    cold_test_rows: int
    time_span: tuple[float, float] | None
    missing: Mapping[str, int | None]


def summarise_data(dataset: Dataset) -> DataSummary:
    """The summary of a data set."""
    count_i = np.bincount(dataset.train_item, minlength=dataset.num_items)
    length_u = np.bincount(dataset.train_user, minlength=dataset.num_users)
    test = np.asarray(dataset.test_item)
    test = test[test >= 0]
    total = count_ratings(dataset)
    return DataSummary(
        users=dataset.num_users,
        items=dataset.num_items,
        interactions=total,
        density=total / (dataset.num_users * dataset.num_items),
        history_q=tuple(np.quantile(length_u, QUANTILES).tolist()),
        gini=gini(count_i),
        unseen_items=int((count_i == 0).sum()),
        test_rows=test.size,
        cold_test_rows=int((count_i[test] == 0).sum()),
        time_span=dataset.time_span,
        missing={
            "V": _missing(dataset.V, dataset.missing_V, dataset.num_items),
            "C": _missing(dataset.C, dataset.missing_C, dataset.num_items),
        },
    )


def _missing(features: np.ndarray | None, mask: np.ndarray | None, num_items: int) -> int | None:
    if features is None:
        return num_items
    return None if mask is None else int(mask.sum())
