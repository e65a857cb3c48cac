"""Score views before the first round: sums, choices, maps, and what every client learns from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.assembly import parse_names
from fedvlr_jax.data.buckets import make_histories
from fedvlr_jax.federated import view_maps
from fedvlr_jax.federated.held_back import HeldBack, hold_back
from fedvlr_jax.federated.score_views import view_scores
from fedvlr_jax.types import Dataset, Evidence, ScoreViews

CHUNK = 64

_view_scores = jax.jit(view_scores)


class ConfiguredViews:
    """Score views of one set of histories: the sums are formed once, the rest depends on the features.

    Args:
      settings: nested, with all fields.
      dataset: its histories.
    """

    def __init__(self, settings: Mapping[str, Any], dataset: Dataset):
        self._on = parse_names(settings["fusion"]["modalities"])
        self._candidates, self._seed = settings["host"]["candidates"], settings["seed"]
        self._held = hold_back(dataset)
        self._inner, self._whole = view_maps.federate(self._held.inner), view_maps.federate(dataset)
        self.megabytes = view_maps.megabytes_once(dataset)

    def formed(self, dataset: Dataset) -> FormedViews:
        """The maps with the features of `dataset` (same interactions) that `fusion.modalities` leaves on."""
        features = view_maps.without_modalities(dataset, self._on)
        choice = view_maps.choose(self._inner, self._held, features)
        has_ids = "D" in self._on
        return FormedViews(
            inner=view_maps.form(self._inner, features, choice, co_occurrence=has_ids),
            inner_count_i=self._inner.ordered.count_i,
            whole=view_maps.form(self._whole, features, choice, co_occurrence=has_ids),
            whole_count_i=self._whole.ordered.count_i,
            candidates=self._candidates,
            seed=self._seed,
        )

    def of(self, dataset: Dataset) -> ScoreViews:
        """`formed`, for the histories of `dataset` itself."""
        return self.formed(dataset).of(dataset)


class FormedViews(NamedTuple):
    """What the server hands out: maps without the clients' last items, maps of whole histories, and item counts.

    Attributes:
      inner, whole: float32 [i, i] by name. inner_count_i, whole_count_i: [i], clients that have each item.
      candidates: items that a client compares its last ones with, 0 = all. seed: of their draw.
    """

    inner: Mapping[str, np.ndarray]
    inner_count_i: np.ndarray
    whole: Mapping[str, np.ndarray]
    whole_count_i: np.ndarray
    candidates: int
    seed: int

    def of(self, histories: Dataset) -> ScoreViews:
        """The views of the users of `histories`, whoever the maps were formed of."""
        held = hold_back(histories)
        age = None if histories.train_age is None else jnp.asarray(histories.train_age, jnp.int32)
        return ScoreViews(
            evidence=make_evidence(held, self.inner, self.inner_count_i, self.candidates, self.seed),
            maps={name: jnp.asarray(x) for name, x in self.whole.items()},
            count_i=jnp.asarray(self.whole_count_i, jnp.float32),
            age_r=age,
            start_u=jnp.asarray(make_histories(histories).start_u, jnp.int32),
        )


def make_evidence(
    held: HeldBack, maps: Mapping[str, np.ndarray], count_i: np.ndarray, candidates: int, seed: int
) -> Evidence:
    """What every client learns from: its held-back items among all, or among `candidates` drawn ones (0 = all)."""
    inner, rng = held.inner, np.random.default_rng(seed)
    num_users, num_items = inner.num_users, inner.num_items
    size = min(candidates or num_items, num_items)
    length_u = np.bincount(inner.train_user, minlength=num_users)
    start_u, width = np.cumsum(length_u) - length_u, max(int(length_u.max()), 1)
    device = {name: jnp.asarray(x) for name, x in maps.items()}
    count = jnp.asarray(count_i, jnp.float32)
    parts = []
    for begin in range(0, num_users, CHUNK):
        user_c = np.minimum(np.arange(begin, begin + CHUNK), num_users - 1)
        slot_cl = np.arange(width)[None] < length_u[user_c][:, None]
        row_cl = np.minimum(start_u[user_c][:, None] + np.arange(width), max(len(inner.train_item) - 1, 0))
        history_cl = np.where(slot_cl, inner.train_item[row_cl], num_items).astype(np.int32)
        age_cl = None if inner.train_age is None else inner.train_age[row_cl]
        z_civ, candidate_ci = _view_scores(device, count, history_cl, age_cl)
        parts.append(_drawn(z_civ, candidate_ci, held.target_um[user_c], size, rng))
    return Evidence(*(jnp.concatenate(x)[:num_users] for x in zip(*parts, strict=True)))


def _drawn(
    z_civ: jax.Array, candidate_ci: jax.Array, target_cm: np.ndarray, size: int, rng: np.random.Generator
) -> Evidence:
    """The held-back items and, of the other candidates, as many as fit, drawn uniformly."""
    key_ci = np.where(candidate_ci, rng.random(candidate_ci.shape), -1.0)
    row_cm, num_items = np.arange(len(key_ci))[:, None], key_ci.shape[1]
    wide_ci = np.pad(key_ci, [(0, 0), (0, 1)])
    wide_ci[row_cm, np.where(target_cm < 0, num_items, target_cm)] = 2.0
    key_ci = wide_ci[:, :num_items]
    ids_cb = np.sort(np.argpartition(-key_ci, size - 1, axis=1)[:, :size], axis=1)
    key_cb = np.take_along_axis(key_ci, ids_cb, axis=1)
    z_cbv = jnp.take_along_axis(z_civ, ids_cb[:, :, None], axis=1)
    return Evidence(z_cbv, jnp.asarray(key_cb == 2.0, jnp.float32), jnp.asarray(key_cb >= 0))
