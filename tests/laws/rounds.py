"""Whole rounds for laws: states, clients one by one, what a round draws, and which paths it may take."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from problems import client_data, histories, relative_difference, settings, tiny_dataset

from fedvlr_jax.algorithm import Algorithm, make_algorithm
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.federated import sampling
from fedvlr_jax.federated.paths import PATHS
from fedvlr_jax.models.model import ITEM_TABLE
from fedvlr_jax.types import ClientData, Dataset, FedState, RoundInfo

DATASET = tiny_dataset()


def first_state(algorithm: Algorithm, seed: int = 0) -> FedState:
    """The state before the first round.

    One operation after the other: each is compiled once for all tests, and their hosts, variants and settings would
    be as many programs of dozens of draws.
    """
    return algorithm.init(jax.random.key(seed))


def after(
    rounds: int,
    data: ClientData | None = None,
    dataset: Dataset = DATASET,
    start: FedState | None = None,
    **overrides: Any,
) -> tuple[FedState, RoundInfo]:
    """State and info after some rounds of a configuration, from `start` or from key 0."""
    algorithm = make_algorithm(settings(**overrides), dataset)
    start = start or first_state(algorithm)
    return jax.jit(algorithm.run, static_argnums=2)(start, data or client_data(dataset), rounds)


def late_state(algorithm: Algorithm, round_: int, seed: int = 3) -> FedState:
    """A state in round `round_`, where curricula are on, with private item tables that are not zero."""
    state = first_state(algorithm, seed)
    params = state.private.params
    if ITEM_TABLE in params:
        table = 0.3 * jax.random.normal(jax.random.key(8), params[ITEM_TABLE].shape)
        state = state.replace(private=state.private.replace(params=params | {ITEM_TABLE: table}))
    return state.replace(public=state.public.replace(round=jnp.asarray(round_, jnp.int32)))


def client(tree: Any, u: int) -> Any:
    """The rows of client `u`."""
    return jax.tree.map(lambda x: x[u], tree)


def clients_of(private: Any, dataset: Dataset) -> list:
    """The private parameters of every client, in NumPy, whose slices are no programs."""
    private = jax.tree.map(np.asarray, private)
    return [client(private, u) for u in range(dataset.num_users)]


def drawn_negatives(
    dataset: Dataset, data: ClientData, key: jax.Array, round_: int, *, steps: int, negatives: int
) -> dict[int, np.ndarray]:
    """The negatives that a round draws, [a, l n] by user."""
    rows, draws = histories(dataset), {}
    client_key = sampling.stream(key, sampling.CLIENT, round_)
    for bucket in data.buckets:
        for u, history_l in zip(bucket.user.tolist(), bucket.history, strict=True):
            own_key = jax.random.fold_in(client_key, u)
            drawn = sampling.sample_negatives(own_key, history_l, dataset.num_items, steps, negatives)
            draws[u] = np.asarray(drawn[:, : len(rows[u])]).reshape(steps, -1)
    return draws


def open_paths(**overrides: Any) -> list[str]:
    """The paths beside `uploads` that a configuration may take."""
    return [path for path in PATHS if path != "uploads" and not refuses(path, **overrides)]


def refuses(path: str, **overrides: Any) -> bool:
    """Whether a configuration is refused because of a path."""
    try:
        make_algorithm(settings(compute__path=path, **overrides), DATASET)
    except ConfigError as error:
        if "compute.path" in str(error):
            return True
        raise
    return False


def require_paths_agree(about: str, paths: list[str], **overrides: Any) -> None:
    """Two rounds on each of the paths equal two rounds on the path `uploads`, and something moves."""
    start = first_state(make_algorithm(settings(**overrides), DATASET))
    uploads, info_uploads = after(2, start=start, compute__path="uploads", **overrides)
    for x in jax.tree.leaves((uploads.public.params, uploads.private.params)):
        assert np.isfinite(x).all(), f"{about}: not finite after two rounds"
    moved = relative_difference(start.public.params, uploads.public.params)
    assert moved > 1e-4, f"{about}: two rounds move the public parameters by {moved} of their size"
    for path in paths:
        state, info = after(2, start=start, compute__path=path, **overrides)
        for a, b in ((state.public, uploads.public), (state.private, uploads.private), (info, info_uploads)):
            difference = relative_difference(a, b)
            assert difference <= 1e-6, f"{about}: paths do not agree: {path} is {difference} from uploads"
