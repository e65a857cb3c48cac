"""What runs on a device: one client's round, from its download to its upload (Algorithm 1, client side).

The public parameters reach a client only through the broadcast, so it differentiates its loss with respect to
what it downloaded, accumulates that cotangent over its local steps, and uploads it. The server pulls the weighted
sum of all uploads back through the fusion once a round; because the pull-back is linear and the same for
everybody, this equals differentiating through the fusion in every client and step.

`make_client_round` is the whole of it. `make_local_update` and `make_gathered_update` are its core for a simulation,
which reads and writes private states in its own way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.agreed import Evidence
from fedvlr_jax.federated.local_steps import all_finite, begin, local_steps, own_gradients
from fedvlr_jax.federated.objectives import Draw
from fedvlr_jax.federated.private_state import change_table
from fedvlr_jax.federated.step_loss import (
    LocalSettings,
    make_loss,
    make_step_loss,
    put_rows,
    step_positions,
)
from fedvlr_jax.federated.transforms import UploadTransform
from fedvlr_jax.models.model import ITEM_TABLE, Broadcast, Model, Upload, take_rows
from fedvlr_jax.types import NOWHERE, Array, PrivateState, PyTree, given


class ClientBatch(NamedTuple):
    """What one client works on in a round.

    Attributes:
      ids_n: int32 [n], the distinct items it touches in ascending order, then padding; None means all items.
      draw: what it trains on, as positions in these rows.
    """

    ids_n: Array | None
    draw: Draw


LocalUpdate = Callable[[Broadcast, PrivateState, ClientBatch, Array], tuple[PrivateState, Upload, Array]]
"""``(broadcast, state, batch, round) -> (state, upload, loss_a)`` of one client."""


def draw_batch(
    settings: LocalSettings, num_items: int, history_l: Array, key: Array, *, touched_rows: bool
) -> ClientBatch:
    """Draws what one client trains on in a round; with `touched_rows` it is confined to the rows it touches."""
    draw = settings.objective.draw(key, history_l)
    if not touched_rows or settings.objective.all_items:
        return ClientBatch(None, draw)
    ids_n, position_n = _distinct(step_positions(draw), num_items)  # of all steps at once
    positive, negative = position_n[: history_l.size], position_n[history_l.size :]
    draw = draw._replace(positive_l=positive, negative_aln=negative.reshape(given(draw.negative_aln).shape))
    return ClientBatch(ids_n, draw)


def _distinct(ids_n: Array, num_items: int) -> tuple[Array, Array]:
    """The distinct ids in ascending order, then `num_items`; and where each id is among them, n for padding."""
    sorted_n = jnp.sort(ids_n)
    is_first_n = jnp.concatenate([jnp.ones(1, bool), sorted_n[1:] != sorted_n[:-1]])
    distinct_n = jnp.sort(jnp.where(is_first_n, sorted_n, num_items))
    # By halving: a sort of both together, as of pairs, takes ten times as long on a CPU.
    found_n = jnp.searchsorted(distinct_n, ids_n).astype(jnp.int32)
    return distinct_n, jnp.where(ids_n < num_items, found_n, ids_n.size)


def make_client_round(
    model: Model,
    settings: LocalSettings,
    num_items: int,
    transform: UploadTransform,
    *,
    touched_rows: bool = True,
) -> Callable[..., tuple[PrivateState, Upload, Array]]:
    """The one function that a device runs in a round, simulated or remote.

    Args:
      model, settings: host, variant, and how a client trains.
      num_items: |I|.
      transform: what happens to an upload before it leaves.
      touched_rows: upload the rows that the client touched instead of all, unless the transform needs all.

    Returns:
      ``client_round(broadcast, state, history_l, key, transform_key, round[, evidence]) -> (state, upload, loss)``,
      pure: the private state of one client in and out, its train positives in ascending order and then `num_items`,
      the client's keys of this round for its draws and for its transforms, the number of the round, its evidence
      where the host has score views, and the mean loss over its local steps. If anything that it made is not finite,
      even where a clip made zeros of it afterwards, the state is the one that came in and the loss is NaN: as in a
      simulation the client is left out.
    """
    local_update = make_local_update(model, settings)
    touched_rows = touched_rows and not transform.whole

    def client_round(
        broadcast: Broadcast,
        state: PrivateState,
        history_l: Array,
        key: Array,
        transform_key: Array,
        round_: Array,
        evidence: Evidence | None = None,
    ) -> tuple[PrivateState, Upload, Array]:
        batch = draw_batch(settings, num_items, history_l, key, touched_rows=touched_rows)
        batch = batch._replace(draw=batch.draw._replace(evidence=evidence))
        before, table, ids_n = state, state.params.get(ITEM_TABLE), batch.ids_n
        if ids_n is not None:
            state = change_table(state, lambda table: take_rows(table, ids_n))
        state, upload, loss_a = local_update(broadcast, state, batch, round_)
        alive = all_finite((state, upload.rows, upload.head, loss_a))
        if ids_n is not None:
            state = change_table(state, lambda rows: given(table).at[ids_n].set(rows, mode="drop"))
        if transform.client is not None:
            upload, memory = transform.client(transform_key, upload, state.memory)
            state = state.replace(memory=memory)
        state = jax.tree.map(lambda new, old: jnp.where(alive, new, old), state, before)
        return state, upload, jnp.where(alive, jnp.mean(loss_a), jnp.nan)

    return client_round


def make_local_update(model: Model, settings: LocalSettings) -> LocalUpdate:
    """The local round of one client on the rows that it touches.

    Returns:
      ``local_update(broadcast, state, batch, round) -> (state, upload, loss_a)``. The rows of a private item
      table in ``state.params`` are those at ``batch.ids_n`` (all of them where that is None).
    """

    def local_update(
        broadcast: Broadcast, state: PrivateState, batch: ClientBatch, round_: Array
    ) -> tuple[PrivateState, Upload, Array]:
        draw = batch.draw
        rows = broadcast.rows if batch.ids_n is None else take_rows(broadcast.rows, batch.ids_n)
        begun = begin(model, settings, rows, broadcast.head, draw, state)
        # Items that move are read through the sum of all cotangents so far; else each step's rows suffice, and
        # the cost of a step does not grow with what the client touches in the other steps.
        if settings.objective.all_items or settings.move_items:
            loss = make_loss(begun.model, settings, round_, all_items=settings.objective.all_items)
            gradients, collect = own_gradients(loss, None), None
        else:
            loss = make_step_loss(begun.model, settings, round_)
            gradients = own_gradients(loss, lambda step_draw: take_rows(rows, step_positions(step_draw)))
            collect = lambda rows_ab: _sum_steps(rows_ab, draw, rows)  # noqa: E731
        moved, total, loss_a = local_steps(
            gradients, begun, settings, begun.download, begun.state, draw, collect=collect
        )
        moved, rows = begun.finish(moved, total)
        return moved, Upload(batch.ids_n, rows, total.head), loss_a

    return local_update


def make_gathered_update(model: Model, settings: LocalSettings) -> LocalUpdate:
    """`make_local_update` for a simulation, which need not tell a client's distinct rows apart.

    Every step reads its rows in the broadcast itself, and their cotangents leave one by one: no step and no upload
    depends on the catalogue. For objectives over sampled items, without moving items.

    Returns:
      As `make_local_update`; the upload's items are the positives and then the negatives of every step. A batch with
      ``ids_n`` confines a private item table alone.
    """

    def gathered_update(
        broadcast: Broadcast, state: PrivateState, batch: ClientBatch, round_: Array
    ) -> tuple[PrivateState, Upload, Array]:
        draw, length = batch.draw, batch.draw.positive_l.size

        def item(position: Array) -> Array:
            return position if batch.ids_n is None else batch.ids_n.at[position].get(mode="fill", fill_value=NOWHERE)

        rows_l = take_rows(broadcast.rows, item(draw.positive_l))  # the same in all steps, and all that pooling reads
        own_draw = draw._replace(positive_l=jnp.arange(length, dtype=jnp.int32))
        begun = begin(model, settings, rows_l, broadcast.head, own_draw, state)

        def rows_of(step_draw: Draw) -> PyTree:
            drawn = take_rows(broadcast.rows, item(given(step_draw.negative_aln).reshape(-1)))
            return jax.tree.map(lambda *x: jnp.concatenate(x), rows_l, drawn)

        gradients = own_gradients(make_step_loss(begun.model, settings, round_), rows_of)
        moved, total, loss_a = local_steps(
            gradients, begun, settings, begun.download, begun.state, draw, collect=lambda rows_ab: rows_ab
        )
        positive, negative = _split_steps(total.rows, length)
        moved, pulled = begun.finish(moved, total._replace(rows=positive))
        rows = jax.tree.map(lambda *x: jnp.concatenate(x), pulled, negative)
        return moved, Upload(item(step_positions(draw)), rows, total.head), loss_a

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
