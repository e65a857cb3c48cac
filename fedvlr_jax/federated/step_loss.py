"""The loss of one client in one local step: its objective, the host's regulariser and L2 terms.

Two forms have one value: over all rows of a download (one matrix product over the clients that share the rows), or
over the rows of the step alone, whose cotangent is as large as the step, whatever the client touches in the round.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedvlr_jax.federated import objectives
from fedvlr_jax.federated.objectives import Draw, Objective
from fedvlr_jax.federated.private_state import OFFSET, trainable
from fedvlr_jax.models.hosts.host import ItemRows
from fedvlr_jax.models.model import ITEM_TABLE, Download, Model, item_rows, score, take_rows
from fedvlr_jax.models.router import divergence
from fedvlr_jax.types import Array, PyTree, given


class RouterSettings(NamedTuple):
    """How a client trains its own part of the router; the defaults are the paper's.

    Attributes:
      lr: rate of these parameters relative to that of theta_u.
      l2: weight of 0.5 ||phi_u||^2, a pull towards the public router, or towards equal weights where there is none.
      spread: weight of KL(w_u || uniform), a pull of the weights themselves towards equal ones.
      spread_rounds: rounds in which that weight falls linearly to zero; 0 = it stays.
    """

    lr: float | Array = 1.0
    l2: float | Array = 0.0
    spread: float | Array = 0.0
    spread_rounds: float | Array = 0.0

    def spread_at(self, round_: Array) -> Array:
        """The weight of KL(w_u || uniform) in a round, []."""
        rounds = jnp.asarray(self.spread_rounds, float)
        left = jnp.clip(1 - round_ / jnp.maximum(rounds, 1), 0)
        return self.spread * jnp.where(rounds > 0, left, 1.0)


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
      router: how it trains its own part of the router.
      closed_form: take the router's steps in closed form (`router.py`); exact for plain SGD without L2 terms only.
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
    router: RouterSettings = RouterSettings()
    closed_form: bool = False
    unroll: bool = False


StepLoss = Callable[[Download, PyTree, Draw], Array]
"""``(download, private parameters, draw of a step) -> []``."""


def make_loss(model: Model, settings: LocalSettings, round_: Array, *, all_items: bool) -> StepLoss:
    """The loss of one client, ``(download, private, draw) -> []``, for one local step.

    Args:
      model: host and variant.
      settings: objective and L2 weight.
      round_: int32 [], for curricula.
      all_items: score every row of the download and pick (one matrix product over the clients that share the
        rows), instead of gathering the rows of the step. The value is the same.
    """
    objective, finish = settings.objective, make_finish(model, settings, round_)
    if not model.host.trains_items:
        no_items = ItemRows(None, None, {})
        return lambda download, private, draw: finish(
            evidence_loss(model, download, private, draw), private, no_items, jnp.zeros(0)
        )
    step_loss = make_step_loss(model, settings, round_)

    def on_all(download: Download, private: PyTree, draw: Draw) -> Array:
        items = item_rows(model, private, download, download.rows, private.get(ITEM_TABLE), private.get(OFFSET))
        s_i = score(model, private, download.head, items)
        if objective.all_items:
            usage_i = jnp.full(s_i.shape, 1 / s_i.size)
            value = taught_loss(model, private, items, s_i, usage_i, lambda s_i: objective.loss(draw, s_i))
            return finish(value + evidence_loss(model, download, private, draw), private, items, usage_i)
        positions = (draw.positive_l, given(draw.negative_aln))
        usage_i = jnp.zeros_like(s_i)
        for position, weight in zip(positions, _usage(draw), strict=True):
            usage_i = usage_i.at[position].add(weight, mode="drop")

        def sampled_loss(s_i: Array) -> Array:
            return objective.loss(draw, *(s_i.at[x].get(mode="fill", fill_value=0.0) for x in positions))

        value = taught_loss(model, private, items, s_i, usage_i, sampled_loss)
        return finish(value + evidence_loss(model, download, private, draw), private, items, usage_i)

    def on_step(download: Download, private: PyTree, draw: Draw) -> Array:
        rows = take_rows(download.rows, step_positions(draw))
        return step_loss(download._replace(rows=rows), step_rows(private, draw), draw)

    return on_all if all_items else on_step


def make_step_loss(model: Model, settings: LocalSettings, round_: Array) -> StepLoss:
    """The loss of one local step as a function of the rows of that step alone, in the order of `step_positions`.

    The private parameters are those of `step_rows`. Its cotangent is as large as the step, whatever the client
    touches in the whole round.
    """
    finish = make_finish(model, settings, round_)

    def loss(download: Download, private: PyTree, draw: Draw) -> Array:
        items = item_rows(model, private, download, download.rows, private.get(ITEM_TABLE), private.get(OFFSET))
        s_b = score(model, private, download.head, items)
        length, shape_ln = draw.positive_l.size, given(draw.negative_aln).shape
        usage_b = jnp.concatenate([w.reshape(-1) for w in _usage(draw)])

        def sampled_loss(s_b: Array) -> Array:
            return settings.objective.loss(draw, s_b[:length], s_b[length:].reshape(shape_ln))

        value = taught_loss(model, private, items, s_b, usage_b, sampled_loss)
        return finish(value + evidence_loss(model, download, private, draw), private, items, usage_b)

    return loss


def taught_loss(
    model: Model, private: PyTree, items: ItemRows, s_b: Array, usage_b: Array, loss: Callable[[Array], Array]
) -> Array:
    """The loss of the client's scores; with a teacher also the teacher's loss and the divergence from its scores.

    Args:
      model, private, items: whose rows are scored.
      s_b: the client's scores [b].
      usage_b: how much a row is used in the step, [b], summing to one.
      loss: ``(scores [b]) -> []``, the objective.
    """
    value, teacher = loss(s_b), model.variant.teacher
    if teacher is None:
        return value
    t_b = teacher.score(private["variant"], items.tables)
    apart = objectives.divergence_of_scores(jax.lax.stop_gradient(t_b), s_b, usage_b)
    return value + loss(t_b) + teacher.weight * apart


def evidence_loss(model: Model, download: Download, private: PyTree, draw: Draw) -> Array:
    """What the client learns from its evidence; zero where it has none."""
    if model.host.evidence_loss is None or draw.evidence is None:
        return jnp.zeros(())
    return model.host.evidence_loss(private["theta"], download.head, draw.evidence)


def make_finish(
    model: Model, settings: LocalSettings, round_: Array
) -> Callable[[Array, PyTree, ItemRows, Array], Array]:
    """Adds the regularisers of host and router and the L2 terms to a loss.

    The weights [b] of the result's last argument say how much a row is used in the step.
    """
    router = settings.router

    def finish(value: Array, private: PyTree, items: ItemRows, usage_b: Array) -> Array:
        value = value + model.host.regulariser(private["theta"], items, usage_b, round_)
        if not objectives.is_off(settings.l2):
            value = value + 0.5 * settings.l2 * optax.tree.norm(trainable(private), squared=True)
            if ITEM_TABLE in private:
                value = value + 0.5 * settings.l2 * jnp.sum(usage_b * given(items.own).square())
        if model.variant.router is not None and not objectives.is_off(router.l2):
            value = value + 0.5 * router.l2 * optax.tree.norm(private["variant"]["phi"], squared=True)
        if items.w_j is not None and not objectives.is_off(router.spread):
            value = value + router.spread_at(round_) * divergence(items.w_j)
        return value

    return finish


def step_positions(draw: Draw) -> Array:
    """Rows of a local step, [l + l n]: positives, then negatives."""
    return jnp.concatenate([draw.positive_l, given(draw.negative_aln).reshape(-1)])


def step_rows(private: PyTree, draw: Draw) -> PyTree:
    """Private parameters with the rows of a local step in place of whole tables over items."""
    tables = {name: private[name] for name in (ITEM_TABLE, OFFSET) if name in private}
    return private | take_rows(tables, step_positions(draw))


def put_rows(rows_b: PyTree, position_b: Array, size: int) -> PyTree:
    """The transpose of `take_rows`: rows added up in tables of `size` rows; padding is dropped."""
    return add_rows(jax.tree.map(lambda x: jnp.zeros((size, *x.shape[1:]), x.dtype), rows_b), rows_b, position_b)


def add_rows(tables: PyTree, rows_b: PyTree, position_b: Array) -> PyTree:
    """Tables with rows added at their positions; padding is dropped."""
    return jax.tree.map(lambda table, x: table.at[position_b].add(x, mode="drop"), tables, rows_b)


def _usage(draw: Draw) -> tuple[Array, Array]:
    """Weights of the rows used in a step, [l] and [l, n], summing to one over both."""
    n = given(draw.negative_aln).shape[-1]
    weight_l = draw.target_l / jnp.maximum(jnp.sum(draw.target_l), 1.0) / (1 + n)
    return weight_l, jnp.broadcast_to(weight_l[:, None], (weight_l.size, n))
