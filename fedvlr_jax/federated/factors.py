"""Uploads that are kept as factors: their norms, and weighted sums of them, without the uploads.

Where the score is linear in an item's rows, a local step moves all rows of table t along one direction:

    dL_a / d row_ti = e_ai q_ta,      e_ai = dL_a / d s_i,      q_ta = d s_i / d row_ti, the same for every item

So the rows of an upload are U_t = sum_a e_a q_ta^T, with as many terms as there are local steps, and for clients c
with weights w_c

    ||U||^2 = sum_ab (e_a . e_b) (sum_t q_ta . q_tb)         a Gram matrix of the steps
    sum_c w_c U_ct = sum_ca (w_c e_ca) q_cta^T               one matrix product over clients and steps

and a clip, which multiplies an upload by a number that depends on its norm alone, needs nothing else. Beside these
terms stand what the router's history adds (rows of the client's own items, once a round), what a private item table
adds to D by its distance from it (`models/own_table.py`), and the head; they are small, or as large as the client's
own state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedvlr_jax.federated.client import ClientBatch
from fedvlr_jax.federated.local_steps import begin, keep_clients, local_steps, over_leaf
from fedvlr_jax.federated.objectives import Draw
from fedvlr_jax.federated.private_state import change_table
from fedvlr_jax.federated.step_loss import LocalSettings, make_loss
from fedvlr_jax.models.model import ITEM_TABLE, Broadcast, Download, Model, item_rows, score, take_rows
from fedvlr_jax.models.own_table import SpannedRows, SpannedTable, SpanStep, span, sum_rows
from fedvlr_jax.types import Array, PrivateState, PyTree, given


class Factors(NamedTuple):
    """One client's upload as factors; with leading axis c for a chunk of clients.

    Attributes:
      e_ai: [a, i], cotangent of the scores of all items by local step.
      query_a: leaves [a, ...] by table, the derivative of a score in the row of its item.
      position_l: int32 [l], items of the history, distinct but for padding.
      pooled_l: leaves [l, ...] by table, what the pooled history adds to their rows; padding adds zeros.
      pulled: cotangent of D by its distance from the client's private item table; None where it has no such table.
      head: cotangent of the head.
      norm: [], L2 norm of the whole upload, at least; above it by rounding errors at most.
    """

    e_ai: Array
    query_a: dict[str, Array]
    position_l: Array
    pooled_l: dict[str, Array]
    pulled: SpannedRows | None
    head: PyTree
    norm: Array


class _StepFactors(NamedTuple):
    """What a local step adds; stacked over steps, leaves [a, ...]."""

    e_i: Array
    query: dict[str, Array]


FactoredUpdate = Callable[[Broadcast, PrivateState, ClientBatch, Array], tuple[PrivateState, Factors, Array]]
"""``(broadcast, state, batch, round) -> (state, factors, loss_a)`` of one client."""


def has_factors(model: Model, settings: LocalSettings) -> bool:
    """Whether uploads are short sums of outer products: the score is linear, and rows stay within the round."""
    host, taught = model.host, model.variant.teacher is not None  # a teacher's rows enter the loss by themselves
    spanned = host.reads_D == host.private_item_table and not (host.private_item_table and host.alternate)
    moves = settings.move_items or taught or model.rounded is not None
    return host.linear and host.trains_items and spanned and not moves


def make_factored_update(model: Model, settings: LocalSettings) -> FactoredUpdate:
    """`client.make_local_update` for a simulation that needs no uploads, but norms and sums of them."""

    def factored_update(
        broadcast: Broadcast, state: PrivateState, batch: ClientBatch, round_: Array
    ) -> tuple[PrivateState, Factors, Array]:
        draw = batch.draw
        rows_l = take_rows(broadcast.rows, draw.positive_l)  # all that pooling reads
        own_draw = draw._replace(positive_l=jnp.arange(draw.positive_l.size, dtype=jnp.int32))
        begun = begin(model, settings, rows_l, broadcast.head, own_draw, state)
        download = begun.download._replace(rows=broadcast.rows)
        gradients = _step_factors(begun.model, settings, round_)
        start = change_table(begun.state, lambda table_id: span(table_id, broadcast.rows["D"], settings.steps))
        moved, total, loss_a = local_steps(
            gradients, begun, settings, download, start, draw, collect=lambda steps: steps
        )
        steps, table = total.rows, moved.params.get(ITEM_TABLE)
        moved = change_table(moved, SpannedTable.rows)
        moved, pulled = begun.finish(moved, total._replace(rows=jax.tree.map(jnp.zeros_like, rows_l)))
        factors = Factors(
            e_ai=steps.e_i,
            query_a=steps.query,
            position_l=draw.positive_l,
            pooled_l={} if model.variant.router is None else {"views": pulled["views"]},
            pulled=None if table is None else table.pulled(),
            head=total.head,
            norm=jnp.zeros(()),
        )
        return moved, factors._replace(norm=upper_norm(factors, broadcast.rows.get("D"))), loss_a

    return factored_update


def _step_factors(model: Model, settings: LocalSettings, round_: Array) -> Callable[..., Any]:
    """The gradients of a local step: of the rows as `_StepFactors`, of a private item table as `SpanStep`."""
    bonus = model.variant.bonus

    def shifted(by_i: Array) -> Model:
        """The model with something added to its scores."""

        def shift(private: PyTree, tables: dict[str, Array]) -> Array:
            return by_i if bonus is None else by_i + bonus(private, tables)

        return model._replace(variant=model.variant._replace(bonus=shift))

    def gradients(download: Download, params: PyTree, draw: Draw) -> tuple[Array, Download, PyTree]:
        table, rows = params.get(ITEM_TABLE), {k: x for k, x in download.rows.items() if k != "D"}

        def loss(shift: PyTree, pooled: PyTree, head: PyTree, params: PyTree) -> Array:
            if table is not None:
                params = params | {ITEM_TABLE: table._replace(more_i=shift["table"])}
            at = Download(rows, pooled, head)
            return make_loss(shifted(shift["score"]), settings, round_, all_items=True)(at, params, draw)

        no_shift_i = jnp.zeros(jax.tree.leaves(rows)[0].shape[0])
        shift = {"score": no_shift_i, "table": None if table is None else (no_shift_i, no_shift_i)}
        trained = {name: x for name, x in params.items() if name != ITEM_TABLE}
        value, (shift, pooled, head, gradient) = jax.value_and_grad(loss, (0, 1, 2, 3))(
            shift, download.pooled_jd, download.head, trained
        )
        query, own_d = _query(model, trained, Download(rows, download.pooled_jd, download.head), table)
        if own_d is not None:
            gradient = gradient | {ITEM_TABLE: SpanStep(shift["score"], own_d, *shift["table"])}
        return value, Download(_StepFactors(shift["score"], query), pooled, head), gradient

    return gradients


def _query(
    model: Model, params: PyTree, download: Download, table: SpannedTable | None
) -> tuple[dict[str, Array], Array | None]:
    """The derivative of one item's score in its rows, by table, and in its private row; where they are is all one."""
    row = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), download.rows)
    own_d = None if table is None else jnp.zeros_like(table.start_id[0])

    def one(row: PyTree, own_d: Array | None) -> Array:
        rows_b = jax.tree.map(lambda x: x[None], row)
        own_bd = None if own_d is None else own_d[None]
        return score(model, params, download.head, item_rows(model, params, download, rows_b, own_bd))[0]

    return jax.grad(one, (0, 1))(row, own_d)


