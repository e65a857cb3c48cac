"""Training a chunk of clients at once. How is two questions, and the answers change speed, never the result:

                      the rows of all items,      the rows of a step alone,
                      or all that it touches      read in the broadcast
    the server sums        uploads                     gathered
    the backward pass sums fused                       picked

Who sums? Either every client returns its own upload and the server adds them up. That is the specification, what a
device runs, and what privacy and robustness act on. Or the alpha-weighted sum of the clients' losses is
differentiated with respect to the shared broadcast, so that the sum over clients happens inside matrix products and
no upload is ever formed. Which rows? Scoring a row inside a matrix product is much cheaper than reading it apart, as
long as a step needs a fair share of them.

A fifth path, `factors`, reads all rows and forms no upload either, but knows the norm of each (`factors.py`): a clip
needs no more. A private item table is not written between its steps (`models/own_table.py`), so a host with one takes
this path where another would take `fused`.

On all paths, a client whose loss, state or upload is not finite is left out, and its private state stays as it was.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.federated.client import ClientBatch, make_gathered_update, make_local_update
from fedvlr_jax.federated.factors import Factors, make_factored_update
from fedvlr_jax.federated.local_steps import all_finite, begin, keep_clients, local_steps, summed_gradients
from fedvlr_jax.federated.objectives import Draw
from fedvlr_jax.federated.step_loss import LocalSettings, add_rows, make_loss, make_step_loss, step_positions
from fedvlr_jax.models.model import Broadcast, Model, Upload, take_rows
from fedvlr_jax.types import Array, PrivateState, PyTree


class Path(NamedTuple):
    """How a chunk of clients is trained.

    Attributes:
      server_sums: every client returns an upload of its own; else the backward pass does the summing.
      step_rows: the rows of a step are read apart; else a client's steps read all rows, or all it touches in a round.
      factored: what the server sums are factors of uploads.
    """

    server_sums: bool
    step_rows: bool
    factored: bool = False


PATHS = {
    "fused": Path(server_sums=False, step_rows=False),
    "picked": Path(server_sums=False, step_rows=True),
    "gathered": Path(server_sums=True, step_rows=True),
    "factors": Path(server_sums=True, step_rows=False, factored=True),
    "uploads": Path(server_sums=True, step_rows=False),
}
"""Paths by the name in the config."""


class ChunkResult(NamedTuple):
    """What a chunk of clients returns.

    Attributes:
      state: stepped private states [c, ...].
      uploads: leaves [c, ...], each client's own, or factors of them; None where the backward pass did the summing.
      total: sum_c alpha_c upload_c of the clients that are alive; None where the server does the summing.
      loss_c: float32 [c], mean losses over the local steps.
      alive_c: bool [c], clients that take part and are finite.
    """

    state: PrivateState
    uploads: Upload | Factors | None
    total: Broadcast | None
    loss_c: Array
    alive_c: Array


def train_chunk(
    path: Path,
    model: Model,
    settings: LocalSettings,
    broadcast: Broadcast,
    state_c: PrivateState,
    batch_c: ClientBatch,
    alpha_c: Array,
    round_: Array,
) -> ChunkResult:
    """Trains the clients of a chunk on their batches; those with alpha 0 do not take part."""
    train = _train_apart if path.server_sums else _train_summed
    return train(path, model, settings, broadcast, state_c, batch_c, alpha_c, round_)


def _train_apart(
    path: Path,
    model: Model,
    settings: LocalSettings,
    broadcast: Broadcast,
    state_c: PrivateState,
    batch_c: ClientBatch,
    alpha_c: Array,
    round_: Array,
) -> ChunkResult:
    """Every client returns an upload of its own, or factors of it."""
    make: Any = make_local_update
    if path.step_rows or path.factored:
        make = make_gathered_update if path.step_rows else make_factored_update
    update = jax.vmap(make(model, settings), in_axes=(None, 0, 0, None))
    state_c, upload_c, loss_ca = update(broadcast, state_c, batch_c, round_)
    sent_c = upload_c._replace(norm=None) if path.factored else upload_c  # a norm is formed where it is needed
    finite_c = finite_clients((state_c, sent_c, loss_ca))
    return ChunkResult(state_c, upload_c, None, jnp.mean(loss_ca, axis=1), (alpha_c > 0) & finite_c)


def _train_summed(
    path: Path,
    model: Model,
    settings: LocalSettings,
    broadcast: Broadcast,
    state_c: PrivateState,
    batch_c: ClientBatch,
    alpha_c: Array,
    round_: Array,
) -> ChunkResult:
    """One backward pass a step for all clients. If one of them is not finite, the chunk steps again without it."""
    draw_c = batch_c.draw
    if draw_c.negative_aln is not None:
        draw_c = draw_c._replace(negative_aln=jnp.swapaxes(draw_c.negative_aln, 0, 1))
    begun = begin(model, settings, broadcast.rows, broadcast.head, draw_c, state_c, jax.vmap)
    rows_of: Any = None
    add: Any = None
    if path.step_rows:
        loss, rows_of, add = make_step_loss(begun.model, settings, round_), _rows_of_steps, _add_rows_of_steps
    else:
        loss = make_loss(begun.model, settings, round_, all_items=True)

    def attempt(carry: tuple[Array, Array, Any]) -> tuple[Array, Array, Any]:
        _, alive_c, _ = carry
        # A client that is left out must not get into the sums: zero times NaN is NaN.
        safe_c, pooled_c = keep_clients(alive_c, (begun.state, begun.download.pooled_jd))
        gradients = summed_gradients(loss, jnp.where(alive_c, alpha_c, 0.0), rows_of)
        download = begun.download._replace(pooled_jd=pooled_c)
        moved_c, total, loss_ac = local_steps(
            gradients, begun, settings, download, safe_c, draw_c, each=jax.vmap, add_rows=add
        )
        good_c = alive_c & finite_clients((moved_c, loss_ac.T))
        sum_finite = all_finite(total)
        done = sum_finite & jnp.all(good_c == alive_c)
        # A sum that overflows although every client looks finite has no culprit: the chunk is left out whole.
        blame = sum_finite | jnp.any(good_c != alive_c)
        return done, jnp.where(blame, good_c, False), (moved_c, total, loss_ac)

    alive_c = alpha_c > 0
    state_c, download = jax.tree.map(jnp.zeros_like, (begun.state, begun.download))
    no_loss_ac = jnp.zeros((settings.steps, alpha_c.size), jax.tree.leaves(broadcast)[0].dtype)
    start = (jnp.array(False), alive_c, (state_c, download, no_loss_ac))
    _, alive_c, (moved_c, total, loss_ac) = jax.lax.while_loop(lambda carry: ~carry[0], attempt, start)
    state_c, rows = begun.finish(moved_c, total, alive_c)
    return ChunkResult(state_c, None, Broadcast(rows, total.head), jnp.mean(loss_ac, axis=0), alive_c)


def _rows_of_steps(rows: PyTree, draw_c: Draw) -> PyTree:
    """The rows of every client's step, [c, b, ...]."""
    return take_rows(rows, jax.vmap(step_positions)(draw_c))


def _add_rows_of_steps(total: PyTree, rows_cb: PyTree, draw_c: Draw) -> PyTree:
    """Tables with the cotangents of every client's step added, row by row: a step costs nothing for other rows."""
    return add_rows(total, rows_cb, jax.vmap(step_positions)(draw_c))


def finite_clients(tree: PyTree) -> Array:
    """bool [c], whether every floating-point number of a client is finite, over leaves with leading axis c."""
    return jax.vmap(all_finite)(tree)
