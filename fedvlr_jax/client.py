"""What runs on a device: one client's round, from its download to its upload (Algorithm 1, client side).

The public parameters reach a client only through the broadcast, so it differentiates its loss with respect to
what it downloaded, accumulates that cotangent over its local steps, and uploads it. The server pulls the weighted
sum of all uploads back through the fusion once a round; because the pull-back is linear and the same for
everybody, this equals differentiating through the fusion in every client and step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedvlr_jax import losses
from fedvlr_jax.local_loss import LocalSettings, make_loss, make_step_loss, put_rows, step_positions, trainable
from fedvlr_jax.losses import Draw
from fedvlr_jax.model import Broadcast, Download, Model, item_rows, pool, take_rows
from fedvlr_jax.types import Array, PyTree


class Upload(NamedTuple):
    """What one client sends back: the cotangent of the broadcast, summed over its local steps.

    Attributes:
      ids_n: int32 [n], distinct items in ascending order, then padding; None means all items in order.
      rows: cotangent of ``Broadcast.rows`` at these items.
      head: cotangent of ``Broadcast.head``.
    """

    ids_n: Array | None
    rows: PyTree
    head: PyTree


class Local(NamedTuple):
    """A client's state in a round: its private parameters and its optimizer's state."""

    params: PyTree
    opt_state: PyTree


def local_steps(
    gradients: Callable,
    update: Callable,
    solve: Callable | None,
    settings: LocalSettings,
    alternate: bool,
    download: Download,
    local: Local,
    draw: Draw,
    collect: Callable[[PyTree], PyTree] | None = None,
) -> tuple[Local, Download, Array]:
    """A local steps of one client, or of a chunk of clients at once.

    Args:
      gradients: ``(download, params, draw) -> (loss, cotangent of the download, gradient of params)``.
      update: ``(gradient, Local) -> Local``, the client optimizer.
      solve: ``(download, params, draw) -> params`` before every step (closed-form user factors), or None.
      settings: steps and item semantics.
      alternate: take the public gradient after the private step (PFedRec) instead of at the same point.
      download, local, draw: inputs; ``draw.negative_aln`` has its step axis leading.
      collect: where the cotangents of the rows are those of each step's rows alone: joins them, ``[a, b, ...]`` to
        rows shaped like the download's. None where they already have that shape: they are added step by step.

    Returns:
      The stepped Local, the cotangent of the download summed over steps, and the losses by step.
    """

    def step(carry: tuple, negative: Array | None) -> tuple:
        local, total = carry
        at = download
        if settings.move_items:
            moved = jax.tree.map(lambda x, ct: x - settings.item_lr * ct, download.rows, total.rows)
            at = download._replace(rows=moved)
        step_draw = draw._replace(negative_aln=negative)
        if solve is not None:
            local = local._replace(params=solve(at, local.params, step_draw))
        loss, cotangent, gradient = gradients(at, local.params, step_draw)
        local = update(gradient, local)
        if alternate:
            _, cotangent, _ = gradients(at, local.params, step_draw)
        apart = None
        if collect is not None:
            apart, cotangent = cotangent.rows, cotangent._replace(rows=None)
        return (local, jax.tree.map(jnp.add, total, cotangent)), (loss, apart)

    summed = download if collect is None else download._replace(rows=None)
    zero = jax.tree.map(jnp.zeros_like, summed)
    (local, total), (loss_a, rows_ab) = jax.lax.scan(
        step, (local, zero), draw.negative_aln, length=settings.steps, unroll=settings.unroll
    )
    return local, total if collect is None else total._replace(rows=collect(rows_ab)), loss_a


def make_update(settings: LocalSettings) -> Callable[[PyTree, Local], Local]:
    """The client optimizer step ``(gradient, Local) -> Local``; a private item table takes plain SGD."""

    def update(gradient: PyTree, local: Local) -> Local:
        updates, opt_state = settings.optimizer.update(trainable(gradient), local.opt_state, trainable(local.params))
        params = optax.apply_updates(trainable(local.params), updates)
        if "own" in local.params:
            params = params | {"own": local.params["own"] - settings.table_lr * gradient["own"]}
        return Local(params, opt_state)

    return update


def make_solve(model: Model) -> Callable[[Download, PyTree, Draw], PyTree] | None:
    """The host's closed-form theta_u over all items, ``(download, params, draw) -> params``, or None."""
    if model.host.solve is None:
        return None

    def solve(download: Download, params: PyTree, draw: Draw) -> PyTree:
        items = item_rows(model, params, download, download.rows, params.get("own"))
        positive_i = losses.multi_hot(draw.positive_l, draw.target_l, items.views_bjd.shape[0])
        return params | {"theta": model.host.solve(params["theta"], download.head, items, positive_i)}

    return solve


class Work(NamedTuple):
    """One client's work of a round.

    Attributes:
      ids_n: int32 [n], the distinct items it touches in ascending order, then padding; None means all items.
      draw: what it trains on, as positions in these rows.
    """

    ids_n: Array | None
    draw: Draw


