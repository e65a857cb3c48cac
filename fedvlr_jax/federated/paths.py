"""Training a chunk of clients at once, on one of four paths that give the same result.

`uploads`: every client returns its own upload. This is the specification, what a device runs, and what privacy
and robustness act on. `gathered`: the same without telling a client's distinct rows apart, for clients that touch
few rows of a large catalogue. `fused`: the alpha-weighted sum of the clients' losses is differentiated with respect
to the shared broadcast, so that the sum over clients happens inside matrix products and no upload is ever formed; all
rows are scored. `picked`: the same, but only the rows of a step are read and scored.

On all of them, a client whose loss, state or upload is not finite is left out, and its private state stays as it was.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.federated.client import ClientBatch, Upload, download_of, make_gathered_update, make_local_update
from fedvlr_jax.federated.local_steps import Local, closed_form, local_steps, make_solve, make_update
from fedvlr_jax.federated.step_loss import LocalSettings, make_loss
from fedvlr_jax.models.model import Broadcast, Download, Model, pool
from fedvlr_jax.types import Array, PrivateState, PyTree


class ChunkResult(NamedTuple):
    """What a chunk of clients returns: stepped states, their contribution (summed, or apart), and their losses."""

    local: Local
    contribution: Broadcast | Upload
    loss_c: Array


def run_clients(
    model: Model,
    settings: LocalSettings,
    broadcast: Broadcast,
    local_c: Local,
    batch_c: ClientBatch,
    alpha_c: Array,
    round_: Array,
    *,
    make_client: Callable = make_local_update,
) -> tuple[ChunkResult, Array]:
    """Every client returns an upload of its own, made by ``make_client``; one that is not finite is left out."""
    local_update = make_client(model, settings)
    local_c, upload_c, loss_ca = jax.vmap(local_update, in_axes=(None, 0, 0, None))(
        broadcast, local_c, batch_c, round_
    )
    finite_c = finite_rows((local_c, upload_c.rows, upload_c.head, loss_ca))
    return ChunkResult(local_c, upload_c, jnp.mean(loss_ca, axis=1)), (alpha_c > 0) & finite_c


def run_fused(
    model: Model,
    settings: LocalSettings,
    broadcast: Broadcast,
    local_c: Local,
    batch_c: ClientBatch,
    alpha_c: Array,
    round_: Array,
    *,
    all_rows: bool = True,
) -> tuple[ChunkResult, Array]:
    """Trains a chunk with shared rows, all of them or those of each step; clients that are not finite are left out.

    If there is one, the chunk steps again without it.
    """
    draw_c = batch_c.draw
    if draw_c.negative_aln is not None:
        draw_c = draw_c._replace(negative_aln=jnp.swapaxes(draw_c.negative_aln, 0, 1))
    download, pull = download_of(model, broadcast.rows, broadcast.head, draw_c, jax.vmap(pool, in_axes=(None, 0, 0)))
    stepped, download, local_c, spread, finish = closed_form(model, settings, download, local_c, jax.vmap)

    def run(alive_c: Array) -> tuple[Local, Download, Array]:
        # A client that is left out must not get into the sums: zero times NaN is NaN.
        safe_c, pooled_c = _where(alive_c, (local_c, download.pooled_jd))
        at, weight_c = download._replace(pooled_jd=pooled_c), jnp.where(alive_c, alpha_c, 0.0)
        moved_c, total, loss_ac = _fused_steps(stepped, settings, at, safe_c, draw_c, weight_c, round_, all_rows)
        return moved_c, total, loss_ac

    def unfinished(carry: tuple) -> Array:
        return ~carry[0]

    def attempt(carry: tuple) -> tuple:
        _, alive_c, _ = carry
        moved_c, total, loss_ac = run(alive_c)
        good_c = alive_c & finite_rows((moved_c, loss_ac.T))
        sum_finite = jnp.all(finite_rows(jax.tree.map(lambda x: x[None], total)))
        done = sum_finite & jnp.all(good_c == alive_c)
        # A sum that overflows although every client looks finite has no culprit: the chunk is left out whole.
        blame = sum_finite | jnp.any(good_c != alive_c)
        return done, jnp.where(blame, good_c, False), (moved_c, total, loss_ac)

    alive_c = alpha_c > 0
    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(run, alive_c))
    start = (jnp.array(False), alive_c, empty)
    _, alive_c, (moved_c, total, loss_ac) = jax.lax.while_loop(unfinished, attempt, start)
    total = total._replace(pooled_jd=_where(alive_c, spread(total.pooled_jd)))
    return ChunkResult(finish(moved_c), Broadcast(pull(total), total.head), jnp.mean(loss_ac, axis=0)), alive_c


def _fused_steps(
    model: Model,
    settings: LocalSettings,
    download: Download,
    local_c: Local,
    draw_c: PyTree,
    weight_c: Array,
    round_: Array,
    all_rows: bool,
) -> tuple[Local, Download, Array]:
    """`local_steps` of a chunk with one backward pass a step for its private and public parameters.

    The losses are pulled back with the weights alpha_c: the cotangent of the shared download is then the weighted
    sum over clients, and a client's private gradient comes out multiplied by its weight, which is divided off.
    """
    per_client = (Download(None, 0, None), 0, 0)
    loss = jax.vmap(make_loss(model, settings, round_, all_items=all_rows), in_axes=per_client)
    inverse_c = jnp.where(weight_c > 0, 1 / jnp.where(weight_c > 0, weight_c, 1.0), 0.0)

    def gradients(download: Download, params_c: PyTree, draw_c: PyTree) -> tuple:
        loss_c, pull_loss = jax.vjp(lambda dl, p: loss(dl, p, draw_c), download, params_c)
        cotangent, gradient_c = pull_loss(weight_c)
        return loss_c, cotangent, jax.tree.map(lambda g: _column(inverse_c, g) * g, gradient_c)

    solve = make_solve(model)
    return local_steps(
        gradients,
        jax.vmap(make_update(settings)),
        solve if solve is None else jax.vmap(solve, in_axes=per_client),
        settings,
        model.host.alternate,
        download,
        local_c,
        draw_c,
    )


PATHS = {
    "fused": run_fused,
    "picked": functools.partial(run_fused, all_rows=False),
    "gathered": functools.partial(run_clients, make_client=make_gathered_update),
    "uploads": run_clients,
}
"""How a chunk of clients is trained, by the name in the config; all take and return the same."""


def _where(keep_c: Array, tree: PyTree) -> PyTree:
    """Zeros in the leaves of the clients that are not kept."""
    return jax.tree.map(lambda x: jnp.where(_column(keep_c, x), x, 0), tree)


def gather_local(private: PrivateState, row_c: Array, ids_cn: Array | None) -> Local:
    """The states of the clients at rows `row_c`; of a private item table only the rows `ids_cn` where given.

    A row out of range, an empty slot, reads whatever stands in the last row; nobody may use it.
    """

    def take(x: Array) -> Array:
        return x.at[row_c].get(mode="clip")  # filling would be another pass over the largest arrays

    params = {k: jax.tree.map(take, v) for k, v in private.params.items() if k != "item_table"}
    if "item_table" in private.params:
        at = (row_c,) if ids_cn is None else (row_c[:, None], ids_cn)
        params["item_table"] = private.params["item_table"].at[at].get(mode="fill", fill_value=0)
    return Local(params, jax.tree.map(take, private.opt_state))


def scatter_local(private: PrivateState, row_c: Array, ids_cn: Array | None, local_c: Local) -> PrivateState:
    """Writes the states of the clients at rows `row_c` back; a row out of range writes nothing."""

    def put(x: Array, new: Array) -> Array:
        return x.at[row_c].set(new, mode="drop")

    params = {k: jax.tree.map(put, v, local_c.params[k]) for k, v in private.params.items() if k != "item_table"}
    if "item_table" in private.params:
        at = (row_c,) if ids_cn is None else (row_c[:, None], ids_cn)
        params["item_table"] = private.params["item_table"].at[at].set(local_c.params["item_table"], mode="drop")
    return PrivateState(params=params, opt_state=jax.tree.map(put, private.opt_state, local_c.opt_state))


def finite_rows(tree: PyTree) -> Array:
    """bool [c], whether every floating-point number of a client is finite, over leaves with leading axis c."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    finite = [jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim))) for x in leaves]
    return jnp.all(jnp.stack(finite), axis=0)


def _column(x_c: Array, like: Array) -> Array:
    return x_c.reshape(x_c.shape + (1,) * (like.ndim - 1))
