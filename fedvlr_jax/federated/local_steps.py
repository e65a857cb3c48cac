"""The local steps of a round: one client's private state in, moved state and summed cotangents out.

What is read and how losses are formed is left to the caller (`client.py`, `paths.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedvlr_jax.federated import objectives
from fedvlr_jax.federated.objectives import Draw
from fedvlr_jax.federated.step_loss import LocalSettings, trainable
from fedvlr_jax.models.model import Download, Model, item_rows
from fedvlr_jax.types import Array, PyTree


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
        if "item_table" in local.params:
            params = params | {"item_table": local.params["item_table"] - settings.table_lr * gradient["item_table"]}
        return Local(params, opt_state)

    return update


def make_solve(model: Model) -> Callable[[Download, PyTree, Draw], PyTree] | None:
    """The host's closed-form theta_u over all items, ``(download, params, draw) -> params``, or None."""
    if model.host.solve is None:
        return None

    def solve(download: Download, params: PyTree, draw: Draw) -> PyTree:
        items = item_rows(model, params, download, download.rows, params.get("item_table"))
        positive_i = objectives.multi_hot(draw.positive_l, draw.target_l, items.views_bjd.shape[0])
        return params | {"theta": model.host.solve(params["theta"], download.head, items, positive_i)}

    return solve


class ClosedFormSteps(NamedTuple):
    """What the steps of a round work on with the router in closed form.

    Attributes:
      model: with the router's mix over summarised histories.
      download, local: as the steps see them.
      spread: cotangent of ``download.pooled_jd`` -> cotangent of the pooled history.
      finish: the stepped Local -> that of the plain router.
    """

    model: Model
    download: Download
    local: Local
    spread: Callable[[PyTree], PyTree]
    finish: Callable[[Local], Local]


def closed_form(
    model: Model, settings: LocalSettings, download: Download, local: Local, over_clients: Callable = lambda f: f
) -> ClosedFormSteps:
    """The steps of a round with the router in closed form, or unchanged where settings or variant lack it.

    Args:
      model, settings, download, local: as they are without it.
      over_clients: `jax.vmap` where `local` and the pooled history have a leading axis of clients.
    """
    if not settings.closed_form or model.variant.closed_form is None:
        return ClosedFormSteps(model, download, local, lambda cotangent: cotangent, lambda stepped: stepped)
    way, private, pooled = model.variant.closed_form, local.params["variant"], download.pooled_jd
    summary, spread = jax.vjp(lambda pooled: over_clients(way.summarise_history)(private, pooled), pooled)

    def finish(stepped: Local) -> Local:
        variant = over_clients(way.expand)(private, pooled, stepped.params["variant"])
        return stepped._replace(params=stepped.params | {"variant": variant})

    return ClosedFormSteps(
        model._replace(variant=model.variant._replace(mix=way.mix)),
        download._replace(pooled_jd=summary),
        local._replace(params=local.params | {"variant": over_clients(way.start)(private)}),
        lambda cotangent: spread(cotangent)[0],
        finish,
    )
