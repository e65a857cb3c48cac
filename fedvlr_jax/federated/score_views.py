"""Score views: what a client can say of every item from its own history, through maps that the server formed.

Each view is a function of a chunk of clients' histories and of item-item maps [i, i] (row = item of the history) or
of a number for each item. `VIEWS` is the table of them; a further view is a function and a row. A view whose map a
data set does not allow is zero and adds nothing. `standardised` puts all of them on one scale,

    z_uiv = (s_uiv - mean_i s_uiv) / std_i s_uiv      over the candidates of client u: the items outside its history,

and `coordinates` turns them into those in which weights are learned (`view_basis.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.agreed import ScoreViews, ViewBasis
from fedvlr_jax.types import Array, Bucket

DECAY = 0.75
"""Exponent with which an older item of a history counts less in the views of recent items."""


STRETCH = 3.0
"""Of the logarithmic shape: beyond z = 1 / 3 of its scale, deviations count by their logarithm."""


class StrongestEntries(NamedTuple):
    """An item-item map of which each row keeps its k entries of largest magnitude.

    Attributes:
      column_ik: int32 [i, k], the scored items. value_ik: float32 [i, k].
    """

    column_ik: Array
    value_ik: Array


ItemMap = Array | StrongestEntries
"""An item-item map, [i, i] (row = item of the history), or its strongest entries."""


DENSE_ITEMS, STRONGEST = 4000, 500
"""Up to so many items maps are kept whole; of larger ones so many entries a row."""
ROWS = 512
"""Rows of a map that are worked on at once."""


def kept_map(map_ii: np.ndarray, strongest: int) -> ItemMap:
    """A map as clients get it: whole, or the entries of largest magnitude in each row.

    Args:
      map_ii: float32 [i, i].
      strongest: entries a row; 0 = all up to `DENSE_ITEMS` items, `STRONGEST` beyond.
    """
    size = len(map_ii)
    kept = strongest or (STRONGEST if size > DENSE_ITEMS else size)
    if kept >= size:
        return jnp.asarray(map_ii)
    column_ik, value_ik = np.empty((size, kept), np.int32), np.empty((size, kept), np.float32)
    for begin in range(0, size, ROWS):
        rows_ri = map_ii[begin : begin + ROWS]
        found_rk = np.argpartition(-np.abs(rows_ri), kept - 1, axis=1)[:, :kept]
        column_ik[begin : begin + ROWS] = found_rk
        value_ik[begin : begin + ROWS] = np.take_along_axis(rows_ri, found_rk, axis=1)
    return StrongestEntries(jnp.asarray(column_ik), jnp.asarray(value_ik))


class History(NamedTuple):
    """Histories of a chunk of clients.

    Attributes:
      item_cl: int32 [c, l], the items, then padding ``|I|``.
      weight_cl: float32 [c, l], how much each counts.
      dense_ci: the same weights by item.
    """

    item_cl: Array
    weight_cl: Array
    dense_ci: Array

    def silent(self) -> History:
        """The same with weights of zero."""
        return self._replace(weight_cl=0 * self.weight_cl, dense_ci=0 * self.dense_ci)


class Seen(NamedTuple):
    """What views are formed of.

    Attributes:
      flat: histories whose items count 1.
      recent: histories with weights (1 + age)^-`DECAY`; `flat` without times.
      maps: by name; those that a data set does not allow are missing.
      count_i: [i], clients that have each item.
    """

    flat: History
    recent: History
    maps: Mapping[str, ItemMap]
    count_i: Array

    def through(self, name: str, history: History) -> Array:
        """Histories times a map, [c, i]; zeros where there is no such map."""
        found = self.maps.get(name)
        if found is None:
            return jnp.zeros_like(history.dense_ci)
        return _through_strongest(found, history) if isinstance(found, StrongestEntries) else history.dense_ci @ found


def _through_strongest(kept: StrongestEntries, history: History) -> Array:
    """One client after the other: what is gathered of a long history is large."""

    def one(client: tuple[Array, Array]) -> Array:
        item_l, weight_l = client
        column_lk = kept.column_ik.at[item_l].get(mode="fill", fill_value=size)
        value_lk = weight_l[:, None] * kept.value_ik.at[item_l].get(mode="fill", fill_value=0)
        return jnp.zeros(size, value_lk.dtype).at[column_lk].add(value_lk, mode="drop")

    size = history.dense_ci.shape[1]
    return jax.lax.map(one, (history.item_cl, history.weight_cl))


def _flat(name: str) -> Callable[[Seen], Array]:
    return lambda seen: seen.through(name, seen.flat)


def _recent(name: str) -> Callable[[Seen], Array]:
    return lambda seen: seen.through(name, seen.recent)


def _for_all(number: Callable[[Array], Array]) -> Callable[[Seen], Array]:
    return lambda seen: jnp.broadcast_to(number(seen.count_i)[None], seen.flat.dense_ci.shape)


VIEWS: dict[str, Callable[[Seen], Array]] = {
    "ease": _flat("ease"),
    "recent ease": _recent("ease"),
    "next": _recent("next"),
    "prior": _recent("prior"),
    "collective": _flat("collective"),
    "visual": _flat("visual"),
    "text": _flat("text"),
    "visual targets": _recent("visual targets"),
    "text targets": _recent("text targets"),
    "visual sources": _recent("visual sources"),
    "text sources": _recent("text sources"),
    "popularity": _for_all(jnp.log1p),
    "novelty": _for_all(lambda count_i: (count_i == 0).astype(count_i.dtype)),
}
"""Views ``(seen) -> s_ci`` by name, in the order of axis v."""

READ_TIMES = frozenset(VIEWS) - {"ease", "collective", "visual", "text", "popularity", "novelty"}
"""Views in which the order of time counts."""


def _arsinh(x: Array) -> Array:
    """asinh to 2e-7 of max(1, |asinh x|), ten times as fast on a CPU as `jnp.arcsinh`, which is exact near zero."""
    size = jnp.abs(x)
    return jnp.copysign(jnp.log(size + jnp.sqrt(size**2 + 1)), x)


SHAPES: dict[str, Callable[[Array], Array]] = {
    "plain": lambda z: z,
    "logarithmic": lambda z: _arsinh(STRETCH * z) / STRETCH,
}
"""Functions of z that are weighed: a sum of plain scores is a score of a sum of maps, and a large score of a view
that is rarely large is not worth ten times a tenth of it."""

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
    maps: Mapping[str, ItemMap], count_i: Array, history_cl: Array, age_cl: Array | None
) -> tuple[Array, Array]:
    """All views of a chunk of clients.

    Args:
      maps: by name, see `VIEWS`.
      count_i: [i], clients that have each item.
      history_cl: int32 [c, l], items of each history, then padding ``|I|``.
      age_cl: [c, l], for each item how many are newer; None without times.

    Returns:
      ``(z_civ, candidate_ci)``: standardised views, and bool, the items outside the history.
    """

    seen = _seen(maps, count_i, history_cl, age_cl)
    candidate_ci = seen.flat.dense_ci == 0
    return standardised(_raw(seen), candidate_ci), candidate_ci


def _seen(maps: Mapping[str, ItemMap], count_i: Array, history_cl: Array, age_cl: Array | None) -> Seen:
    def weighed(weight_cl: Array) -> History:
        zero_ci = jnp.zeros((history_cl.shape[0], count_i.size), count_i.dtype)
        put = jax.vmap(lambda row_i, at_l, weight_l: row_i.at[at_l].add(weight_l, mode="drop"))
        return History(history_cl, weight_cl, put(zero_ci, history_cl, weight_cl))

    flat = weighed(jnp.ones(history_cl.shape, count_i.dtype))
    recent = flat if age_cl is None else weighed((1.0 + age_cl.astype(count_i.dtype)) ** -DECAY)
    return Seen(flat, recent, maps, count_i)


def _raw(seen: Seen) -> Array:
    """All views before they are standardised, s_civ."""
    return jnp.stack([view(seen) for view in VIEWS.values()], axis=-1)


def whole_views(views: ScoreViews, chunk: Bucket) -> Array:
    """Standardised views of the whole histories of a chunk of clients, z_civ [c, i, v]."""
    if views.z_uiv is not None:
        return views.z_uiv.at[chunk.user].get(mode="fill", fill_value=0)
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
    candidate_i = whole.flat.dense_ci[0] == 0
    without_iv = _raw(whole._replace(flat=whole.flat.silent(), recent=whole.recent.silent()))[0]
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


def coordinates(z_biv: Array, basis: ViewBasis) -> tuple[Array, Array]:
    """Views as weights are learned over them, ``(base [...], x [..., k])``: t start, and t turn, of t = `shaped`."""
    t_bik = shaped(z_biv)
    return t_bik @ basis.start_k, t_bik @ basis.turn_kk


def shaped(z_biv: Array) -> Array:
    """Every view in both shapes of `SHAPES`, [..., k], the first shape of all views first."""
    return jnp.concatenate([shape(z_biv) for shape in SHAPES.values()], axis=-1)


def weight_names() -> list[str]:
    """What axis k stands for."""
    return [f"{view}, {shape}" for shape in SHAPES for view in VIEWS]
