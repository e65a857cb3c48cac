"""The local round: what happens between a download and an upload, of one client or of a chunk of clients at once.

    rows --> pooled history --> closed form of the router --> A local steps --> back to the rows

`begin` and the function `finish` of its result are the way there and back, `local_steps` are the steps. Which rows
are read and who sums the cotangents is left to the caller (`client.py`, `paths.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedvlr_jax.federated import objectives
from fedvlr_jax.federated.objectives import Draw
from fedvlr_jax.federated.private_state import trainable
from fedvlr_jax.federated.step_loss import LocalSettings, StepLoss, step_positions, step_rows
from fedvlr_jax.models.model import ITEM_TABLE, Download, Model, host_head, item_rows, pool
from fedvlr_jax.models.own_table import RowsStep, step_table
from fedvlr_jax.types import Array, PrivateState, PyTree

Gradients = Callable[[Download, PyTree, Draw], tuple[Array, Download, PyTree]]
"""``(download, private parameters, draw of a step) -> (loss, cotangent of the download, gradient of parameters)``."""

Each = Callable[..., Callable[..., Any]]
"""How a function of one client is applied: `alone` to one, ``jax.vmap`` to each client of a chunk."""

_SHARED: Any = None
_OWN: Any = 0
PER_CLIENT = (Download(_SHARED, _OWN, _SHARED), 0, 0)
"""Axes of ``(download, private parameters, draw)`` in a chunk of clients that share rows and head."""


def alone(function: Callable[..., Any], in_axes: Any = 0) -> Callable[..., Any]:
    """The function itself: in the place of ``jax.vmap`` where there is one client."""
    del in_axes
    return function


class LocalRound(NamedTuple):
    """A local round that has begun.

    Attributes:
      model: host and variant as the steps use them: with the router in closed form where it has one.
      download, state: where the steps start.
      finish: ``(stepped state, summed cotangent of the download[, alive_c]) -> (state, cotangent of the rows)``;
        clients that are not alive add nothing to it.
    """

    model: Model
    download: Download
    state: PrivateState
    finish: Callable[..., tuple[PrivateState, PyTree]]


def begin(
    model: Model,
    settings: LocalSettings,
    rows: PyTree,
    head: PyTree,
    draw: Draw,
    state: PrivateState,
    each: Each = alone,
) -> LocalRound:
    """Pools the history and takes the router to its closed form, both once a round.

    Args:
      model, settings: as configured.
      rows, head: what was downloaded. The pooled history is a function of the rows that the steps do not change, so
        its cotangent is summed over the steps and pulled back once.
      draw: positions in `rows`.
      state: before the first step.
      each: `alone` for one client, ``jax.vmap`` for a chunk with shared rows.
    """
    router = model.variant.router
    if router is None:
        return LocalRound(
            model, Download(rows, None, head), state, lambda moved, total, keep=None: (moved, total.rows)
        )
    weigh = each(functools.partial(pool, read=router.read), in_axes=(None, 0, 0))
    pooled, unpool = jax.vjp(lambda views: weigh(views, draw.positive_l, draw.input_l), rows["views"])
    stepped, download, moving, unsummarise, restore = _take_closed_form(
        model, settings, Download(rows, pooled, head), state, each
    )

    def finish(moved: PrivateState, total: Download, alive_c: Array | None = None) -> tuple[PrivateState, PyTree]:
        pooled_jd = unsummarise(total.pooled_jd)
        if alive_c is not None:  # zero times NaN is NaN
            pooled_jd = keep_clients(alive_c, pooled_jd)
        state = restore(moved)
        (views,) = unpool(pooled_jd)
        return state, total.rows | {"views": total.rows["views"] + views}

    return LocalRound(stepped, download, moving, finish)


def _take_closed_form(
    model: Model, settings: LocalSettings, download: Download, state: PrivateState, each: Each
) -> tuple[Model, Download, PrivateState, Callable[[PyTree], PyTree], Callable[[PrivateState], PrivateState]]:
    """Model, download and state with the router in closed form, and the ways back of a cotangent and of the state.

    Everything is unchanged where the settings or the router lack a closed form.
    """
    router = model.variant.router
    if not settings.closed_form or router is None or router.closed_form is None:
        return model, download, state, lambda cotangent: cotangent, lambda moved: moved
    closed, phi, pooled = router.closed_form, state.params["variant"]["phi"], download.pooled_jd
    summary, unsummarise = jax.vjp(lambda pooled: each(closed.summarise)(phi, pooled), pooled)

    def with_phi(state: PrivateState, phi: PyTree) -> PrivateState:
        return state.replace(params=state.params | {"variant": state.params["variant"] | {"phi": phi}})

    def restore(moved: PrivateState) -> PrivateState:
        return with_phi(moved, each(closed.finish)(phi, pooled, moved.params["variant"]["phi"]))

    variant = model.variant._replace(router=router._replace(weights=closed.weights))
    return (
        model._replace(variant=variant),
        download._replace(pooled_jd=summary),
        with_phi(state, each(closed.start)(phi)),
        lambda cotangent: unsummarise(cotangent)[0],
        restore,
    )


def local_steps(
    gradients: Gradients,
    begun: LocalRound,
    settings: LocalSettings,
    download: Download,
    state: PrivateState,
    draw: Draw,
    *,
    each: Each = alone,
    collect: Callable[[PyTree], PyTree] | None = None,
    add_rows: Callable[[PyTree, PyTree, Draw], PyTree] | None = None,
) -> tuple[PrivateState, Download, Array]:
    """A local steps of one client, or of a chunk of clients at once.

    Args:
      gradients: of one step.
      begun: the local round; its model says what happens in a step.
      settings: steps, rates and item semantics.
      download, state: where the steps start, those of `begun` or parts of them.
      draw: ``draw.negative_aln`` has its step axis leading.
      each: as in `begin`.
      collect: where the cotangents of the rows are those of each step's rows alone: joins them, ``[a, b, ...]`` to
        rows shaped like the download's. None: they are added step by step.
      add_rows: ``(total, cotangent, draw of the step) -> total`` of the rows where a cotangent is of the step's rows
        alone. None where it has the shape of the download's.

    Returns:
      The stepped state, the cotangent of the download summed over steps, and the losses by step.
    """
    model = begun.model
    update, solve = each(make_update(settings)), make_solve(model)
    solve = None if solve is None else each(solve, in_axes=PER_CLIENT)

    def step(carry: tuple[PrivateState, Download], negative: Array | None) -> tuple[Any, Any]:
        state, total = carry
        at = download
        if settings.move_items:
            moved = jax.tree.map(lambda x, ct: x - settings.item_lr * ct, download.rows, total.rows)
            at = download._replace(rows=moved)
        step_draw = draw._replace(negative_aln=negative)
        if solve is not None:
            state = state.replace(params=solve(at, state.params, step_draw))
        loss, cotangent, gradient = gradients(at, state.params, step_draw)
        state = update(gradient, state)
        if model.host.alternate:  # the public gradient is taken after the private step (PFedRec)
            _, cotangent, _ = gradients(at, state.params, step_draw)
        apart = None
        if collect is not None:
            apart, cotangent = cotangent.rows, cotangent._replace(rows=None)
        if add_rows is None:
            return (state, jax.tree.map(jnp.add, total, cotangent)), (loss, apart)
        rows = add_rows(total.rows, cotangent.rows, step_draw)
        rest = jax.tree.map(jnp.add, total._replace(rows=None), cotangent._replace(rows=None))
        return (state, rest._replace(rows=rows)), (loss, apart)

    summed = download if collect is None else download._replace(rows=None)
    zero = jax.tree.map(jnp.zeros_like, summed)
    (state, total), (loss_a, rows_ab) = jax.lax.scan(
        step, (state, zero), draw.negative_aln, length=settings.steps, unroll=settings.unroll
    )
    return state, total if collect is None else total._replace(rows=collect(rows_ab)), loss_a


def own_gradients(loss: StepLoss, rows_of: Callable[[Draw], PyTree] | None) -> Gradients:
    """One client's gradients of `loss`, on the rows of each step where they are given, else on the whole download."""

    def gradients(download: Download, params: PyTree, draw: Draw) -> tuple[Array, Download, PyTree]:
        if rows_of is not None:
            download, params = download._replace(rows=rows_of(draw)), step_rows(params, draw)
        value, (cotangent, gradient) = jax.value_and_grad(loss, (0, 1))(download, params, draw)
        if rows_of is not None and ITEM_TABLE in params:
            gradient = gradient | {ITEM_TABLE: RowsStep(step_positions(draw), gradient[ITEM_TABLE])}
        return value, cotangent, gradient

    return gradients


