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
from fedvlr_jax.losses import Draw, Objective
from fedvlr_jax.model import Broadcast, Download, Model, item_rows, pool, score, take_rows
from fedvlr_jax.types import Array, PyTree


class LocalSettings(NamedTuple):
    """How a client trains.

    Attributes:
      objective: what it minimises.
      optimizer: any optax transformation, for theta_u and the variant's private parameters.
      table_lr: rate of plain SGD on the rows of a private item table (FedRAP).
      steps: A, local steps a round.
      l2: weight of 0.5 ||.||^2 on the private parameters used in a step.
      move_items: the client's rows move during its local steps (the hosts' original semantics) instead of
        staying fixed within the round (Algorithm 1).
      item_lr: rate of these moves.
      unroll: compile the steps one after the other instead of as a loop; slower to compile, and XLA's cost analysis
        then counts all of them (it counts a loop's body once).
    """

    objective: Objective
    optimizer: optax.GradientTransformation
    table_lr: float
    steps: int
    l2: float = 0.0
    move_items: bool = False
    item_lr: float = 0.0
    unroll: bool = False


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


def trainable(private: PyTree) -> PyTree:
    """The private parameters that the client optimizer steps (everything but tables over items)."""
    return {k: v for k, v in private.items() if k not in ("own", "offset")}


def make_loss(model: Model, settings: LocalSettings, round_: Array, *, all_items: bool) -> Callable:
    """The loss of one client, ``(download, private, draw) -> []``, for one local step.

    Args:
      model: host and variant.
      settings: objective and L2 weight.
      round_: int32 [], for curricula.
      all_items: score every row of the download and pick (one matrix product over the clients that share the
        rows), instead of gathering the rows of the step. The value is the same.
    """
    host, objective = model.host, settings.objective

    def on_all(download: Download, private: PyTree, draw: Draw) -> tuple:
        items = item_rows(model, private, download, download.rows, private.get("own"), private.get("offset"))
        s_i = score(model, private, download.head, items)
        if objective.all_items:
            return objective.loss(draw, s_i), items, jnp.full(s_i.shape, 1 / s_i.size)
        s_l, s_ln = (s_i.at[x].get(mode="fill", fill_value=0.0) for x in (draw.positive_l, draw.negative_aln))
        usage_i = jnp.zeros_like(s_i)
        for position, weight in zip((draw.positive_l, draw.negative_aln), _usage(draw), strict=True):
            usage_i = usage_i.at[position].add(weight, mode="drop")
        return objective.loss(draw, s_l, s_ln), items, usage_i

    def on_step(download: Download, private: PyTree, draw: Draw) -> tuple:
        position_b = jnp.concatenate([draw.positive_l, draw.negative_aln.reshape(-1)])
        own_bd, offset_bd = (take_rows(private.get(k), position_b) for k in ("own", "offset"))
        items = item_rows(model, private, download, take_rows(download.rows, position_b), own_bd, offset_bd)
        s_b = score(model, private, download.head, items)
        length = draw.positive_l.size
        s_l, s_ln = s_b[:length], s_b[length:].reshape(draw.negative_aln.shape)
        usage_b = jnp.concatenate([w.reshape(-1) for w in _usage(draw)])
        return objective.loss(draw, s_l, s_ln), items, usage_b

    def loss(download: Download, private: PyTree, draw: Draw) -> Array:
        value, items, usage_b = (on_all if all_items else on_step)(download, private, draw)
        value = value + host.regulariser(private["theta"], items, usage_b, round_)
        if not losses.is_off(settings.l2):
            value = value + 0.5 * settings.l2 * optax.tree.norm(trainable(private), squared=True)
            if "own" in private:
                value = value + 0.5 * settings.l2 * jnp.sum(usage_b * jnp.sum(items.own_bd**2, axis=-1))
        return value

    return loss


def _usage(draw: Draw) -> tuple[Array, Array]:
    """Weights of the rows used in a step, [l] and [l, n], summing to one over both."""
    n = draw.negative_aln.shape[-1]
    weight_l = draw.target_l / jnp.maximum(jnp.sum(draw.target_l), 1.0) / (1 + n)
    return weight_l, jnp.broadcast_to(weight_l[:, None], (weight_l.size, n))


def local_steps(
    gradients: Callable,
    update: Callable,
    solve: Callable | None,
    settings: LocalSettings,
    alternate: bool,
    download: Download,
    local: Local,
    draw: Draw,
) -> tuple[Local, Download, Array]:
    """A local steps of one client, or of a chunk of clients at once.

    Args:
      gradients: ``(download, params, draw) -> (loss, cotangent of the download, gradient of params)``.
      update: ``(gradient, Local) -> Local``, the client optimizer.
      solve: ``(download, params, draw) -> params`` before every step (closed-form user factors), or None.
      settings: steps and item semantics.
      alternate: take the public gradient after the private step (PFedRec) instead of at the same point.
      download, local, draw: inputs; ``draw.negative_aln`` has its step axis leading.

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
        return (local, jax.tree.map(jnp.add, total, cotangent)), loss

    zero = jax.tree.map(jnp.zeros_like, download)
    (local, total), loss_a = jax.lax.scan(
        step, (local, zero), draw.negative_aln, length=settings.steps, unroll=settings.unroll
    )
    return local, total, loss_a


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
    every = jnp.concatenate([draw.positive_l, draw.negative_aln.reshape(-1)])
    ids_n = jnp.unique(every, size=every.size, fill_value=num_items)

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
        loss = make_loss(model, settings, round_, all_items=settings.objective.all_items)

        def gradients(download: Download, params: PyTree, draw: Draw) -> tuple:
            value, (cotangent, gradient) = jax.value_and_grad(loss, (0, 1))(download, params, draw)
            return value, cotangent, gradient

        local, total, loss_a = local_steps(
            gradients,
            make_update(settings),
            make_solve(model),
            settings,
            model.host.alternate,
            download,
            local,
            work.draw,
        )
        return local, Upload(work.ids_n, pull(total), total.head), loss_a

    return local_update


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
