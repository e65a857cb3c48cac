"""States of a run in checkpoints and in files of client states: the same bits, and the same rounds."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np
from problems import relative_difference, settings

from fedvlr_jax.client_store.record import Layout
from fedvlr_jax.client_store.store import Store
from fedvlr_jax.io.checkpoint import Checkpoints
from fedvlr_jax.training.experiment import make_experiment
from fedvlr_jax.training.store_backend import StoreBackend
from fedvlr_jax.types import FedState, PrivateState
from laws.judging import require_equal
from laws.rounds import DATASET, after, client

EVERYBODY = np.arange(DATASET.num_users)


def require_saved(folder: pathlib.Path, state: FedState) -> None:
    """A checkpoint and a client store give back the bits of a state."""
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(state, {"round": 1, "best_round": 1})
        restored = checkpoints.restore(1, state)
    require_equal("a checkpoint changes a state", restored.private, state.private)
    layout = Layout.of(client(state.private, 0))
    store = Store(folder / "store", layout, DATASET.num_users, lambda ids: None, max_dirty_bytes=0)
    store.scatter(EVERYBODY, jax.device_get(state.private))
    store.commit()
    require_equal("a client store changes private states", store.gather(EVERYBODY), state.private)


def require_stored_rounds(folder: pathlib.Path, rounds: int, **overrides: Any) -> PrivateState:
    """Rounds with client states in files equal rounds on the device; the private states after them."""
    expected, _ = after(rounds, **overrides)
    experiment = make_experiment(settings(compute__store="disk", **overrides), DATASET)
    backend = StoreBackend(experiment, folder / "clients", eval_chunk=16)
    found, _ = backend.advance(backend.init(0), rounds)
    private = backend._store.gather(EVERYBODY)
    for a, b in ((found.public, expected.public), (private, expected.private)):
        difference = relative_difference(a, b)
        assert difference <= 1e-6, f"client states in files change a run by {difference}"
    return private
