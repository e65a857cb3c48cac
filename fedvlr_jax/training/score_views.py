"""Score views before the first round: sums, choices, maps, and what every client learns from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

from fedvlr_jax.agreed import Evidence, ScoreViews, ViewBasis
from fedvlr_jax.algorithm import Algorithm
from fedvlr_jax.assembly import parse_names
from fedvlr_jax.evaluation.metrics import ndcg
from fedvlr_jax.federated import view_maps
from fedvlr_jax.federated.held_back import CUTOFF, hold_back
from fedvlr_jax.federated.score_views import VIEWS, ItemMap, coordinates, kept_map, view_scores, weight_names
from fedvlr_jax.federated.view_basis import Learned, choose_basis, numbers_once
from fedvlr_jax.types import Array, Dataset, PyTree, given

CHUNK = 64
TABLE_BYTES = 2**30
"""Up to so many bytes the views of all clients are kept, and not formed anew for every evaluation."""


class AllViews(NamedTuple):
    """The views of all clients of one set of histories: the maps that they are formed with, and perhaps a table.

    Attributes:
      z_uiv: float32 [u, i, v], or None where it would be too large.
      maps: what the views are formed with.
      count_i: float32 [i], clients that have each item.
      item_r, age_r: int32 [rows], items and ages of the histories, client after client; ages None without times.
      start_u, length_u: int [u], where the rows of each client begin, and how many there are.
    """

    z_uiv: Array | None
    maps: dict[str, ItemMap]
    count_i: Array
    item_r: np.ndarray
    age_r: np.ndarray | None
    start_u: np.ndarray
    length_u: np.ndarray

    def chunks(self) -> Iterator[tuple[np.ndarray, Array, Array]]:
        """``(user_c, z_civ, candidate_ci)``, all clients in order; the last chunk repeats the last client."""
        num_users, num_items = len(self.length_u), self.count_i.size
        width = max(int(self.length_u.max()), 1)
        for begin in range(0, num_users, CHUNK):
            user_c = np.minimum(np.arange(begin, begin + CHUNK), num_users - 1)
            slot_cl = np.arange(width)[None] < self.length_u[user_c][:, None]
            row_cl = np.minimum(self.start_u[user_c][:, None] + np.arange(width), max(len(self.item_r) - 1, 0))
            history_cl = np.where(slot_cl, self.item_r[row_cl], num_items).astype(np.int32)
            if self.z_uiv is None:
                age_cl = None if self.age_r is None else self.age_r[row_cl]
                yield user_c, *_view_scores(self.maps, self.count_i, history_cl, age_cl)
            else:
                own_ci = np.zeros((CHUNK, num_items + 1), bool)
                np.put_along_axis(own_ci, history_cl, True, axis=1)
                yield user_c, self.z_uiv[user_c], jnp.asarray(~own_ci[:, :num_items])

    def tabled(self) -> AllViews:
        """With a table beside the maps, if it is small enough."""
        num_users, shape = len(self.length_u), (self.count_i.size, len(VIEWS))
        if 4 * num_users * shape[0] * shape[1] > TABLE_BYTES:
            return self
        z_uiv = np.empty((num_users, *shape), np.float32)
        for user_c, z_civ, _ in self.chunks():
            z_uiv[user_c] = z_civ
        return self._replace(z_uiv=jnp.asarray(z_uiv))

    def of(self, histories: Dataset) -> AllViews:
        """The views of other users through the same maps."""
        length_u = np.bincount(histories.train_user, minlength=histories.num_users)
        return self._replace(
            z_uiv=None,
            item_r=histories.train_item,
            age_r=histories.train_age,
            start_u=np.cumsum(length_u) - length_u,
            length_u=length_u,
        )


class Formed(NamedTuple):
    """What does not depend on the draw of candidates.

    Attributes:
      choice: of the maps.
      inner, whole: the views of inner and of whole histories.
      quality_v: [v], NDCG@50 of each whole view alone on validation items; on held-back ones where there are none.
    """

    choice: view_maps.Choice
    inner: AllViews
    whole: AllViews
    quality_v: np.ndarray


class FormedViews(NamedTuple):
    """What the server hands out before the rounds: maps, and the coordinates in which weights are learned.

    Attributes:
      dataset: whose histories the maps were formed of.
      formed: the maps, and the views of these users.
      learned: what these users learn from.
      basis: chosen for them.
      host: settings of the host.
      seed: of the draw of candidates.
    """

    dataset: Dataset
    formed: Formed
    learned: Learned
    basis: ViewBasis
    host: Mapping[str, Any]
    seed: int

    def of(self, histories: Dataset) -> ScoreViews:
        """The views of the users of `histories`, whoever the maps were formed of."""
        choice, inner, whole, quality_v = self.formed
        learned = self.learned
        if histories is not self.dataset:
            histories = _timed(self.host, histories)
            held = hold_back(histories)
            whole = whole.of(histories).tabled()
            learned = draw_candidates(inner.of(held.inner), held.target_um, self.host["candidates"], self.seed)
        quality = {f"quality {name}": value for name, value in zip(VIEWS, quality_v, strict=True)}
        return ScoreViews(
            evidence=Evidence(*_coordinates(learned.z_ubv, self.basis), learned.target_ub, learned.candidate_ub),
            z_uiv=whole.z_uiv,
            maps=whole.maps,
            count_i=whole.count_i,
            age_r=None if whole.age_r is None else jnp.asarray(whole.age_r, jnp.int32),
            start_u=jnp.asarray(whole.start_u, jnp.int32),
            basis=self.basis,
            choice={name: jnp.float32(x) for name, x in (choice.numbers() | quality).items()},
        )


class ConfiguredViews:
    """Score views of one set of histories; the last features that they were formed with are remembered.

    Args:
      settings: nested, with all fields.
      dataset: its histories.
    """

    def __init__(self, settings: Mapping[str, Any], dataset: Dataset):
        self._host, self._seed = settings["host"], settings["seed"]
        self._on = parse_names(settings["fusion"]["modalities"])
        self._held = hold_back(_timed(self._host, dataset))
        self._last: tuple[Dataset, Formed] | None = None
        self.megabytes = view_maps.megabytes_once(dataset) + 4e-6 * numbers_once() * dataset.num_users

    def of(self, dataset: Dataset, seed: int | None = None) -> ScoreViews:
        """`formed`, for the histories of `dataset` itself."""
        return self.formed(dataset, seed).of(dataset)

    def formed(self, dataset: Dataset, seed: int | None = None) -> FormedViews:
        """The maps with the features of `dataset` (same interactions) that `fusion.modalities` leaves on.

        Args:
          dataset: interactions and features.
          seed: of the draw of candidates; None = that of the settings.
        """
        if self._last is None or self._last[0] is not dataset:
            self._last = dataset, self._form(dataset)
        formed, seed = self._last[1], self._seed if seed is None else seed
        learned = draw_candidates(formed.inner, self._held.target_um, self._host["candidates"], seed)
        return FormedViews(dataset, formed, learned, choose_basis(learned, formed.quality_v), self._host, seed)

    @threadpool_limits.wrap(limits=1, user_api="blas")  # LAPACK waits for its threads where cores are shared
    def _form(self, dataset: Dataset) -> Formed:
        features = view_maps.without_modalities(dataset, self._on)
        sums = view_maps.federate(self._held.inner)
        choice = view_maps.choose(sums, self._held, features)
        inner = self._views(self._held.inner, sums, features, choice)
        del sums  # before those of whole histories are formed
        histories = _timed(self._host, dataset)
        whole = self._views(histories, view_maps.federate(histories), features, choice)
        valid_um = valid_targets(dataset)
        judged = (whole, valid_um) if (valid_um >= 0).any() else (inner, self._held.target_um)
        return Formed(choice, inner, whole, view_quality(*judged))

    def _views(
        self, histories: Dataset, sums: view_maps.ViewSums, features: Dataset, choice: view_maps.Choice
    ) -> AllViews:
        formed = view_maps.form(sums, features, choice, co_occurrence="D" in self._on)
        maps = {name: kept_map(x, self._host["strongest"]) for name, x in formed}
        nobody = np.zeros(0, np.int32)
        count_i = jnp.asarray(sums.ordered.count_i, jnp.float32)
        return AllViews(None, maps, count_i, nobody, None, nobody, nobody).of(histories).tabled()


def _timed(host: Mapping[str, Any], dataset: Dataset) -> Dataset:
    return dataset if host["order"] else dataclasses.replace(dataset, train_age=None)


def describe_views(algorithm: Algorithm, params: PyTree, views: ScoreViews) -> dict[str, Any]:
    """What a run chose, in words: how views are formed, what each is worth alone, and their shared weights.

    Args:
      algorithm: of the run.
      params: its public parameters.
      views: of its clients.
    """
    head, nobody = params["host"]["head"], {"d": jnp.zeros(len(weight_names()))}
    weight_k = given(algorithm.model.host.view_weights)(nobody, head, views.basis)
    weights = {f"weight {name}": float(x) for name, x in zip(weight_names(), weight_k, strict=True)}
    return {"start": _start(views)} | view_maps.described(views.choice) | weights


def chosen_line(views: ScoreViews) -> str:
    """What a run chose before its first round, in one line."""
    chosen = view_maps.described({k: x for k, x in views.choice.items() if not k.startswith("quality")})
    settings = ", ".join(f"{name} {value}" for name, value in chosen.items())
    return f"score views start as {_start(views)}; {settings}"


def _start(views: ScoreViews) -> str:
    best = int(np.argmax(views.basis.start_k))
    return f"{float(views.basis.start_k[best]):g} times {list(VIEWS)[best]}"


_view_scores = jax.jit(view_scores)
_coordinates = jax.jit(coordinates)


def draw_candidates(views: AllViews, target_um: np.ndarray, candidates: int, seed: int) -> Learned:
    """What every client learns from: its held-back items among all, or among some drawn ones.

    Args:
      views: of the inner histories.
      target_um: int32 [u, m], the held-back items or -1.
      candidates: how many; 0 = all.
      seed: of the draw.
    """
    rng, num_items = np.random.default_rng(seed), views.count_i.size
    size = min(candidates or num_items, num_items)
    parts = [_drawn(z_civ, candidate_ci, target_um[c], size, rng) for c, z_civ, candidate_ci in views.chunks()]
    return Learned(*(jnp.concatenate(x)[: len(target_um)] for x in zip(*parts, strict=True)))


def view_quality(views: AllViews, target_um: np.ndarray) -> np.ndarray:
    """[v], NDCG@50 of each view alone on some items: the mean over clients of the mean over their own.

    Args:
      views: of all clients.
      target_um: int32 [u, m], the items or -1.
    """
    found = [_quality(z_civ, candidate_ci, target_um[c]) for c, z_civ, candidate_ci in views.chunks()]
    quality_uv, has_u = np.concatenate(found)[: len(target_um)], (target_um >= 0).any(axis=1)
    return quality_uv[has_u].mean(axis=0) if has_u.any() else np.zeros(len(VIEWS))


def valid_targets(dataset: Dataset) -> np.ndarray:
    """int32 [u, m], the validation items of each user, then -1."""
    at_h = np.flatnonzero(dataset.valid_item >= 0)
    user_h = at_h if dataset.held_user is None else dataset.held_user[at_h]
    count_u = np.bincount(user_h, minlength=dataset.num_users)
    target_um = np.full((dataset.num_users, max(int(count_u.max()), 1)), -1, np.int32)
    start_u = np.cumsum(count_u) - count_u
    target_um[user_h, np.arange(len(user_h)) - start_u[user_h]] = dataset.valid_item[at_h]
    return target_um


@jax.jit
def _places(z_civ: Array, candidate_ci: Array, target_cm: Array) -> tuple[Array, Array]:
    """How many candidates each view ranks above each target, and how many level with it, [c, m, v]."""

    def one(z_iv: Array, candidate_i: Array, target_m: Array) -> tuple[Array, Array]:
        s_iv = jnp.where(candidate_i[:, None], z_iv, -jnp.inf)
        at_mv = z_iv.at[target_m].get(mode="clip")
        return jnp.sum(s_iv[None] > at_mv[:, None], axis=1), jnp.sum(s_iv[None] == at_mv[:, None], axis=1)

    return jax.vmap(one)(z_civ, candidate_ci, target_cm)


def _quality(z_civ: Array, candidate_ci: Array, target_cm: np.ndarray) -> np.ndarray:
    """Mean NDCG@50 over a client's targets, [c, v]."""
    greater_cmv, tied_cmv = (np.asarray(x) for x in _places(z_civ, candidate_ci, target_cm))
    is_cm1 = (target_cm >= 0)[..., None]
    found_cmv = np.where(is_cm1, ndcg(greater_cmv, np.maximum(tied_cmv, 1), CUTOFF), 0)
    return found_cmv.sum(axis=1) / np.maximum(is_cm1.sum(axis=1), 1)


def _drawn(z_civ: Array, candidate_ci: Array, target_cm: np.ndarray, size: int, rng: np.random.Generator) -> Learned:
    """The held-back items and, of the other candidates, as many as fit, drawn uniformly."""
    key_ci = np.where(candidate_ci, rng.random(candidate_ci.shape), -1.0)
    row_cm, num_items = np.arange(len(key_ci))[:, None], key_ci.shape[1]
    wide_ci = np.pad(key_ci, [(0, 0), (0, 1)])
    wide_ci[row_cm, np.where(target_cm < 0, num_items, target_cm)] = 2.0
    key_ci = wide_ci[:, :num_items]
    ids_cb = np.sort(np.argpartition(-key_ci, size - 1, axis=1)[:, :size], axis=1)
    key_cb = np.take_along_axis(key_ci, ids_cb, axis=1)
    z_cbv = jnp.take_along_axis(z_civ, ids_cb[:, :, None], axis=1)
    return Learned(z_cbv, jnp.asarray(key_cb == 2.0, jnp.float32), jnp.asarray(key_cb >= 0))