def summed_gradients(
    loss: StepLoss, weight_c: Array, rows_of: Callable[[PyTree, Draw], PyTree] | None = None
) -> Gradients:
    """Gradients of a chunk with one backward pass for private and public parameters.

    The losses are pulled back with the weights alpha_c: the cotangent of the shared download is then the weighted
    sum over clients, and a client's private gradient comes out multiplied by its weight, which is divided off.
    With `rows_of` a client's loss is of the rows of its step; their cotangents [c, b, ...] are weighted, not summed.
    """
    own_rows = (PER_CLIENT[0]._replace(rows=_OWN), *PER_CLIENT[1:])
    loss_of_each = jax.vmap(loss, in_axes=PER_CLIENT if rows_of is None else own_rows)
    inverse_c = jnp.where(weight_c > 0, 1 / jnp.where(weight_c > 0, weight_c, 1.0), 0.0)

    def gradients(download: Download, params_c: PyTree, draw_c: Draw) -> tuple[Array, Download, PyTree]:
        if rows_of is not None:
            download = download._replace(rows=rows_of(download.rows, draw_c))
        loss_c, pull_loss = jax.vjp(lambda dl, p: loss_of_each(dl, p, draw_c), download, params_c)
        cotangent, gradient_c = pull_loss(weight_c)
        return loss_c, cotangent, jax.tree.map(lambda g: over_leaf(inverse_c, g) * g, gradient_c)

    return gradients


