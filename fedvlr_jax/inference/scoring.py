"""All clients of a trained model scored, some at a time on every device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np

from fedvlr_jax.algorithm import Algorithm
from fedvlr_jax.federated.mesh import over_devices, replicate, slots_of_devices, whole
from fedvlr_jax.federated.scoring import Snapshot
from fedvlr_jax.types import Bucket, ClientData, FedState, PyTree


def score_clients(
    algorithm: Algorithm,
    parts: Iterable[tuple[FedState, Bucket]],
    clients: ClientData,
    function: Callable[..., PyTree],
    *rest: PyTree,
    num_users: int,
    num_items: int,
    chunk: int,
) -> Iterator[tuple[np.ndarray, PyTree]]:
    """What a function makes of all clients; every device scores its own.

    Args:
      algorithm: the model.
      parts: its trained state and all clients, some at a time (`training.backend.Backend.parts`).
      clients: features and prior as in training; its buckets are not read.
      function: ``function(params, slots, *rest)``, pure; every leaf of its result has a leading axis, of the slots or
        of length one.
      rest: further arguments (NumPy), equal on all devices.
      num_users, num_items: |U|, |I|.
      chunk: most clients that a device scores at once.

    Yields:
      ``(user_c, result)`` of some slots (NumPy); |U| is the user of an empty one. A leading axis of length one has
      become that of devices.
    """
    placed, mesh, published = whole(algorithm.mesh), algorithm.mesh, None

    def publish(state: FedState, clients: ClientData) -> Snapshot:
        return algorithm.snapshot(state, clients.content, clients.prior)

    rest = jax.device_put(rest) if mesh is None else replicate(rest, mesh)
    program = jax.jit(over_devices(function, mesh), out_shardings=placed)
    for state, bucket in parts:
        if published is None:  # what all parts share
            shared = jax.tree.map(np.asarray, clients._replace(buckets=()))
            published = jax.jit(publish, out_shardings=placed)(state.replace(private=None), shared)
        params = published._replace(private=state.private)
        for slots in slots_of_devices(bucket, num_users, num_items, mesh, chunk=chunk):
            yield np.asarray(slots.user), jax.device_get(program(params, slots, *rest))
