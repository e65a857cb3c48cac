"""Why an item has the score that it has: what every view, and what every item of the history, adds to it.

A score is split into *parts* that sum to it. The parts of a trained model are its views F_j, the item tables of the
host, the client's own table, the features of `vbpr`, what local fine-tuning added, and a constant that is the same
for all items. Where the score is linear in them (`Host.linear`) a part is

    score with this part alone - score with none of them,

which is exact. Otherwise (FedNCF) it is the part's Shapley value: the mean over all orders in which the parts could
come in of what it adds. Both sum to the score. A host that ranks by standardised scores has parts of these: mean and
deviation over the catalogue are held as they are, so that the sum still is the score.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from fedvlr_jax.agreed import Prior, ScoreViews
from fedvlr_jax.algorithm import Algorithm
from fedvlr_jax.federated.score_views import VIEWS, history_views, shaped, whole_views
from fedvlr_jax.federated.scoring import Ready, Snapshot, make_ready, score_items, view_weights
from fedvlr_jax.models.hosts.host import ItemRows
from fedvlr_jax.models.model import ITEM_TABLE, Download, Model, item_rows, score
from fedvlr_jax.models.own_table import TableRows
from fedvlr_jax.types import Array, Bucket, given

CONSTANT, TUNED, PRIOR = "constant", "fine-tuning", "prior"


class Parts(struct.PyTreeNode):
    """Of one user's scores of all items.

    Attributes:
      value_pi: [p, i]; they sum to the scores.
      names: of the parts.
      exact: whether they are differences of a linear score; else they are Shapley values.
    """

    value_pi: Array
    names: tuple[str, ...] = struct.field(pytree_node=False)
    exact: bool = struct.field(pytree_node=False)


def score_parts(algorithm: Algorithm, params: Snapshot, slot: Bucket) -> Parts:
    """The parts of the scores that ``algorithm.score(params, slot)`` gives a user.

    Args:
      algorithm: the model.
      params: of `algorithm.snapshot`, with the private states of all users.
      slot: one user, [1] and [1, l].
    """
    host = algorithm.model.host
    if isinstance(params.prior, ScoreViews):
        return _of_score_views(algorithm, params, params.prior, slot)
    parts = _of_model(algorithm, params, slot)
    if not isinstance(params.prior, Prior):
        return parts
    prior_i = params.prior.score_ui[slot.user[0]]
    blended_pi = parts.value_pi @ params.prior.blend_ii.T
    total_i = given(host.combine)(jnp.sum(blended_pi, axis=0), jnp.zeros_like(prior_i))
    of_prior_i = given(host.combine)(jnp.zeros_like(prior_i), prior_i)
    value_pi = jnp.concatenate([as_standardised(blended_pi, total_i), of_prior_i[None]])
    return Parts(value_pi, (*parts.names, PRIOR), parts.exact)


def as_standardised(part_pi: Array, total_i: Array) -> Array:
    """Parts of a score x [i] as parts of a multiple of its standardisation, ``total_i = a (x - mean x) / std x``."""
    centred_pi = part_pi - jnp.mean(part_pi, axis=1, keepdims=True)
    return slope_of(total_i, jnp.sum(centred_pi, axis=0)) * centred_pi


def slope_of(total_i: Array, centred_i: Array) -> Array:
    """The number a / std x of which ``total_i`` is the multiple of ``centred_i``; 0 for a constant."""
    return jnp.sum(total_i * centred_i) / jnp.maximum(jnp.sum(centred_i**2), 1e-30)


def _of_model(algorithm: Algorithm, params: Snapshot, slot: Bucket) -> Parts:
    """The parts of the trained logits."""
    model, num_items = algorithm.model, jax.tree.leaves(params.broadcast.rows)[0].shape[0]
    ready = make_ready(model, algorithm.tuning, num_items, params, slot)
    scores_i = score_items(model, params, ready)[0]
    one = jax.tree.map(lambda x: x[0], ready._replace(tuned=None))
    names, of_parts = _switches(algorithm, params, one)
    mask_sp, coefficient_sp = coalitions(len(names), linear=model.host.linear)
    score_si = jax.lax.map(of_parts, jnp.asarray(mask_sp, scores_i.dtype))
    value_pi = jnp.asarray(coefficient_sp, scores_i.dtype).T @ score_si
    constant_i = score_si[0]  # with none of the parts
    rows = [value_pi, constant_i[None]]
    names = (*names, CONSTANT)
    if ready.tuned is not None:
        names, rows = (*names, TUNED), [*rows, (scores_i - jnp.sum(value_pi, axis=0) - constant_i)[None]]
    return Parts(jnp.concatenate(rows), names, model.host.linear)


def _switches(algorithm: Algorithm, params: Snapshot, one: Ready) -> tuple[tuple[str, ...], Callable[[Array], Array]]:
    """Names of a user's parts, and their scores [i] when the parts are multiplied by the numbers of a mask [p]."""
    model, download = algorithm.model, Download(params.broadcast.rows, one.pooled_cjd, params.broadcast.head)
    items = item_rows(model, one.private, download, download.rows, one.private.get(ITEM_TABLE))
    names = part_names(algorithm, model, items)
    num_views = 0 if items.views_bjd is None else items.views_bjd.shape[1]
    tables = [name for name in names[num_views:] if name in items.tables]

    def scores(mask_p: Array) -> Array:
        some = items._replace(tables=dict(items.tables))
        if num_views:
            some = some._replace(views_bjd=given(items.views_bjd) * mask_p[None, :num_views, None])
        for place, name in enumerate(names[num_views:], start=num_views):
            if name in tables:
                some.tables[name] = items.tables[name] * mask_p[place]
            else:
                some = some._replace(own=TableRows(one.private[ITEM_TABLE] * mask_p[place]))
        return score(model, one.private, download.head, some)

    return names, scores


