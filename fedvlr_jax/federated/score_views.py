"""Score views: what a client can say of every item from its own history, through maps that the server formed.

Each view is a function of a chunk of clients' histories and of item-item maps [i, i] (row = item of the history) or
of a number for each item. `VIEWS` is the table of them; a further view is a function and a row. A view whose map a
data set does not allow is zero and adds nothing. `standardised` puts all of them on one scale,

    z_uiv = (s_uiv - mean_i s_uiv) / std_i s_uiv      over the candidates of client u: the items outside its history.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.types import Array, Bucket, ScoreViews

DECAY = 0.75
"""Exponent with which an older item of a history counts less in the views of recent items."""


class Seen(NamedTuple):
    """What views are formed of.

    Attributes:
      flat_ci: float32 [c, i], 1 for the items of each history.
      recent_ci: float32 [c, i], the same with weights (1 + age)^-`DECAY`; `flat_ci` without times.
      maps: [i, i] by name; those that a data set does not allow are missing.
      count_i: [i], clients that have each item.
    """

    flat_ci: Array
    recent_ci: Array
    maps: Mapping[str, Array]
    count_i: Array

    def through(self, name: str, history_ci: Array) -> Array:
        """``history_ci @ maps[name]``, zeros where there is no such map."""
        return history_ci @ self.maps[name] if name in self.maps else jnp.zeros_like(history_ci)


def _smoothed_targets(modality: str) -> Callable[[Seen], Array]:
    """An item scores as the items with features like its own do."""

    def view(seen: Seen) -> Array:
        neighbour_ii = seen.maps.get(f"{modality} neighbours")
        scores_ci = seen.through("following", seen.recent_ci)
        return jnp.zeros_like(scores_ci) if neighbour_ii is None else scores_ci @ neighbour_ii.T

    return view


def _smoothed_sources(modality: str) -> Callable[[Seen], Array]:
    """The items with features like those of the history stand in for it."""
    return lambda seen: seen.through("following", seen.through(f"{modality} neighbours", seen.recent_ci))


def _for_all(score_i: Array, seen: Seen) -> Array:
    return jnp.broadcast_to(score_i[None], seen.flat_ci.shape)


VIEWS: dict[str, Callable[[Seen], Array]] = {
    "ease": lambda seen: seen.through("ease", seen.flat_ci),
    "recent ease": lambda seen: seen.through("ease", seen.recent_ci),
    "next": lambda seen: seen.through("next", seen.recent_ci),
    "prior": lambda seen: seen.through("prior", seen.recent_ci),
    "collective": lambda seen: seen.through("collective", seen.flat_ci),
    "visual": lambda seen: seen.through("visual", seen.flat_ci),
    "text": lambda seen: seen.through("text", seen.flat_ci),
    "visual targets": _smoothed_targets("visual"),
    "text targets": _smoothed_targets("text"),
    "visual sources": _smoothed_sources("visual"),
    "text sources": _smoothed_sources("text"),
    "popularity": lambda seen: _for_all(jnp.log1p(seen.count_i), seen),
    "novelty": lambda seen: _for_all((seen.count_i == 0).astype(seen.flat_ci.dtype), seen),
}
"""Views ``(seen) -> s_ci`` by name, in the order of axis v."""

FEATURES = {"collective": "VC", "visual": "V", "text": "C"}


def modalities_of(view: str) -> str:
    """The letters of `MODALITIES` that a view reads: "D", histories, unless it is a kernel of features alone."""
    features = FEATURES.get(view.split()[0], "")
    return features if view in ("visual", "text") else "D" + features


def standardised(scores_civ: Array, candidate_ci: Array) -> Array:
    """z of every view over the candidates [c, i]; zero for other items, and where a view is constant."""
    weight_ci1 = candidate_ci[..., None].astype(scores_civ.dtype)
    size_c11 = jnp.maximum(jnp.sum(weight_ci1, axis=1, keepdims=True), 1)
    centred_civ = scores_civ - jnp.sum(weight_ci1 * scores_civ, axis=1, keepdims=True) / size_c11
    variance_c1v = jnp.sum(weight_ci1 * centred_civ**2, axis=1, keepdims=True) / size_c11
    largest_c1v = jnp.max(jnp.abs(scores_civ), axis=1, keepdims=True)
    varies_c1v = variance_c1v > (1e-6 * largest_c1v) ** 2  # what rounding leaves of a constant is no signal
    scale_c1v = jnp.where(varies_c1v, jax.lax.rsqrt(jnp.where(varies_c1v, variance_c1v, 1.0)), 0.0)
    return weight_ci1 * centred_civ * scale_c1v


def view_scores(
    maps: Mapping[str, Array], count_i: Array, history_cl: Array, age_cl: Array | None
) -> tuple[Array, Array]:
    """All views of a chunk of clients.

    Args:
      maps: [i, i] by name, see `VIEWS`.
      count_i: [i], clients that have each item.
      history_cl: int32 [c, l], items of each history, then padding ``|I|``.
      age_cl: [c, l], for each item how many are newer; None without times.

    Returns:
      ``(z_civ, candidate_ci)``: standardised views, and bool, the items outside the history.
    """

    seen = _seen(maps, count_i, history_cl, age_cl)
    candidate_ci = seen.flat_ci == 0
    return standardised(_raw(seen), candidate_ci), candidate_ci


def _seen(maps: Mapping[str, Array], count_i: Array, history_cl: Array, age_cl: Array | None) -> Seen:
    def weighed(weight_cl: Array) -> Array:
        zero_ci = jnp.zeros((history_cl.shape[0], count_i.size), count_i.dtype)
        put = jax.vmap(lambda row_i, at_l, weight_l: row_i.at[at_l].add(weight_l, mode="drop"))
        return put(zero_ci, history_cl, weight_cl)

    flat_ci = weighed(jnp.ones(history_cl.shape, count_i.dtype))
    recent_ci = flat_ci if age_cl is None else weighed((1.0 + age_cl.astype(count_i.dtype)) ** -DECAY)
    return Seen(flat_ci, recent_ci, maps, count_i)


def _raw(seen: Seen) -> Array:
    """All views before they are standardised, s_civ."""
    return jnp.stack([view(seen) for view in VIEWS.values()], axis=-1)


def whole_views(views: ScoreViews, chunk: Bucket) -> Array:
    """Standardised views of the whole histories of a chunk of clients, z_civ [c, i, v]."""
    z_civ, _ = view_scores(views.maps, views.count_i, chunk.history, _ages(views, chunk))
    return z_civ


def _ages(views: ScoreViews, chunk: Bucket) -> Array | None:
    """The ages [c, l] of the histories of a chunk."""
    if views.age_r is None:
        return None
    start_c1 = views.start_u.at[chunk.user].get(mode="fill", fill_value=0)[:, None]
    return views.age_r.at[start_c1 + jnp.arange(chunk.history.shape[1])[None]].get(mode="clip")


def history_views(views: ScoreViews, slot: Bucket, item_b: Array) -> Array:
    """What every item of one client's history adds to the standardised views of some items, z_lbv [l, b, v].

    A view is linear in the history before it is standardised; mean and deviation are those of the whole history. What
    a view says without any history (popularity, say) belongs to no item of it.
    """
    age_cl = _ages(views, slot)
    whole = _seen(views.maps, views.count_i, slot.history, age_cl)
    candidate_i = whole.flat_ci[0] == 0
    without_iv = _raw(whole._replace(flat_ci=0 * whole.flat_ci, recent_ci=0 * whole.recent_ci))[0]
    raw_iv = _raw(whole)[0]
    z_iv, weight_i1 = standardised(raw_iv[None], candidate_i[None])[0], candidate_i[:, None].astype(raw_iv.dtype)
    size = jnp.maximum(jnp.sum(weight_i1), 1)

    def centred(x_iv: Array) -> Array:
        return weight_i1 * (x_iv - jnp.sum(weight_i1 * x_iv, axis=0, keepdims=True) / size)

    centred_iv = centred(raw_iv)
    scale_v = jnp.sum(z_iv * centred_iv, axis=0) / jnp.maximum(jnp.sum(centred_iv**2, axis=0), 1e-30)

    def one(item_and_age: tuple[Array, Array | None]) -> Array:
        item, age = item_and_age
        seen = _seen(views.maps, views.count_i, item[None, None], None if age is None else age[None, None])
        return (centred(_raw(seen)[0] - without_iv) * scale_v[None])[item_b]

    return jax.lax.map(one, (slot.history[0], None if age_cl is None else age_cl[0]))
