"""What the loop needs of the compiled programs of a run, wherever private states lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from fedvlr_jax.federated.mesh import state_shardings
from fedvlr_jax.io.checkpoint import Checkpoints
from fedvlr_jax.types import Bucket, FedState, PyTree, Ranks, RoundInfo


class Backend(Protocol):
    """What the loop needs of the compiled programs of a run, wherever private states lie.

    A state is a `FedState` that the loop hands on from call to call; `advance` consumes it. What of it lies elsewhere
    belongs to the holder and always is that of the latest round.

    Attributes:
      warm_i: bool [i], items with train rows.
      seconds: spent on compiling so far.
    """

    warm_i: np.ndarray
    seconds: float

    def init(self, seed: int) -> PyTree:
        """The state before the first round."""

    def restore(self, checkpoints: Checkpoints, round_: int, *, read_only: bool) -> PyTree:
        """The state of a round that was saved; with `read_only` it cannot be advanced.

        Raises:
          CheckpointError: as `Checkpoints.restore` and `client_store.snapshot.View.restore`.
        """

    def prepare(self, length: int | None) -> None:
        """Compile what is missing of the ranking, and of rounds in stretches of a multiple of `length` if given."""

    def advance(self, state: PyTree, num_rounds: int) -> tuple[PyTree, RoundInfo]:
        """The state so many rounds later, and the (NumPy) info of each of them; waits for both."""

    def rank(self, state: PyTree, *, hide_test: bool) -> Ranks:
        """Where the held-out items stand; with `hide_test` the test items are not handed over at all."""

    def parts(self, state: PyTree) -> Iterator[tuple[FedState, Bucket]]:
        """All clients, some at a time: their histories, and a state in which `Bucket.state_row` finds their own."""

    def commit(self) -> Mapping[str, Any]:
        """Make durable what is not part of the state; what a checkpoint's record has to say of it."""

    def retain(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Delete what no checkpoint needs, given the records of all that are left."""


def abstract(state: FedState, mesh: Mesh | None) -> FedState:
    """Shapes, types and places only: no weak types, which a restored state does not have."""
    if mesh is None:
        shardings = jax.tree.map(lambda _: SingleDeviceSharding(jax.devices()[0]), state)
    else:
        shardings = state_shardings(state, mesh)
    return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), state, shardings)