def keep_clients(keep_c: Array, tree: PyTree) -> PyTree:
    """Zeros in the leaves [c, ...] of the clients that are not kept."""
    return jax.tree.map(lambda x: jnp.where(over_leaf(keep_c, x), x, 0), tree)


def all_finite(tree: PyTree) -> Array:
    """bool [], whether every floating-point number of a tree is finite."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves]))


def over_leaf(x_c: Array, like: Array) -> Array:
    """[c] -> [c, 1, ...] with as many axes as `like`."""
    return x_c.reshape(x_c.shape + (1,) * (like.ndim - 1))


def make_update(settings: LocalSettings) -> Callable[[PyTree, PrivateState], PrivateState]:
    """The client optimizer step ``(gradient, state) -> state``; a private item table takes plain SGD."""

    def update(gradient: PyTree, state: PrivateState) -> PrivateState:
        params = trainable(state.params)
        updates, opt_state = settings.optimizer.update(trainable(gradient), state.opt_state, params)
        updates = _scale_router(updates, settings.router.lr)
        params = optax.apply_updates(params, updates)
        if ITEM_TABLE in state.params:
            table = step_table(state.params[ITEM_TABLE], gradient[ITEM_TABLE], settings.table_lr)
            params = params | {ITEM_TABLE: table}
        return state.replace(params=params, opt_state=opt_state)

    return update


def _scale_router(updates: PyTree, rate: float | Array) -> PyTree:
    """The updates of a client's parameters with those of its router times `rate`."""
    variant = updates["variant"]
    if "phi" not in variant or (isinstance(rate, (int, float)) and rate == 1):
        return updates
    return updates | {"variant": variant | {"phi": jax.tree.map(lambda x: rate * x, variant["phi"])}}


def make_solve(model: Model) -> Callable[[Download, PyTree, Draw], PyTree] | None:
    """The host's closed-form theta_u over all items, ``(download, params, draw) -> params``, or None."""
    host_solve = model.host.solve
    if host_solve is None:
        return None

    def solve(download: Download, params: PyTree, draw: Draw) -> PyTree:
        items = item_rows(model, params, download, download.rows, params.get(ITEM_TABLE))
        size = jax.tree.leaves(download.rows)[0].shape[0]
        positive_i = objectives.multi_hot(draw.positive_l, draw.target_l, size)
        return params | {"theta": host_solve(params["theta"], host_head(model, download.head), items, positive_i)}

    return solve
