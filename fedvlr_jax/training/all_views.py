"""The views of all clients of one set of histories: formed in chunks, drawn from, and judged one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.evaluation.metrics import ndcg
from fedvlr_jax.federated.held_back import CUTOFF
from fedvlr_jax.federated.score_views import VIEWS, ItemMap, view_scores
from fedvlr_jax.federated.view_basis import Learned
from fedvlr_jax.types import Array, Dataset

CHUNK, CHUNK_BYTES = 256, 2**26
"""Clients whose views are formed at once: at most so many, and so many bytes of views."""
TABLE_BYTES = 2**29
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
        size = min(CHUNK, max(CHUNK_BYTES // (4 * num_items * len(VIEWS)), 1), max(num_users, 1))
        for begin in range(0, num_users, size):
            user_c = np.minimum(np.arange(begin, begin + size), num_users - 1)
            slot_cl = np.arange(width)[None] < self.length_u[user_c][:, None]
            row_cl = np.minimum(self.start_u[user_c][:, None] + np.arange(width), max(len(self.item_r) - 1, 0))
            history_cl = np.where(slot_cl, self.item_r[row_cl], num_items).astype(np.int32)
            if self.z_uiv is None:
                age_cl = None if self.age_r is None else self.age_r[row_cl]
                yield user_c, *_view_scores(self.maps, self.count_i, history_cl, age_cl)
            else:
                own_ci = np.zeros((size, num_items + 1), bool)
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


_view_scores = jax.jit(view_scores)


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


def own_quality(
    views: AllViews, target_um: np.ndarray, through: Callable[[Array], Array] = lambda z_civ: z_civ
) -> np.ndarray:
    """[h, v], NDCG@50 of each view alone on some items, for the clients that have any: the mean over a client's own.

    As in `evaluation.metrics`, the other items of a client are no candidates when one of them is ranked.

    Args:
      views: of all clients.
      target_um: int32 [u, m], the items or -1.
      through: ``z_civ -> s_cis``, scores to judge in place of single views.
    """
    found = [_quality(through(z_civ), candidate_ci, target_um[c]) for c, z_civ, candidate_ci in views.chunks()]
    return np.concatenate(found)[: len(target_um)][(target_um >= 0).any(axis=1)]


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
        out_m = jnp.where(target_m < 0, candidate_i.size, target_m)
        s_iv = jnp.where(candidate_i.at[out_m].set(False, mode="drop")[:, None], z_iv, -jnp.inf)
        at_mv = z_iv.at[target_m].get(mode="clip")
        above_mv = jnp.sum(s_iv[None] > at_mv[:, None], axis=1)
        return above_mv, 1 + jnp.sum(s_iv[None] == at_mv[:, None], axis=1)

    return jax.vmap(one)(z_civ, candidate_ci, target_cm)


def _quality(z_civ: Array, candidate_ci: Array, target_cm: np.ndarray) -> np.ndarray:
    """Mean NDCG@50 over a client's targets, [c, v]."""
    greater_cmv, tied_cmv = (np.asarray(x) for x in _places(z_civ, candidate_ci, target_cm))
    is_cm1 = (target_cm >= 0)[..., None]
    found_cmv = np.where(is_cm1, ndcg(greater_cmv, tied_cmv, CUTOFF), 0)
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
