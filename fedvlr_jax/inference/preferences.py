"""What a trained model thinks each user prefers: item identity, looks, or words."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.agreed import ScoreViews, ViewBasis
from fedvlr_jax.algorithm import Algorithm
from fedvlr_jax.federated.mesh import whole
from fedvlr_jax.federated.score_views import SHAPES, VIEWS, modalities_of
from fedvlr_jax.federated.scoring import Snapshot, view_weights
from fedvlr_jax.types import MODALITIES, Array, Bucket, ClientData, Content, FedState, given

SINGLE_MODALITIES = tuple(MODALITIES.values())

_Measured = Callable[[Algorithm, FedState, Content, Bucket], Array]


def learned_preferences(
    algorithm: Algorithm, parts: Iterable[tuple[FedState, Bucket]], clients: ClientData, num_users: int
) -> np.ndarray:
    """A user's learned preference for (ID, visual, textual), float32 [u, 3].

    With the operators (id, visual, text), in any order, it is the router's weight. Otherwise it is the drop of the
    user's mean score margin (own train positives against all other items) when a modality is replaced by its mean
    over items, everything else unchanged, as a share of the sum of the user's (positive) drops: the scale of the
    scores differs between users and says nothing about preference. A modality that the data lacks has share 0.

    Of a host that ranks by score views it is the share of the absolute weights of the views that read a modality; a
    view that reads several counts for each in equal parts.

    Args:
      algorithm: the model.
      parts: its trained state and all clients, some at a time (`training.backend.Backend.parts`).
      clients: the item features and score views that it was trained with; its buckets are not read.
      num_users: |U|.
    """
    routed = set(algorithm.views) == set(SINGLE_MODALITIES)
    if isinstance(clients.prior, ScoreViews):
        measured: _Measured = functools.partial(_view_shares, clients.prior.basis)
    else:
        measured = _router_weights if routed else _drop_shares
    preference_um = _of_all(algorithm, measured, parts, clients.content, np.zeros((num_users, 3), np.float32))
    if routed and not isinstance(clients.prior, ScoreViews):
        preference_um = preference_um[:, [algorithm.views.index(name) for name in SINGLE_MODALITIES]]
    return preference_um


def router_weights(
    algorithm: Algorithm, parts: Iterable[tuple[FedState, Bucket]], content: Content, num_users: int
) -> np.ndarray | None:
    """The router's weights w_uj of all users, float32 [u, j] in the order of ``algorithm.views``; None without one.

    Args:
      algorithm, parts, content, num_users: as of `learned_preferences`.
    """
    if algorithm.router_weights is None:
        return None
    empty_uj = np.zeros((num_users, len(algorithm.views)), np.float32)
    return _of_all(algorithm, _router_weights, parts, content, empty_uj)


def _of_all(
    algorithm: Algorithm,
    measured: _Measured,
    parts: Iterable[tuple[FedState, Bucket]],
    content: Content,
    found_um: np.ndarray,
) -> np.ndarray:
    """`found_um` filled with what is measured of each user, some of them at a time."""
    measure = jax.jit(functools.partial(measured, algorithm), out_shardings=whole(algorithm.mesh))
    content, num_users = jax.tree.map(np.asarray, content), len(found_um)
    for state, bucket in parts:
        user_c = np.asarray(bucket.user)
        found_um[user_c[user_c < num_users]] = np.asarray(measure(state, content, bucket))[user_c < num_users]
    return found_um


def _view_shares(basis: ViewBasis, algorithm: Algorithm, state: FedState, content: Content, bucket: Bucket) -> Array:
    head = state.public.params["host"]["head"]
    size_cv = jnp.abs(view_weights(algorithm.model, state.private, head, basis, bucket))
    reads_vm = np.array([[letter in modalities_of(view) for letter in MODALITIES] for view in VIEWS], float)
    reads_vm = np.tile(reads_vm, (len(SHAPES), 1))
    share_cm = size_cv @ (reads_vm / reads_vm.sum(axis=1, keepdims=True))
    return share_cm / jnp.maximum(share_cm.sum(axis=1, keepdims=True), 1e-12)


def _router_weights(algorithm: Algorithm, state: FedState, content: Content, bucket: Bucket) -> Array:
    return given(algorithm.router_weights)(algorithm.snapshot(state, content), bucket)


def _drop_shares(algorithm: Algorithm, state: FedState, content: Content, bucket: Bucket) -> Array:
    def margin(flat_m: Array) -> Array:
        return _margin(algorithm, algorithm.snapshot(*_flattened(state, content, flat_m)), bucket)

    # In a loop over nothing, then each modality: the model is traced and compiled once.
    margin_mc = jax.lax.map(margin, jnp.eye(1 + len(MODALITIES), dtype=bool)[:, 1:])
    drop_cm = jnp.maximum(margin_mc[:1] - margin_mc[1:], 0).T
    return drop_cm / jnp.maximum(drop_cm.sum(axis=1, keepdims=True), 1e-12)


def _flattened(state: FedState, content: Content, flat_m: Array) -> tuple[FedState, Content]:
    """State and features with some modalities replaced by their mean over items; bool [3] says which."""
    flat = dict(zip(MODALITIES, flat_m, strict=True))

    def changed(x: Array, modality: str) -> Array:
        return jnp.where(flat[modality], x.mean(axis=0, keepdims=True), x)

    features = {name: getattr(content, name) for name in MODALITIES if name != "D"}
    content = content._replace(**{name: changed(x, name) for name, x in features.items() if x is not None})
    params = state.public.params
    if "D" in params["variant"]:
        params = params | {"variant": params["variant"] | {"D": changed(params["variant"]["D"], "D")}}
    return state.replace(public=state.public.replace(params=params)), content


def _margin(algorithm: Algorithm, snapshot: Snapshot, bucket: Bucket) -> Array:
    """Mean score of a user's train positives minus the mean score of all other items, [c]."""
    s_ci = algorithm.score(snapshot, bucket)

    def one(s_i: Array, history_l: Array) -> Array:
        own_i = jnp.zeros(s_i.size).at[history_l].set(1.0, mode="drop")
        return jnp.sum(s_i * own_i) / jnp.sum(own_i) - jnp.sum(s_i * (1 - own_i)) / jnp.maximum(jnp.sum(1 - own_i), 1)

    return jax.vmap(one)(s_ci, bucket.history)
