"""Bytes that a client receives and sends in one round, by host and variant, from shapes alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.models.hosts import HOSTS
from fedvlr_jax.models.variants import VARIANTS
from fedvlr_jax.types import Dataset


class Message(NamedTuple):
    """One host in one variant.

    Attributes:
      host, variant: names.
      num_private: private parameters of a client, which are never sent.
      bytes_whole: down (and up, an upload has the broadcast's shape) when every row is sent, as softmax needs.
      bytes_touched: the same for a client of median history that downloads only the rows it trains on.
    """

    host: str
    variant: str
    num_private: int
    bytes_whole: int
    bytes_touched: int


def at_host(settings: Mapping[str, Any], host: str, variant: str) -> dict[str, Any]:
    """The settings of one host in one variant with the paper's objective, every client in every round."""
    return dict(settings) | {
        "variant": variant,
        "objective": "bce",
        "host": dict(settings["host"]) | {"name": host},
        "server": dict(settings["server"]) | {"clients_per_round": 0},
    }


def messages(settings: Mapping[str, Any], dataset: Dataset) -> list[Message]:
    """Every host in every variant; for `bytes_touched` with the settings' negatives and steps, bce."""
    client = settings["client"]
    length = int(np.median(np.bincount(dataset.train_user)))
    touched = min(dataset.num_items, length * (1 + client["negatives"] * client["steps"]))
    found = []
    for host in HOSTS:
        for variant in VARIANTS:
            cost = make_algorithm(at_host(settings, host, variant), dataset).cost
            rows = cost.bytes_head + touched * cost.bytes_per_row
            found.append(Message(host, variant, cost.num_private_per_client, cost.bytes_down_per_client, rows))
    return found
