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

from fedvlr_jax.federated.local_steps import Local, closed_form, local_steps, make_solve, make_update
from fedvlr_jax.federated.objectives import Draw
from fedvlr_jax.federated.step_loss import LocalSettings, make_loss, make_step_loss, put_rows, step_positions
from fedvlr_jax.models.model import Broadcast, Download, Model, pool, take_rows
from fedvlr_jax.types import Array, PyTree


class Upload(NamedTuple):
    """What one client sends back: the cotangent of the broadcast, summed over its local steps.

    Attributes:
      ids_n: int32 [n], distinct items in ascending order, then padding; None means all items in order. Inside a
        simulation items may also repeat (`make_gathered_update`): their rows then add up.
      rows: cotangent of ``Broadcast.rows`` at these items.
      head: cotangent of ``Broadcast.head``.
    """

    ids_n: Array | None
    rows: PyTree
    head: PyTree


class ClientBatch(NamedTuple):
    """One client's work of a round.

    Attributes:
      ids_n: int32 [n], the distinct items it touches in ascending order, then padding; None means all items.
      draw: what it trains on, as positions in these rows.
    """

    ids_n: Array | None
    draw: Draw


def draw_batch(
    settings: LocalSettings, num_items: int, history_l: Array, key: Array, *, touched_rows: bool
) -> ClientBatch:
    """Draws one client's work for a round; with `touched_rows` it is confined to the rows it touches."""
    draw = settings.objective.draw(key, history_l)
    if not touched_rows or settings.objective.all_items:
        return ClientBatch(None, draw)
    every = step_positions(draw)  # of all steps at once
    # Distinct ids in ascending order, then padding; two sorts are less work than jnp.unique, which counts as well.
    sorted_n = jnp.sort(every)
    is_first_n = jnp.concatenate([jnp.ones(1, bool), sorted_n[1:] != sorted_n[:-1]])
    ids_n = jnp.sort(jnp.where(is_first_n, sorted_n, num_items))

    def position(ids: Array) -> Array:
        found = jnp.searchsorted(ids_n, ids.reshape(-1), method="sort").reshape(ids.shape)
        return jnp.where(ids < num_items, found, every.size).astype(jnp.int32)

    return ClientBatch(
        ids_n, draw._replace(positive_l=position(draw.positive_l), negative_aln=position(draw.negative_aln))
    )


def make_local_update(model: Model, settings: LocalSettings) -> Callable:
    """The function that runs on a device.

    Returns:
      ``local_update(broadcast, local, batch, round) -> (Local, Upload, loss_a)``. The rows of a private item
      table, ``local.params["item_table"]``, are those at ``batch.ids_n`` (all of them where that is None).
    """

    def local_update(
        broadcast: Broadcast, local: Local, batch: ClientBatch, round_: Array
    ) -> tuple[Local, Upload, Array]:
        rows = broadcast.rows if batch.ids_n is None else take_rows(broadcast.rows, batch.ids_n)
        download, pull = download_of(model, rows, broadcast.head, batch.draw)
        stepped, download, local, spread, finish = closed_form(model, settings, download, local)
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
            batch.draw,
            (lambda rows_ab: _sum_steps(rows_ab, batch.draw, download.rows)) if apart else None,
        )
        total = total._replace(pooled_jd=spread(total.pooled_jd))
        return finish(local), Upload(batch.ids_n, pull(total), total.head), loss_a

    return local_update


def make_gathered_update(model: Model, settings: LocalSettings) -> Callable:
    """`make_local_update` for a simulation, which need not tell a client's distinct rows apart.

    Every step reads its rows where the broadcast lies, and their cotangents leave one by one: no step and no upload
    depends on the catalogue. For objectives over sampled items, without moving items or private item tables.

    Returns:
      As `make_local_update`; the upload's items are the positives and then the negatives of every step.
    """

    def gathered_update(
        broadcast: Broadcast, local: Local, batch: ClientBatch, round_: Array
    ) -> tuple[Local, Upload, Array]:
        draw = batch.draw
        length = draw.positive_l.size
        rows_l = take_rows(broadcast.rows, draw.positive_l)  # the same in all steps, and all that pooling reads
        place_l = jnp.arange(length, dtype=jnp.int32)
        download, pull = download_of(model, rows_l, broadcast.head, draw._replace(positive_l=place_l))
        stepped, download, local, spread, finish = closed_form(model, settings, download, local)
        loss = make_step_loss(stepped, settings, round_)

        def gradients(download: Download, params: PyTree, draw: Draw) -> tuple:
            drawn = take_rows(broadcast.rows, draw.negative_aln.reshape(-1))
            rows = jax.tree.map(lambda *x: jnp.concatenate(x), rows_l, drawn)
            value, (cotangent, gradient) = jax.value_and_grad(loss, (0, 1))(
                download._replace(rows=rows), params, draw
            )
            return value, cotangent, gradient

        update, solve = make_update(settings), make_solve(stepped)
        local, total, loss_a = local_steps(
            gradients, update, solve, settings, model.host.alternate, download, local, draw, lambda rows_ab: rows_ab
        )
        positive, negative = _split_steps(total.rows, length)
        pulled = pull(total._replace(rows=positive, pooled_jd=spread(total.pooled_jd)))
        rows = jax.tree.map(lambda *x: jnp.concatenate(x), pulled, negative)
        return finish(local), Upload(step_positions(draw), rows, total.head), loss_a

    return gathered_update


def _split_steps(rows_ab: PyTree, length: int) -> tuple[PyTree, PyTree]:
    """The cotangents of each step's rows [a, l + l n, ...] -> of the positives (summed over steps), of the rest.

    The positives are the same rows in every step: [l, ...]. The negatives are [a l n, ...].
    """
    positive = jax.tree.map(lambda x: jnp.sum(x[:, :length], axis=0), rows_ab)
    return positive, jax.tree.map(lambda x: x[:, length:].reshape(-1, *x.shape[2:]), rows_ab)


def _sum_steps(rows_ab: PyTree, draw: Draw, like: PyTree) -> PyTree:
    """Each step's cotangents of its rows [a, l + l n, ...], added up in tables shaped as `like`."""
    positive, negative = _split_steps(rows_ab, draw.positive_l.size)

    def add(positive: Array, negative: Array, table: Array) -> Array:
        return put_rows(jnp.concatenate([positive, negative]), step_positions(draw), table.shape[0])

    return jax.tree.map(add, positive, negative, like)


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
