"""The contract of a host: one federated framework as a handful of pure functions.

To add a host: write one file with a factory ``make(num_items, *, dim, init_scale, **options) -> Host`` and give
it a row in ``HOSTS`` (hosts/__init__.py), with the settings that came with it; they become ``host.<name>`` in every
configuration and on the command line. The tests over that table judge it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from fedvlr_jax.agreed import Evidence, ViewBasis
from fedvlr_jax.models.own_table import OwnRows
from fedvlr_jax.types import Array, PyTree


def product(rows: Array, weights: Array) -> Array:
    """``rows @ weights`` in the type of the rows; from bfloat16 it is summed and returned in float32.

    A score that were itself rounded to bfloat16 would tie with many others.
    """
    if rows.dtype != jnp.bfloat16:
        return rows @ weights
    return jnp.matmul(rows, weights.astype(rows.dtype), preferred_element_type=jnp.float32)


class ItemRows(NamedTuple):
    """The representation of the items to score, as one client sees them.

    Attributes:
      views_bjd: [b, j, d] rows of the views, or None where the host has item tables of its own and the
        variant adds nothing.
      w_j: [j], the client's router weights, or None for a single view with weight one.
      tables: the public row tables [b, d] of the host, by name.
      own: rows of the client's private item table, or None.
      offset_bd: [b, d], what local fine-tuning added to g_i, or None.
    """

    views_bjd: Array | None
    w_j: Array | None
    tables: dict[str, Array]
    own: OwnRows | None = None
    offset_bd: Array | None = None

    def fused(self) -> Array:
        """g_i of every row, [b, d] (design: sum_j w_uj F_j,i plus the client's own offset)."""
        views_bjd = self.views_bjd
        assert views_bjd is not None
        if self.w_j is None:
            g_bd = views_bjd[:, 0]
        else:  # a sum and no product: that of w_j's gradient, with two wide axes and few outputs, is slow on a CPU
            g_bd = jnp.sum(self.w_j[None, :, None] * views_bjd.astype(self.w_j.dtype), axis=1)
        return g_bd if self.offset_bd is None else g_bd + self.offset_bd

    def dot(self, q_d: Array) -> Array:
        """g_i . q for every row, [b], without forming g.

        Weights and query are merged first, so that under vmap over clients with shared views this is ONE
        matrix product [c, j d] x [j d, i].
        """
        q_jd = q_d[None, :] if self.w_j is None else jnp.einsum("j,d->jd", self.w_j, q_d)
        views_bjd = self.views_bjd
        assert views_bjd is not None
        s_b = product(views_bjd.reshape(views_bjd.shape[0], -1), q_jd.reshape(-1))
        return s_b if self.offset_bd is None else s_b + self.offset_bd @ q_d

    def project(self, weight_dh: Array) -> Array:
        """g_i W for every row, [b, h], of rows that all clients share.

        The views are multiplied before they are mixed: under vmap over clients that product is computed once.
        """
        if self.w_j is None:
            return product(self.fused(), weight_dh)
        assert self.views_bjd is not None
        g_bh = jnp.einsum("j,bjh->bh", self.w_j, product(self.views_bjd, weight_dh))
        return g_bh if self.offset_bd is None else g_bh + self.offset_bd @ weight_dh


def no_public(key: Array) -> PyTree:
    """Public parameters of a host that has none beside the item-ID table."""
    return {"tables": {}, "head": {}}


def no_regulariser(theta: PyTree, items: ItemRows, weight_b: Array, round_: Array) -> Array:
    """The regulariser of a host without one."""
    return jnp.zeros(())


def no_penalty(D_id: Array, round_: Array) -> Array:
    """The server-side term of a host without one."""
    return jnp.zeros(())


def equal_weight(num_positives: Array) -> Array:
    """alpha_u equal for all clients (before normalisation over the cohort)."""
    return jnp.ones_like(num_positives)


class Host(NamedTuple):
    """One federated framework.

    Attributes:
      init_private: ``(key) -> theta_u`` of one client.
      score: ``(theta, head, items) -> s_b``, logits of the rows in `items`.
      client_weight: ``(num_positives []) -> []``, alpha_u before normalisation over the cohort.
      init_public: ``(key) -> {"tables": {name: [i, d]}, "head": pytree}``, public beside D and gamma.
      derive: ``(tables, head, weighed) -> tables``, what scoring makes of item rows and head whoever the client is; a
        simulation makes it once for all clients (FedNCF's first layer). `weighed`: a router weighs the views. `score`
        takes tables of either kind. None where it reads the rows as they are.
      regulariser: ``(theta, items, weight_b, round) -> []``, client-side; `weight_b` sums to one over the rows
        used in the step.
      server_penalty: ``(D_id, round) -> []``, terms of D outside the views, added on the server.
      solve: ``(theta, head, items, positive_i) -> theta``, exact minimiser over all items, or None.
      linear: whether the score is linear in g_i, and in the client's private row (decides which computation is cheap,
        never the result).
      has_item_tables: the host has item tables of its own, so the variant `base` broadcasts no view.
      reads_D: broadcast the rows of D as table ``"D"`` beside the views (for the distance of private rows from them).
      private_item_table: every client keeps a table [i, d], read as ``items.own``.
      alternate: within a local step the private parameters move first, and the gradient of the public
        ones is taken at the moved point.
      combine: ``(s_i, prior_i) -> s_i`` [i], joins the trained logits of a client with its row of prior scores, or
        of blended views, when items are ranked; None for hosts that rank by one of them alone.
      evidence_loss: ``(theta, head, evidence) -> []``, added to the objective where the client has a
        `agreed.Evidence`; None for hosts without score views.
      view_weights: ``(theta, head, basis) -> w_k`` [k], what such a host gives each view in each shape when it ranks.
      swaps: rank clients with the private state of the next one by id: a control of what is personal.
      trains_items: the client trains on items by the objective; else the evidence is all that it learns from.
      tune_steps, tune_lr: local fine-tuning of the client's own copy of its rows before scoring; 0 = none.
    """

    init_private: Callable[[Array], PyTree]
    score: Callable[[PyTree, PyTree, ItemRows], Array]
    client_weight: Callable[[Array], Array] = equal_weight
    init_public: Callable[[Array], PyTree] = no_public
    derive: Callable[[dict[str, Array], PyTree, bool], dict[str, Array]] | None = None
    regulariser: Callable[[PyTree, ItemRows, Array, Array], Array] = no_regulariser
    server_penalty: Callable[[Array, Array], Array] = no_penalty
    solve: Callable[[PyTree, PyTree, ItemRows, Array], PyTree] | None = None
    linear: bool = True
    has_item_tables: bool = False
    reads_D: bool = False
    private_item_table: bool = False
    alternate: bool = False
    combine: Callable[[Array, Array], Array] | None = None
    evidence_loss: Callable[[PyTree, PyTree, Evidence], Array] | None = None
    view_weights: Callable[[PyTree, PyTree, ViewBasis], Array] | None = None
    swaps: bool = False
    trains_items: bool = True
    tune_steps: int = 0
    tune_lr: float = 0.0
