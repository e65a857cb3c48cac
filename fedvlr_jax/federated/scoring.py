"""How a trained client scores the whole catalogue: its private state against the latest broadcast."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.agreed import Prior, ScoreViews, ViewBasis
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.federated import sampling
from fedvlr_jax.federated.client import draw_batch
from fedvlr_jax.federated.local_steps import make_solve
from fedvlr_jax.federated.objectives import Draw
from fedvlr_jax.federated.private_state import OFFSET, gather_clients
from fedvlr_jax.federated.score_views import shaped, whole_views
from fedvlr_jax.federated.step_loss import LocalSettings, make_loss
from fedvlr_jax.models.model import (
    ITEM_TABLE,
    Broadcast,
    Download,
    Model,
    item_rows,
    make_download,
    phi_of,
    score,
    take_rows,
)
from fedvlr_jax.types import Array, BlockScore, Bucket, PrivateState, PyTree, given


class Snapshot(NamedTuple):
    """What scoring reads: the broadcast of the latest public parameters, all private states, the key, the round.

    `prior` is None for hosts that have none.
    """

    broadcast: Broadcast
    private: PrivateState
    key: Array
    round: Array
    prior: Prior | ScoreViews | None = None


class Ready(NamedTuple):
    """A chunk of clients about to score: all that does not depend on which items they score.

    Attributes:
      private: private parameters [c, ...], solved where the host has closed-form user factors.
      pooled_cjd: the whole history of each client by view, None for variants without a router.
      tuned: ``(ids_cn, s_cn)``, rows that a host fine-tunes before scoring, and their scores; ids None means all
        items in order. None for other hosts.
    """

    private: PyTree
    pooled_cjd: Array | None
    tuned: tuple[Array | None, Array] | None


def score_chunk(model: Model, settings: LocalSettings, num_items: int, snapshot: Snapshot, chunk: Bucket) -> Array:
    """Logits of all items for a chunk of clients, [c, i]; each reads its whole train history.

    A host with closed-form user factors solves them first; a host that fine-tunes its own item rows does so first
    (with randomness that depends on the client only): `settings.objective` then draws ``tune_steps`` steps.
    """
    if isinstance(snapshot.prior, ScoreViews):
        return _with_views(model, settings, num_items, snapshot, snapshot.prior, chunk)
    s_ci = score_items(model, snapshot, make_ready(model, settings, num_items, snapshot, chunk))
    return s_ci if snapshot.prior is None else _with_prior(model, snapshot.prior, chunk, s_ci)


def make_ready(model: Model, settings: LocalSettings, num_items: int, snapshot: Snapshot, chunk: Bucket) -> Ready:
    """The part of `score_chunk` that is done once, whatever items are scored."""
    local_c = gather_clients(snapshot.private, chunk.state_row, None)
    key_c = sampling.entity_keys(sampling.stream(snapshot.key, sampling.TUNE), chunk.user)

    def one(local: PrivateState, history_l: Array, key: Array) -> Ready:
        private, download = _ready(model, num_items, snapshot.broadcast, local, history_l)
        tuned = None
        if model.host.tune_steps:
            tuned = _tuned_rows(model, settings, num_items, snapshot, download, private, history_l, key)
        return Ready(private, download.pooled_jd, tuned)

    return jax.vmap(one)(local_c, chunk.history, key_c)


def score_items(model: Model, snapshot: Snapshot, ready: Ready, first: Array | int = 0, size: int = 0) -> Array:
    """Logits of the items ``first <= i < first + size``, [c, b], or of all items (size 0); without a prior."""

    def some(x: Array) -> Array:
        return jax.lax.dynamic_slice_in_dim(x, first, size) if size else x

    rows = jax.tree.map(some, snapshot.broadcast.rows)

    def one(client: Ready) -> Array:
        private, download = client.private, Download(rows, client.pooled_cjd, snapshot.broadcast.head)
        own = some(private[ITEM_TABLE]) if ITEM_TABLE in private else None
        s_b = score(model, private, download.head, item_rows(model, private, download, rows, own))
        if client.tuned is None:
            return s_b
        ids_n, s_n = client.tuned
        if ids_n is None:
            return some(s_n)
        return s_b.at[jnp.where(ids_n < first, s_b.size, ids_n - first)].set(s_n, mode="drop")

    return jax.vmap(one)(ready)


def make_block_score(model: Model, tuning: LocalSettings, num_items: int, size: int) -> BlockScore | None:
    """`score_chunk` of `size` items at a time; None where that is all of them.

    Raises:
      ConfigError: for a host that needs the scores of all items.
    """
    if not 0 < size < num_items:
        return None
    if model.host.combine is not None or model.host.view_weights is not None:
        raise ConfigError(
            f"eval.item_chunk: expected 0 for a host that blends the scores of all items (host.name fedprior or "
            f"fedblend), found {size}"
        )
    return BlockScore(
        prepare=lambda params, chunk: make_ready(model, tuning, num_items, params, chunk),
        score=lambda params, ready, first: score_items(model, params, ready, first, size),
        num_items=num_items,
        size=size,
    )


def _with_views(
    model: Model, settings: LocalSettings, num_items: int, snapshot: Snapshot, views: ScoreViews, chunk: Bucket
) -> Array:
    """Every client's weighted sum of its views, joined with its trained logits where the host trains any."""
    host, s_ci = model.host, None
    if host.trains_items:
        s_ci = score_items(model, snapshot, make_ready(model, settings, num_items, snapshot, chunk))
    weight_ck = view_weights(model, snapshot.private, snapshot.broadcast.head, views.basis, chunk)
    blended_ci = jnp.einsum("cik,ck->ci", shaped(whole_views(views, chunk)), weight_ck)
    return blended_ci if s_ci is None else jax.vmap(given(host.combine))(s_ci, blended_ci)