def part_names(algorithm: Algorithm, model: Model, items: ItemRows) -> tuple[str, ...]:
    """The views in their order, then public tables that a score reads beside them, then the client's own table."""
    views: Sequence[str] = ()
    if items.views_bjd is not None:
        views = algorithm.views or ("items",)
    tables = [name for name in items.tables if name not in ("views", "D")]
    return (*views, *tables, *(() if items.own is None else ("own table",)))


def coalitions(size: int, *, linear: bool) -> tuple[np.ndarray, np.ndarray]:
    """Which parts are in, mask [s, p], the first row none; and what the scores count for each part, [s, p].

    Linear: every part alone against none. Otherwise all 2^p sets, and the coefficients of Shapley values.
    """
    if linear:
        return np.eye(size + 1, size, k=-1), np.vstack([-np.ones((1, size)), np.eye(size)])
    mask_sp = np.array(list(itertools.product((0.0, 1.0), repeat=size))).reshape(-1, size)
    inside_s = mask_sp.sum(axis=1)
    with_part = [_share(int(n) - 1, size) if n else 0.0 for n in inside_s]
    without = [-_share(int(n), size) if n < size else 0.0 for n in inside_s]
    return mask_sp, np.where(mask_sp > 0, np.array(with_part)[:, None], np.array(without)[:, None])


def _share(before: int, size: int) -> float:
    """Share of the orders of `size` parts in which a given set of `before` parts comes right before a given part."""
    return math.factorial(before) * math.factorial(size - before - 1) / math.factorial(size)


def _of_score_views(algorithm: Algorithm, params: Snapshot, views: ScoreViews, slot: Bucket) -> Parts:
    """Every score view alone, and the parts of the trained logits, where there are any."""
    host = algorithm.model.host
    weight_k = view_weights(algorithm.model, params.private, params.broadcast.head, views.basis, slot)[0]
    weighed_ik = shaped(whole_views(views, slot)[0]) * weight_k[None]
    alone_vi = jnp.sum(weighed_ik.reshape(len(weighed_ik), -1, len(VIEWS)), axis=1).T  # over the shapes of a view
    if not host.trains_items:
        return Parts(alone_vi, tuple(VIEWS), True)
    parts = _of_model(algorithm, params, slot)
    total_i = given(host.combine)(jnp.sum(parts.value_pi, axis=0), jnp.zeros_like(alone_vi[0]))
    trained_pi = as_standardised(parts.value_pi, total_i)
    names = (*VIEWS, *(f"trained {name}" for name in parts.names))
    return Parts(jnp.concatenate([alone_vi, trained_pi]), names, parts.exact)


def view_history_parts(algorithm: Algorithm, params: Snapshot, slot: Bucket, item_b: Array) -> Array:
    """What every item of the history adds to some scores through score views, [l, b].

    A view is a sum over the history before it is standardised and shaped; a shape t(z) is taken as its chord,
    t(z) / z, so that the items of a history sum to what the views add.
    """
    views = params.prior
    assert isinstance(views, ScoreViews)
    z_bv = whole_views(views, slot)[0][item_b]
    part_bv = _of_score_views(algorithm, params, views, slot).value_pi[: z_bv.shape[1], item_b].T
    weight_k = view_weights(algorithm.model, params.private, params.broadcast.head, views.basis, slot)[0]
    weight_v = jnp.sum(weight_k.reshape(-1, len(VIEWS)), axis=0)  # every shape is z near zero
    slope_bv = jnp.where(jnp.abs(z_bv) > 1e-6, part_bv / jnp.where(z_bv == 0, 1.0, z_bv), weight_v[None])
    return jnp.einsum("bv,lbv->lb", slope_bv, history_views(views, slot, item_b))
