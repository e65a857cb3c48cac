"""Sizes of a model, of its state and of its messages, from shapes alone (nothing is computed or compiled)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from fedvlr_jax.models.model import Model
from fedvlr_jax.types import Array, Content, FedState, PyTree


class CostReport(NamedTuple):
    """Sizes of a federated model.

    Attributes:
      public, private: pytrees of shapes and dtypes; `private` is one client's.
      num_public: public parameters.
      num_private_per_client: private parameters of one client.
      bytes_down_per_client: a broadcast, ``bytes_per_row`` for each row that a client asks for (all, unless
        ``client.download_rows`` says otherwise), plus ``bytes_head``.
      bytes_up_per_client: a whole upload; it has the broadcast's shape.
      bytes_per_row: one item's row in all tables of the broadcast.
      bytes_head: public parameters that every client reads whole.
      bytes_state: public and private state with both optimizers, all clients.
    """

    public: PyTree
    private: PyTree
    num_public: int
    num_private_per_client: int
    bytes_down_per_client: int
    bytes_up_per_client: int
    bytes_per_row: int
    bytes_head: int
    bytes_state: int


def cost_report(
    init: Callable[[Array], FedState], model: Model, content: Content, num_users: int, download_rows: int = 0
) -> CostReport:
    """Reads all sizes off the shapes of the initial state and of the broadcast; `download_rows` is the setting."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(init, key)
    private = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), state.private.params)  # one client's
    broadcast = jax.eval_shape(model.publish, state.public.params, content)
    rows, head = _bytes(broadcast.rows), _bytes(broadcast.head)
    tables = list(broadcast.rows.values())  # none where a host broadcasts a head alone
    num_items = tables[0].shape[0] if tables else 1
    return CostReport(
        public=state.public.params,
        private=private,
        num_public=_count(state.public.params),
        num_private_per_client=_count(private),
        bytes_down_per_client=rows // num_items * min(download_rows or num_items, num_items) + head,
        bytes_up_per_client=rows + head,
        bytes_per_row=rows // num_items,
        bytes_head=head,
        bytes_state=_bytes((state.public, state.private)),
    )


def _count(tree: PyTree) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


def _bytes(tree: PyTree) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