def draw_work(settings: LocalSettings, num_items: int, history_l: Array, key: Array, *, touched_rows: bool) -> Work:
    """Draws one client's work for a round; with `touched_rows` it is confined to the rows it touches."""
    draw = settings.objective.draw(key, history_l)
    if not touched_rows or settings.objective.all_items:
        return Work(None, draw)
    every = step_positions(draw)  # of all steps at once
    # Distinct ids in ascending order, then padding; two sorts are less work than jnp.unique, which counts as well.
    sorted_n = jnp.sort(every)
    is_first_n = jnp.concatenate([jnp.ones(1, bool), sorted_n[1:] != sorted_n[:-1]])
    ids_n = jnp.sort(jnp.where(is_first_n, sorted_n, num_items))

    def position(ids: Array) -> Array:
        found = jnp.searchsorted(ids_n, ids.reshape(-1), method="sort").reshape(ids.shape)
        return jnp.where(ids < num_items, found, every.size).astype(jnp.int32)

    return Work(ids_n, draw._replace(positive_l=position(draw.positive_l), negative_aln=position(draw.negative_aln)))


def make_local_update(model: Model, settings: LocalSettings) -> Callable:
    """The function that runs on a device.

    Returns:
      ``local_update(broadcast, local, work, round) -> (Local, Upload, loss_a)``. The rows of a private item
      table, ``local.params["own"]``, are those at ``work.ids_n`` (all of them where that is None).
    """

    def local_update(broadcast: Broadcast, local: Local, work: Work, round_: Array) -> tuple[Local, Upload, Array]:
        rows = broadcast.rows if work.ids_n is None else take_rows(broadcast.rows, work.ids_n)
        download, pull = download_of(model, rows, broadcast.head, work.draw)
        stepped, download, local, pull, finish = condense(model, settings, download, local, pull)
        # Items that move are read through the sum of all cotangents so far; else each step's rows suffice, and
        # the work of a step does not grow with what the client touches in the other steps.
        apart = not (settings.objective.all_items or settings.move_items)
        if apart:
            loss = make_step_loss(stepped, settings, round_)
        else:
            loss = make_loss(stepped, settings, round_, all_items=settings.objective.all_items)

        def gradients(download: Download, params: PyTree, draw: Draw) -> tuple:
            at = download._replace(rows=take_rows(rows, step_positions(draw))) if apart else download
            value, (cotangent, gradient) = jax.value_and_grad(loss, (0, 1))(at, params, draw)
            return value, cotangent, gradient

        local, total, loss_a = local_steps(
            gradients,
            make_update(settings),
            make_solve(stepped),
            settings,
            model.host.alternate,
            download,
            local,
            work.draw,
            (lambda rows_ab: _sum_steps(rows_ab, work.draw, download.rows)) if apart else None,
        )
        return finish(local), Upload(work.ids_n, pull(total), total.head), loss_a

    return local_update


def _sum_steps(rows_ab: PyTree, draw: Draw, like: PyTree) -> PyTree:
    """Each step's cotangents of its rows [a, l + l n, ...], added up in tables shaped as `like`."""
    length = draw.positive_l.size

    def add(x_ab: Array, table: Array) -> Array:
        # The positives are the same rows in every step: summed first, they are scattered once.
        positive, negative = jnp.sum(x_ab[:, :length], axis=0), x_ab[:, length:].reshape(-1, *x_ab.shape[2:])
        return put_rows(jnp.concatenate([positive, negative]), step_positions(draw), table.shape[0])

    return jax.tree.map(add, rows_ab, like)


def download_of(
    model: Model, rows: PyTree, head: PyTree, draw: Draw, pooling: Callable = pool
) -> tuple[Download, Callable[[Download], PyTree]]:
    """The download of a client (or chunk), and the pull-back of its cotangent to the rows.

    The pooled history is linear in the rows, so its cotangent is summed over the steps and pulled back once.
    """
    if model.variant.mix is None:
        return Download(rows, None, head), lambda cotangent: cotangent.rows
    pooled, unpool = jax.vjp(lambda views: pooling(views, draw.positive_l, draw.input_l), rows["views"])

    def pull(cotangent: Download) -> PyTree:
        (views,) = unpool(cotangent.pooled_jd)
        return cotangent.rows | {"views": cotangent.rows["views"] + views}

    return Download(rows, pooled, head), pull


def condense(
    model: Model,
    settings: LocalSettings,
    download: Download,
    local: Local,
    pull: Callable[[Download], PyTree],
    over_clients: Callable = lambda f: f,
) -> tuple[Model, Download, Local, Callable[[Download], PyTree], Callable[[Local], Local]]:
    """The steps of a round with the router in closed form, where the settings and the variant have it.

    Args:
      model, settings, download, local, pull: as they are without it.
      over_clients: `jax.vmap` where `local` and the pooled history have a leading axis of clients.

    Returns:
      (model, download, local, pull) for the steps, and ``finish``: the stepped Local -> that of the plain router.
    """
    if not settings.condense or model.variant.condensing is None:
        return model, download, local, pull, lambda stepped: stepped
    way, private, pooled = model.variant.condensing, local.params["variant"], download.pooled_jd
    condensed, spread = jax.vjp(lambda pooled: over_clients(way.condense)(private, pooled), pooled)

    def pull_condensed(cotangent: Download) -> PyTree:
        return pull(cotangent._replace(pooled_jd=spread(cotangent.pooled_jd)[0]))

    def finish(stepped: Local) -> Local:
        variant = over_clients(way.expand)(private, pooled, stepped.params["variant"])
        return stepped._replace(params=stepped.params | {"variant": variant})

    return (
        model._replace(variant=model.variant._replace(mix=way.mix)),
        download._replace(pooled_jd=condensed),
        local._replace(params=local.params | {"variant": over_clients(way.start)(private)}),
        pull_condensed,
        finish,
    )
