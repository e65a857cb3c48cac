"""A model is a host in a variant: what the server publishes and how a client scores items with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.models.hosts.host import Host, ItemRows
from fedvlr_jax.models.own_table import OwnRows, SpannedTable, TableRows
from fedvlr_jax.models.router import Phi
from fedvlr_jax.models.router_logits import mean_rows
from fedvlr_jax.models.variants import Variant
from fedvlr_jax.types import Array, Content, PyTree

ITEM_TABLE = "item_table"
"""Name of a client's private item table [i, d] among its private parameters, where a host keeps one (FedRAP)."""


class Broadcast(NamedTuple):
    """What the server sends in a round; a client's upload is a cotangent of the same structure.

    Attributes:
      rows: row tables with leading item axis, ``"views"`` [i, j, d] first; a client needs only rows it touches.
      head: public parameters that every client reads whole: the host's, or ``{"host", "router"}`` where the router
        has public ones too.
    """

    rows: dict[str, Array]
    head: PyTree


class Download(NamedTuple):
    """The public side of one client's loss. Its cotangent is accumulated over the local steps.

    Attributes:
      rows: the client's rows of ``Broadcast.rows`` (or all of them).
      pooled_jd: what the router reads of the input history, the mean of every view [j, d] in the paper's, or what a
        router in closed form needs of it; None for variants without a router. It is a function of `rows` and constant
        within a round, so it is formed, and pulled back, once a round.
      head: as in Broadcast.
    """

    rows: PyTree
    pooled_jd: PyTree
    head: PyTree


class Upload(NamedTuple):
    """What one client sends back: the cotangent of the broadcast, summed over its local steps.

    Attributes:
      ids_n: int32 [n], distinct items in ascending order, then padding; None means all items in order. Inside a
        simulation items may also repeat (`federated.client.make_gathered_update`): their rows then add up.
      rows: cotangent of ``Broadcast.rows`` at these items.
      head: cotangent of ``Broadcast.head``.
    """

    ids_n: Array | None
    rows: PyTree
    head: PyTree


class Model(NamedTuple):
    """A host in a variant, as pure functions.

    Attributes:
      init_public: ``(key) -> {"variant": ..., "host": {"tables", "head"}}``.
      init_private: ``(key) -> {"theta", "variant"[, "item_table"]}`` of one client.
      publish: ``(public params, content) -> Broadcast``, differentiable: its pull-back is the server's gradient.
      penalty: ``(public params, round) -> []``, terms of D outside the views.
      host, variant: what the model consists of.
      rounded: the type that public item rows are rounded to when a client scores them, and with them the factors of
        the products they enter; sums, states and cotangents keep theirs. None rounds nothing.
    """

    init_public: Callable[[Array], PyTree]
    init_private: Callable[[Array], PyTree]
    publish: Callable[[PyTree, Content], Broadcast]
    penalty: Callable[[PyTree, Array], Array]
    host: Host
    variant: Variant
    rounded: jnp.dtype | None = None


def make_model(host: Host, variant: Variant, num_items: int, dim: int, rounded: jnp.dtype | None = None) -> Model:
    """Joins a host and a variant over `num_items` items of width `dim`; for `rounded` see `Model`."""

    def init_public(key: Array) -> PyTree:
        key_variant, key_host = jax.random.split(key)
        params = {"variant": variant.init_public(key_variant), "host": host.init_public(key_host)}
        return _default_float(params)

    def init_private(key: Array) -> PyTree:
        key_theta, key_variant = jax.random.split(key)
        private = {"theta": host.init_private(key_theta), "variant": variant.init_private(key_variant)}
        if host.private_item_table:
            private[ITEM_TABLE] = jnp.zeros((num_items, dim))
        return _default_float(private)

    def publish(params: PyTree, content: Content) -> Broadcast:
        rows = variant.rows(params["variant"], content) | params["host"]["tables"]
        if host.reads_D:
            rows = rows | {"D": params["variant"]["D"]}
        head = params["host"]["head"]
        return Broadcast(
            rows, {"host": head, "router": params["variant"]["router"]} if variant.shares_router else head
        )

    def penalty(params: PyTree, round_: Array) -> Array:
        return host.server_penalty(params["variant"].get("D", jnp.zeros((0, dim))), round_)

    return Model(init_public, init_private, publish, penalty, host, variant, rounded)


def derived(model: Model, broadcast: Broadcast) -> Broadcast:
    """The broadcast with what the host makes of it for all clients alike (`Host.derive`) in place of its rows.

    Differentiable: the sum of the clients' cotangents of the result, pulled back, is the sum of those of `broadcast`.
    Its rows are not for bfloat16, which rounds what was broadcast.
    """
    derive = model.host.derive
    if derive is None or model.rounded is not None:
        return broadcast
    weighed = model.variant.router is not None
    return broadcast._replace(rows=derive(broadcast.rows, host_head(model, broadcast.head), weighed))


def _default_float(params: PyTree) -> PyTree:
    """Parameters in JAX's default float, so that the whole model runs in float64 where that is enabled."""
    return jax.tree.map(lambda x: x.astype(float), params)


def take_rows(rows: PyTree, position_b: Array) -> PyTree:
    """Rows of every table at `position_b`; zeros at padding."""
    return jax.tree.map(lambda x: x.at[position_b].get(mode="fill", fill_value=0), rows)


def pool(
    views_njd: Array, position_l: Array, weight_l: Array, read: Callable[[Array, Array], Array] = mean_rows
) -> Array:
    """What a router reads of the history's rows; h_u by view, [j, d], in the paper's."""
    return read(take_rows(views_njd, position_l), weight_l)


def phi_of(model: Model, private: PyTree, head: PyTree) -> PyTree:
    """The parameters of a client's router: its own, with those it downloaded where the router has public ones."""
    own = private["variant"]["phi"]
    return Phi(head["router"], own) if model.variant.shares_router else own


def host_head(model: Model, head: PyTree) -> PyTree:
    """The host's part of what was downloaded whole."""
    return head["host"] if model.variant.shares_router else head


def make_download(model: Model, rows: dict[str, Array], head: PyTree, position_l: Array, weight_l: Array) -> Download:
    """The download of a client whose history is at `position_l` of the rows, with weights [l]."""
    router = model.variant.router
    return Download(rows, None if router is None else pool(rows["views"], position_l, weight_l, router.read), head)


def item_rows(
    model: Model,
    private: PyTree,
    download: Download,
    rows_b: PyTree,
    own: Array | SpannedTable | None = None,
    offset_bd: Array | None = None,
) -> ItemRows:
    """The given rows as the client sees them: its router weights and its private rows (`own` [b, d]) attached."""
    router = model.variant.router
    w_j = None if router is None else router.weights(phi_of(model, private, download.head), download.pooled_jd)
    if model.rounded is not None:
        rows_b = jax.tree.map(lambda x: x.astype(model.rounded), rows_b)
    rows: OwnRows | None = own if own is None or isinstance(own, SpannedTable) else TableRows(own, rows_b.get("D"))
    return ItemRows(rows_b.get("views"), w_j, rows_b, rows, offset_bd)


def score(model: Model, private: PyTree, head: PyTree, items: ItemRows) -> Array:
    """Logits s_ui of the rows in `items`, [b]: the host's score plus what the variant adds."""
    s_b = model.host.score(private["theta"], host_head(model, head), items)
    bonus = model.variant.bonus
    return s_b if bonus is None else s_b + bonus(private["variant"], items.tables)