def upper_norm(factors: Factors, public_id: Array | None = None) -> Array:
    """The norm of one client's upload, [], with the rounding errors of its sum of products on top.

    Terms of both signs may cancel; a norm that came out too small would let more through than a bound allows. So
    products are those of float32 also where an accelerator rounds their factors by default. `public_id` is D, where
    the host broadcasts it.
    """
    e_ai = factors.e_ai
    with jax.default_matmul_precision("highest"):
        gram_aa = (e_ai @ e_ai.T) * sum(_flat(q) @ _flat(q).T for q in factors.query_a.values())
        terms = [gram_aa]
        for name, rows_l in factors.pooled_l.items():
            e_al = e_ai.at[:, factors.position_l].get(mode="fill", fill_value=0)
            terms.append(2 * e_al * (_flat(factors.query_a[name]) @ _flat(rows_l).T))
        pulled = None if factors.pulled is None else factors.pulled.rows(given(public_id))
    rest = jax.tree.leaves((factors.pooled_l, pulled, factors.head))
    squared = sum(jnp.sum(x) for x in terms) + sum(jnp.sum(x**2) for x in rest)
    slack = 8 * jnp.finfo(e_ai.dtype).eps * sum(jnp.sum(jnp.abs(x)) for x in terms)
    norm = jnp.sqrt(jnp.maximum(squared, 0) + slack)
    return jnp.where(jnp.isnan(norm), jnp.inf, norm)  # terms that overflow with both signs


def add_factors(total: Broadcast, factors_c: Factors, weight_c: Array, public_id: Array | None = None) -> Broadcast:
    """``total + sum_c weight_c upload_c``; a client with weight 0 adds exactly nothing, whatever it sent.

    `public_id` is D, where the host broadcasts it. Where weights have a bound in them, products have to be those of
    float32 (`jax.default_matmul_precision`), else what is added has another norm than what was bounded.
    """
    kept_c: Factors = keep_clients(weight_c != 0, factors_c._replace(position_l=jnp.zeros(weight_c.shape)))
    num_items = factors_c.e_ai.shape[-1]
    weighted_bi = (over_leaf(weight_c, kept_c.e_ai) * kept_c.e_ai).reshape(-1, num_items)  # b = (c, a)

    def weighted_sum(x: Array) -> Array:
        return jnp.tensordot(weight_c, x, axes=1)

    def add_table(name: str, table: Array) -> Array:
        if name in kept_c.query_a:
            query_bf = kept_c.query_a[name].reshape(weighted_bi.shape[0], -1)
            table = table + (weighted_bi.T @ query_bf).reshape(table.shape)
        if name in kept_c.pooled_l:
            rows_cl = kept_c.pooled_l[name]
            table = table.at[factors_c.position_l].add(over_leaf(weight_c, rows_cl) * rows_cl, mode="drop")
        if name == "D" and kept_c.pulled is not None:
            table = table + sum_rows(kept_c.pulled, weight_c, given(public_id))
        return table

    rows = {name: add_table(name, table) for name, table in total.rows.items()}
    head = jax.tree.map(lambda t, x: t + weighted_sum(x), total.head, kept_c.head)
    return Broadcast(rows, head)


def _flat(x: Array) -> Array:
    """[a, ...] -> [a, f]."""
    return x.reshape(x.shape[0], -1)
