"""Training a chunk of clients at once, on either of two paths that give the same result.

`uploads`: every client returns its own upload. This is the specification, what a device runs, and what privacy
and robustness act on. `fused`: the alpha-weighted sum of the clients' losses is differentiated with respect to the
shared broadcast, so that the sum over clients happens inside matrix products and no upload is ever formed.

On both, a client whose loss, state or upload is not finite is left out, and its private state stays as it was.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.client import (
    Local,
    Upload,
    Work,
    condense,
    download_of,
    local_steps,
    make_local_update,
    make_solve,
    make_update,
)
from fedvlr_jax.local_loss import LocalSettings, make_loss
from fedvlr_jax.model import Broadcast, Download, Model, pool
from fedvlr_jax.types import Array, PrivateState, PyTree


class Trained(NamedTuple):
    """What a chunk of clients returns: stepped states, their summed contribution, and who survived."""

    local: Local
    contribution: Broadcast | Upload
    finite_c: Array
    loss_c: Array


def run_uploads(
    model: Model,
    settings: LocalSettings,
    broadcast: Broadcast,
    local_c: Local,
    work_c: Work,
    alpha_c: Array,
    round_: Array,
) -> tuple[Trained, Array]:
    """The specification: every client returns its own upload; one that is not finite is left out."""
    local_update = make_local_update(model, settings)
    local_c, upload_c, loss_ca = jax.vmap(local_update, in_axes=(None, 0, 0, None))(
        broadcast, local_c, work_c, round_
    )
    finite_c = finite_rows((local_c, upload_c.rows, upload_c.head, loss_ca))
    return Trained(local_c, upload_c, finite_c, jnp.mean(loss_ca, axis=1)), (alpha_c > 0) & finite_c


def run_fused(
    model: Model,
    settings: LocalSettings,
    broadcast: Broadcast,
    local_c: Local,
    work_c: Work,
    alpha_c: Array,
    round_: Array,
) -> tuple[Trained, Array]:
    """Trains a chunk with shared rows; if a client is not finite, the chunk runs again without it."""

    def run(alive_c: Array) -> Trained:
        weight_c = jnp.where(alive_c, alpha_c, 0.0)
        safe_c = jax.tree.map(lambda x: jnp.where(_column(alive_c, x), x, 0), local_c)
        return _fused_steps(model, settings, broadcast, safe_c, work_c.draw, weight_c, round_)

    def unfinished(carry: tuple) -> Array:
        return ~carry[0]

    def attempt(carry: tuple) -> tuple:
        _, alive_c, _ = carry
        trained = run(alive_c)
        good_c = alive_c & trained.finite_c
        sum_finite = jnp.all(finite_rows(jax.tree.map(lambda x: x[None], trained.contribution)))
        done = sum_finite & jnp.all(good_c == alive_c)
        # A sum that overflows although every client looks finite has no culprit: the chunk is left out whole.
        blame = sum_finite | jnp.any(good_c != alive_c)
        return done, jnp.where(blame, good_c, False), trained

    alive_c = alpha_c > 0
    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(run, alive_c))
    _, alive_c, trained = jax.lax.while_loop(unfinished, attempt, (jnp.array(False), alive_c, empty))
    return trained, alive_c


def _fused_steps(
    model: Model,
    settings: LocalSettings,
    broadcast: Broadcast,
    local_c: Local,
    draw_c: PyTree,
    weight_c: Array,
    round_: Array,
) -> Trained:
    """A local steps of a chunk with one backward pass a step for its private and public parameters.

    The losses are pulled back with the weights alpha_c: the cotangent of the shared download is then the weighted
    sum over clients, and a client's private gradient comes out multiplied by its weight, which is divided off.
    """
    if draw_c.negative_aln is not None:
        draw_c = draw_c._replace(negative_aln=jnp.swapaxes(draw_c.negative_aln, 0, 1))
    download, pull = download_of(model, broadcast.rows, broadcast.head, draw_c, jax.vmap(pool, in_axes=(None, 0, 0)))
    stepped, download, local_c, pull, finish = condense(model, settings, download, local_c, pull, jax.vmap)
    per_client = (Download(None, 0, None), 0, 0)
    loss = jax.vmap(make_loss(stepped, settings, round_, all_items=True), in_axes=per_client)
    inverse_c = jnp.where(weight_c > 0, 1 / jnp.where(weight_c > 0, weight_c, 1.0), 0.0)

    def gradients(download: Download, params_c: PyTree, draw_c: PyTree) -> tuple:
        loss_c, pull_loss = jax.vjp(lambda dl, p: loss(dl, p, draw_c), download, params_c)
        cotangent, gradient_c = pull_loss(weight_c)
        return loss_c, cotangent, jax.tree.map(lambda g: _column(inverse_c, g) * g, gradient_c)

    solve = make_solve(stepped)
    local_c, total, loss_ac = local_steps(
        gradients,
        jax.vmap(make_update(settings)),
        solve if solve is None else jax.vmap(solve, in_axes=per_client),
        settings,
        model.host.alternate,
        download,
        local_c,
        draw_c,
    )
    local_c = finish(local_c)
    finite_c = finite_rows((local_c, loss_ac.T))
    return Trained(local_c, Broadcast(pull(total), total.head), finite_c, jnp.mean(loss_ac, axis=0))


def gather_local(private: PrivateState, row_c: Array, ids_cn: Array | None) -> Local:
    """The states of the clients at rows `row_c`; of a private item table only the rows `ids_cn` where given."""

    def take(x: Array) -> Array:
        return x.at[row_c].get(mode="fill", fill_value=0)

    params = {k: jax.tree.map(take, v) for k, v in private.params.items() if k != "own"}
    if "own" in private.params:
        at = (row_c,) if ids_cn is None else (row_c[:, None], ids_cn)
        params["own"] = private.params["own"].at[at].get(mode="fill", fill_value=0)
    return Local(params, jax.tree.map(take, private.opt_state))


def scatter_local(private: PrivateState, row_c: Array, ids_cn: Array | None, local_c: Local) -> PrivateState:
    """Writes the states of the clients at rows `row_c` back; a row out of range writes nothing."""

    def put(x: Array, new: Array) -> Array:
        return x.at[row_c].set(new, mode="drop")

    params = {k: jax.tree.map(put, v, local_c.params[k]) for k, v in private.params.items() if k != "own"}
    if "own" in private.params:
        at = (row_c,) if ids_cn is None else (row_c[:, None], ids_cn)
        params["own"] = private.params["own"].at[at].set(local_c.params["own"], mode="drop")
    return PrivateState(params=params, opt_state=jax.tree.map(put, private.opt_state, local_c.opt_state))


def finite_rows(tree: PyTree) -> Array:
    """bool [c], whether every floating-point number of a client is finite, over leaves with leading axis c."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    finite = [jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim))) for x in leaves]
    return jnp.all(jnp.stack(finite), axis=0)


def _column(x_c: Array, like: Array) -> Array:
    return x_c.reshape(x_c.shape + (1,) * (like.ndim - 1))
