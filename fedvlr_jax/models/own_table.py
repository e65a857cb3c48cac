"""A client's private item table T: rows as they are, or the span that its local steps keep it in.

Where a loss reads T_i only by its product with a vector q of the client, its distance from the public row D_i and its
length, a step of plain SGD with rate eta moves row i by

    T_i <- T_i - eta (e_i q + 2 r_i (T_i - D_i) + 2 l_i T_i),

e_i, r_i and l_i the derivatives of the loss in T_i . q, ||T_i - D_i||^2 and ||T_i||^2. So after a steps it is

    T_i = t_0i P_i + t_1i D_i + t_2i q_1 + ... + t_(a+1)i q_a,      P_i the row before the first step,

and a step moves the a + 2 numbers t_i alone. It reads the table to multiply it, once forward and once back, and
never writes it; the rows are formed once, after the last step. The same holds for the sum over the steps of the
derivative in D_i.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from fedvlr_jax.types import Array, given


class OwnRows(Protocol):
    """What a loss may read of the rows of a private item table."""

    def dot(self, q_d: Array) -> Array:
        """T_i . q of every row, [b]."""
        ...

    def distance(self) -> Array:
        """||T_i - D_i||^2 of every row, [b]."""
        ...

    def square(self) -> Array:
        """||T_i||^2 of every row, [b]."""
        ...


class TableRows(NamedTuple):
    """Rows of a private item table as they are, and those of D where the host reads them (both [b, d])."""

    table_bd: Array
    public_bd: Array | None = None

    def dot(self, q_d: Array) -> Array:
        """T_i . q of every row, [b]."""
        return self.table_bd @ q_d

    def distance(self) -> Array:
        """||T_i - D_i||^2 of every row, [b]."""
        return jnp.sum((self.table_bd - given(self.public_bd)) ** 2, axis=-1)

    def square(self) -> Array:
        """||T_i||^2 of every row, [b]."""
        return jnp.sum(self.table_bd**2, axis=-1)


class SpanStep(NamedTuple):
    """What a local step needs of the loss, in place of its gradient in the table: e [i], q [d], r [i], l [i]."""

    e_i: Array
    query_d: Array
    distance_i: Array
    square_i: Array


class RowsStep(NamedTuple):
    """The gradient of a local step in the rows of a table at positions [b], [b, d]; rows may come twice, in parts."""

    position_b: Array
    gradient_bd: Array


class SpannedTable(NamedTuple):
    """A whole private item table as k = A + 2 numbers a row over (P_i, D_i, q_1, ..., q_A).

    Attributes:
      start_id, public_id: P and D.
      query_ad: q_a by step; zeros for steps to come.
      t_ki: the table.
      pulled_ki: the sum over steps of r_i (T_i - D_i): the derivative of their losses in D_i is -2 times that.
      square_i, both_i, public_i: ||T_i||^2, T_i . D_i and ||D_i||^2.
      step: int32 [], steps made.
      more_i: what is added to ||T_i - D_i||^2 and to ||T_i||^2, for derivatives in them.
    """

    start_id: Array
    public_id: Array
    query_ad: Array
    t_ki: Array
    pulled_ki: Array
    square_i: Array
    both_i: Array
    public_i: Array
    step: Array
    more_i: tuple[Array, Array]

    def dot(self, q_d: Array) -> Array:
        """T_i . q of every row, [i]."""
        t_ki = self.t_ki
        return t_ki[0] * (self.start_id @ q_d) + t_ki[1] * (self.public_id @ q_d) + (self.query_ad @ q_d) @ t_ki[2:]

    def distance(self) -> Array:
        """||T_i - D_i||^2 of every row, [i]."""
        return jax.lax.stop_gradient(self.square_i - 2 * self.both_i + self.public_i) + self.more_i[0]

    def square(self) -> Array:
        """||T_i||^2 of every row, [i]."""
        return jax.lax.stop_gradient(self.square_i) + self.more_i[1]

    def moved(self, step: SpanStep, rate: float | Array) -> SpannedTable:
        """The table after a step of SGD: T <- keep T + towards D - along q."""
        keep_i, towards_i = 1 - 2 * rate * (step.distance_i + step.square_i), 2 * rate * step.distance_i
        along_i, place = rate * step.e_i, self.step + 2
        table_q_i, public_q_i = self.dot(step.query_d), self.public_id @ step.query_d  # XLA has both from the score
        moved_i = towards_i * self.public_i - along_i * public_q_i  # (T_new - keep T) . D
        square_i = (
            keep_i**2 * self.square_i
            + 2 * keep_i * (towards_i * self.both_i - along_i * table_q_i)
            + towards_i * (moved_i - along_i * public_q_i)
            + along_i**2 * (step.query_d @ step.query_d)
        )
        return self._replace(
            query_ad=self.query_ad.at[self.step].set(step.query_d),
            t_ki=(keep_i[None] * self.t_ki).at[1].add(towards_i).at[place].set(-along_i),
            pulled_ki=self.pulled_ki + step.distance_i[None] * self.t_ki.at[1].add(-1),
            square_i=square_i,
            both_i=keep_i * self.both_i + moved_i,
            step=self.step + 1,
        )

    def rows(self) -> Array:
        """T, [i, d]."""
        return SpannedRows(self.start_id, self.t_ki, self.query_ad).rows(self.public_id)

    def pulled(self) -> SpannedRows:
        """The sum over steps of the derivative of the loss in D."""
        return SpannedRows(self.start_id, -2 * self.pulled_ki, self.query_ad)


class SpannedRows(NamedTuple):
    """Rows x_0i P_i + x_1i D_i + x_2i q_1 + ... of one client; with leading axis c for a chunk of clients."""

    start_id: Array
    x_ki: Array
    query_ad: Array

    def rows(self, public_id: Array) -> Array:
        """The rows of one client, [i, d]."""
        x_ki = self.x_ki
        return x_ki[0][:, None] * self.start_id + x_ki[1][:, None] * public_id + x_ki[2:].T @ self.query_ad


def span(start_id: Array, public_id: Array, steps: int) -> SpannedTable:
    """The span of a table that is at `start_id` before the first of so many local steps."""
    num_items, dim = start_id.shape
    zeros_ki = jnp.zeros((steps + 2, num_items), start_id.dtype)
    return SpannedTable(
        start_id=start_id,
        public_id=public_id,
        query_ad=jnp.zeros((steps, dim), start_id.dtype),
        t_ki=zeros_ki.at[0].set(1),
        pulled_ki=zeros_ki,
        square_i=_row_products(start_id, start_id),
        both_i=_row_products(start_id, public_id),
        public_i=_row_products(public_id, public_id),
        step=jnp.int32(0),
        more_i=(zeros_ki[0], zeros_ki[0]),
    )


def _row_products(x_id: Array, y_id: Array) -> Array:
    """x_i . y_i of every row, [i]; a product with ones, since XLA takes a sum over so many columns in pieces."""
    return (x_id * y_id) @ jnp.ones(x_id.shape[1], x_id.dtype)


def sum_rows(rows_c: SpannedRows, weight_c: Array, public_id: Array) -> Array:
    """``sum_c weight_c rows_c``, [i, d], of which only the sum is formed."""
    weighted_cki = weight_c[:, None, None] * rows_c.x_ki
    along_bi, query_bd = (
        weighted_cki[:, 2:].reshape(-1, public_id.shape[0]),
        rows_c.query_ad.reshape(-1, public_id.shape[1]),
    )
    own_id = jnp.sum(weighted_cki[:, 0, :, None] * rows_c.start_id, axis=0)
    return own_id + jnp.sum(weighted_cki[:, 1], axis=0)[:, None] * public_id + along_bi.T @ query_bd


def step_table(table: Any, gradient: Any, rate: float | Array) -> Any:
    """A private item table after a step of SGD.

    Args:
      table: an array [n, d] or a `SpannedTable`.
      gradient: of an array its gradient or `RowsStep`, of a span a `SpanStep`.
      rate: of the step.
    """
    if isinstance(table, SpannedTable):
        return table.moved(gradient, rate)
    if isinstance(gradient, RowsStep):  # the other rows stay, and nobody passes over them
        return table.at[gradient.position_b].add(-rate * gradient.gradient_bd, mode="drop")
    return table - rate * gradient
