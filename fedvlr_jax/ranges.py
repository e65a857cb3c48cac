"""Which values of the settings make sense, and which of them a compiled program can take as an argument."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedvlr_jax.errors import ConfigError

TRACEABLE = frozenset(
    {
        "client.holdout",
        "client.init_scale",
        "client.item_lr",
        "client.l2",
        "client.lr",
        "host.additive_weight",
        "host.confidence",
        "host.model_weight",
        "host.ridge",
        "host.sparsity_weight",
        "host.table_lr",
        "host.tune_lr",
        "server.init_scale",
        "server.l2",
        "server.lr",
    }
)
"""Dotted names of the numbers that change no shape: runs that differ in these alone share one compiled program."""


def check_ranges(settings: Mapping[str, Any]) -> None:
    """Refuses values that would run and give nonsense."""
    at_least = {
        "fusion.dim": 1,
        "fusion.heads": 1,
        "client.steps": 1,
        "client.negatives": 1,
        "client.lr": 0,
        "client.l2": 0,
        "client.holdout": 0,
        "client.item_lr": 0,
        "client.init_scale": 0,
        "server.lr": 0,
        "server.l2": 0,
        "server.init_scale": 0,
        "host.tune_steps": 0,
        "host.table_lr": 0,
        "host.ridge": 0,
        "host.confidence": 0,
        "host.model_weight": 0,
        "prior.reach": 0,
        "prior.decay": 0,
        "prior.next_weight": 0,
        "prior.shrinkage": 0,
        "prior.sharpness": 0,
        "compute.chunk": 0,
        "compute.devices": 0,
        "eval.item_chunk": 0,
    }
    for field, low in at_least.items():
        section, name = field.split(".")
        value = settings[section][name]
        if not low <= value < float("inf"):
            raise ConfigError(f"{field}: expected a finite number of at least {low}, found {value}")
    for field in ("ridge", "ridge_next"):
        if not 0 < settings["prior"][field] < float("inf"):
            raise ConfigError(f"prior.{field}: expected a positive finite number, found {settings['prior'][field]}")
    if settings["client"]["holdout"] >= 1:
        raise ConfigError(f"client.holdout: expected a share below 1, found {settings['client']['holdout']}")
    if settings["client"]["move_items"] and settings["client"]["item_lr"] == 0:
        raise ConfigError("client.item_lr: expected a positive rate with client.move_items, found 0")
    store, devices = settings["compute"]["store"], settings["compute"]["devices"]
    if store not in ("device", "host", "disk"):
        raise ConfigError(f"compute.store: expected device, host or disk, found {store!r}")
    if store != "device" and devices != 1:
        raise ConfigError(f"compute.devices: expected 1 with compute.store {store}, found {devices}")