def view_weights(model: Model, private: PrivateState, head: PyTree, basis: ViewBasis, chunk: Bucket) -> Array:
    """The weights of the score views in each shape that each client is ranked with, [c, k]; only for hosts that rank
    by them. They are the client's own, or with `Host.swaps` those of the next one by id.

    Args:
      model: the host.
      private: states of clients, among which `chunk` has its own.
      head: public, as in a broadcast.
      basis: of the weights.
      chunk: clients.
    """
    row_c = chunk.state_row
    if model.host.swaps:  # all states are at hand, in the order of ids
        row_c = (row_c + 1) % jax.tree.leaves(private.params["theta"])[0].shape[0]
    theta_c = gather_clients(private, row_c, None).params["theta"]
    return jax.vmap(given(model.host.view_weights), in_axes=(0, None, None))(theta_c, head, basis)


def _with_prior(model: Model, prior: Prior, chunk: Bucket, s_ci: Array) -> Array:
    """Logits that are blended over items with like features, joined with each client's row of prior scores."""
    blended_ci = s_ci @ prior.blend_ii.T
    prior_ci = prior.score_ui.at[chunk.user].get(mode="fill", fill_value=0)
    return jax.vmap(given(model.host.combine))(blended_ci, prior_ci)


def router_weights(model: Model, num_items: int, snapshot: Snapshot, chunk: Bucket) -> Array:
    """Router weights w_uj of a chunk of clients, [c, j]; only for variants with a router."""
    local_c = gather_clients(snapshot.private, chunk.state_row, None)

    def one(local: PrivateState, history_l: Array) -> Array:
        private, download = _ready(model, num_items, snapshot.broadcast, local, history_l)
        return given(model.variant.router).weights(phi_of(model, private, download.head), download.pooled_jd)

    return jax.vmap(one)(local_c, chunk.history)


def _ready(
    model: Model, num_items: int, broadcast: Broadcast, local: PrivateState, history_l: Array
) -> tuple[PyTree, Download]:
    """The client's download over all items with its whole history pooled, and its (solved) private parameters."""
    real_l = (history_l < num_items).astype(float)
    download = make_download(model, broadcast.rows, broadcast.head, history_l, real_l)
    solve = make_solve(model)
    if solve is None:
        return local.params, download
    return solve(download, local.params, Draw(history_l, real_l, real_l, None)), download


def _tuned_rows(
    model: Model,
    settings: LocalSettings,
    num_items: int,
    snapshot: Snapshot,
    download: Download,
    private: PyTree,
    history_l: Array,
    key: Array,
) -> tuple[Array | None, Array]:
    """The rows that the client fine-tunes before scoring (PFedRec), and their scores; ids None means all items."""
    host = model.host
    batch = draw_batch(settings, num_items, history_l, key, touched_rows=True)
    rows = download.rows if batch.ids_n is None else take_rows(download.rows, batch.ids_n)
    own = private.get(ITEM_TABLE)
    if own is not None and batch.ids_n is not None:
        private = private | {ITEM_TABLE: take_rows(own, batch.ids_n)}
    at = download._replace(rows=rows)
    loss = make_loss(model, settings, snapshot.round, all_items=settings.objective.all_items)

    def step(offset_nd: Array, negative: Array | None) -> tuple[Array, None]:
        draw = batch.draw._replace(negative_aln=negative)
        gradient_nd = jax.grad(lambda x: loss(at, private | {OFFSET: x}, draw))(offset_nd)
        return offset_nd - host.tune_lr * gradient_nd, None

    zero_nd = jnp.zeros_like(rows["views"][:, 0])
    offset_nd, _ = jax.lax.scan(step, zero_nd, batch.draw.negative_aln, length=host.tune_steps)
    s_n = score(model, private, at.head, item_rows(model, private, at, rows, private.get(ITEM_TABLE), offset_nd))
    return batch.ids_n, s_n
