"""A small problem with times and features for the tests of score views, and what its oracles share."""

from __future__ import annotations

import dataclasses

import numpy as np
from problems import histories, tiny_dataset

from fedvlr_jax.federated import view_maps
from fedvlr_jax.federated.score_views import weight_names

RNG = np.random.default_rng(0)
PLAIN = tiny_dataset()
AGES = np.concatenate([RNG.permutation(len(items)) for items in histories(PLAIN)]).astype(np.int32)
DATASET = dataclasses.replace(PLAIN, train_age=AGES)
CHOICE = view_maps.Choice(
    ridge=5.0,
    ridge_next=7.0,
    next_weight=2.0,
    ridge_near=3.0,
    near_weight=4.0,
    strength={"visual": 0.3, "text": 0.1},
    ridge_collective=6.0,
    kernel={"visual": "cos", "text": "cubed"},
)
SIZE = len(weight_names())
SHARED_ONLY = {
    "host__name": "fedblend",
    "variant": "base",
    "host__fusion_weight": 0.0,
    "host__deviation": 0.0,
    "host__choose_order": False,
}


def pairs_of(u):
    """(item, age) of the rows of a client."""
    rows = DATASET.train_user == u
    return list(zip(DATASET.train_item[rows].tolist(), DATASET.train_age[rows].tolist(), strict=True))


def oracle_ease(gram, ridge):
    inverse = np.linalg.inv(gram + ridge * np.eye(len(gram)))
    return np.eye(len(gram)) - inverse / np.diag(inverse)[None, :]
