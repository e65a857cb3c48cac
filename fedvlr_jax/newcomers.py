"""Users and items that a trained model never saw: what ``import fedvlr_jax`` gives for them beside `api`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedvlr_jax.api import Fitted
from fedvlr_jax.data.posted import posted, say_ignored
from fedvlr_jax.evaluation.metrics import warm_items
from fedvlr_jax.inference.new_items import grow_state, with_new_items
from fedvlr_jax.inference.new_users import recommended_to_new
from fedvlr_jax.training.experiment import Experiment, make_experiment, make_join, require_one_device
from fedvlr_jax.types import FedState


def recommend_new(
    fitted: Fitted, histories: Mapping[Any, Sequence[Any]], k: int = 10, *, titles: bool = False
) -> np.ndarray:
    """The best items for users who were not trained, from their histories alone; nothing public changes.

    Each gets a private part by ``client.new_rounds`` local rounds on its own history. Items that the data
    set does not have are ignored, and a `DataWarning` counts them.

    >>> recommend_new(fitted, {"guest": [5, 3, 11]}, k=2)["user"].tolist()
    ['guest', 'guest']

    Args:
      fitted: of `fit`, `train` or `restore`.
      histories: ids of items, the oldest first, by the id of each new user; a mapping, or a series of pandas.
      k, titles: as `api.recommend`. One call for many users is much faster than many calls.

    Returns:
      As `api.recommend`, users in the order in which they came.

    Raises:
      DataError: a history without any known item, or one that is no list; or a user who is there twice.
      ConfigError: a `k` below 1.
    """
    return recommend_with(fitted.experiment, fitted.state, histories, k, titles=titles)


def recommend_with(
    experiment: Experiment, state: FedState, histories: Mapping[Any, Sequence[Any]], k: int, *, titles: bool = False
) -> np.ndarray:
    """`recommend_new` by a trained state of an experiment, of which nothing need have been ranked."""
    made = posted(experiment.dataset, histories)
    say_ignored(made)
    clients, chunk = make_join(experiment)(made.dataset), experiment.settings["eval"]["chunk"]
    return recommended_to_new(experiment.algorithm, state, clients, made.dataset, k=k, chunk=chunk, titles=titles)


def add_items(
    fitted: Fitted,
    visual: np.ndarray | None = None,
    textual: np.ndarray | None = None,
    ids: Sequence[Any] | None = None,
    titles: Sequence[str] | None = None,
) -> Fitted:
    """The fitted model with a catalogue that has new items, known by their features alone; nothing is trained.

    `recommend`, `recommend_new` and `preferences` then know them. Their views come from the server's operators; their
    rows of the item table, which do not exist, are the mean over the items with train rows.

    Args:
      fitted: with private states on one device.
      visual, textual: [n, dv] and [n, dc], for the modalities that the data set has; of frames by their index.
      ids, titles: of the new items, as many; ids are by default the numbers that follow.

    Raises:
      DataError: features, ids or titles that do not fit, or ids that there are already.
      ConfigError: private states in a store or on several devices.
    """
    require_one_device(fitted.settings, "new items")
    dataset = with_new_items(fitted.dataset, {"V": visual, "C": textual}, ids, titles)
    experiment = make_experiment(fitted.settings, dataset)
    seen_i = warm_items(fitted.dataset.train_item, fitted.dataset.num_items)
    state = grow_state(fitted.state, dataset.num_items, seen_i)
    trained = fitted.trained._replace(
        state=state, parts=lambda: ((state, bucket) for bucket in experiment.clients.buckets)
    )
    return dataclasses.replace(fitted, experiment=experiment, trained=trained)
