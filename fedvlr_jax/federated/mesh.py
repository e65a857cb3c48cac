"""Several devices, in one process or many: clients split over them, public state on each of them.

Device k of n owns the clients ``k B <= u < (k + 1) B`` with B = ceil(|U| / n), and keeps their private states and
histories. A round then needs one collective: the sum of the clients' cotangents, as large as the broadcast. What it
computes does not depend on n but for the order of that sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from fedvlr_jax.errors import ConfigError
from fedvlr_jax.types import NOWHERE, Array, Bucket, ClientData, FedState, PyTree, Ranks, Targets

AXIS = "clients"


def join_processes(coordinator: str, num_processes: int, process_id: int) -> None:
    """Makes this process one of several of the same run; to be called before anything else of JAX.

    Args:
      coordinator: "host:port" of process 0, or "auto" where the cluster says so itself (TPU pods, Slurm, MPI).
      num_processes, process_id: how many there are, and which one this is; unread with "auto".

    Raises:
      ConfigError: an address without a port, or a process out of range.
    """
    if coordinator == "auto":
        jax.distributed.initialize()
        return
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(f"--coordinator: expected host:port or auto, found {coordinator!r}")
    if not 0 <= process_id < num_processes:
        raise ConfigError(f"--process_id: expected 0 to {num_processes - 1}, found {process_id}")
    jax.distributed.initialize(coordinator, num_processes, process_id)


def agreed(value: int) -> int:
    """The value of process 0, in all processes: what depends on a clock or a signal must be decided once."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def whole(mesh: Mesh | None) -> NamedSharding | None:
    """The sharding of what every device of the mesh has all of; None without a mesh."""
    return None if mesh is None else NamedSharding(mesh, P())


def replicate(x: PyTree, mesh: Mesh | None) -> PyTree:
    """Arrays in the memory of a process, equal in all processes, on every device of the mesh."""
    return x if mesh is None else _put(x, NamedSharding(mesh, P()))


def make_mesh(num_devices: int) -> Mesh | None:
    """A mesh over the first devices of all processes; None for one device, which needs none.

    Args:
      num_devices: how many, or 0 for all there are.

    Raises:
      ConfigError: more devices than there are, or a number that leaves out a process.
    """
    devices = jax.devices()
    count = num_devices or len(devices)
    if count > len(devices):
        raise ConfigError(
            f"compute.devices: expected at most {len(devices)}, the {devices[0].platform} devices of "
            f"{jax.process_count()} process(es), found {count}; 0 takes all there are"
        )
    if jax.process_count() > 1 and count < len(devices):
        raise ConfigError(
            f"compute.devices: expected 0 or {len(devices)}, all devices of {jax.process_count()} processes, "
            f"found {count}: every process has to take part"
        )
    if count == 1:
        return None
    return Mesh(np.asarray(devices[:count]), (AXIS,), axis_types=(AxisType.Auto,))


def padded_rows(num_users: int, mesh: Mesh | None) -> int:
    """Rows of the private state: |U|, rounded up to a multiple of the devices."""
    size = 1 if mesh is None else mesh.size
    return -(-num_users // size) * size


def state_shardings(state: FedState, mesh: Mesh) -> FedState:
    """The sharding of every leaf of a state: private ones split over clients, everything else on all devices."""
    split, everywhere = NamedSharding(mesh, P(AXIS)), NamedSharding(mesh, P())
    shardings = jax.tree.map(lambda _: everywhere, state)
    return shardings.replace(private=jax.tree.map(lambda _: split, state.private))


def place_clients(data: ClientData, num_users: int, num_items: int, mesh: Mesh | None) -> ClientData:
    """The clients' data on the device, or split over the devices of a mesh."""
    if mesh is None:
        return jax.device_put(data)
    buckets = tuple(_split_bucket(bucket, num_users, num_items, mesh) for bucket in data.buckets)
    rest = replicate(data._replace(buckets=()), mesh)
    return rest._replace(buckets=_put(buckets, NamedSharding(mesh, P(AXIS))))


def rank_over_devices(rank: Callable[..., Ranks], mesh: Mesh | None) -> Callable[..., Ranks]:
    """``rank(snapshot, buckets, targets) -> Ranks`` on every device's clients, joined.

    ``snapshot.private`` and ``buckets`` are split, the rest of the arguments is not.
    """
    if mesh is None:
        return rank

    def on_device(private: PyTree, rest: Any, buckets: tuple[Bucket, ...], targets: Targets) -> Ranks:
        found = rank(rest._replace(private=private), buckets, targets)
        here_u = jnp.zeros(found.constant.shape, jnp.int32)
        for bucket in buckets:
            here_u = here_u.at[bucket.user].set(1, mode="drop")
        others_u = 1 - jax.lax.psum(here_u, AXIS)  # in no bucket of any device: the same everywhere

        def join(x: Array, here: Array, others: Array) -> Array:
            total = jax.lax.psum(jnp.where(here == 1, x, 0).astype(jnp.int32), AXIS)
            return jnp.where(others == 1, x, total).astype(x.dtype)

        of_users = here_u, others_u
        of_rows = of_users if found.user is None else tuple(x_u[found.user] for x_u in of_users)
        users = {name: join(getattr(found, name), *of_users) for name in ("constant", "nonfinite")}
        rows = {name: join(getattr(found, name), *of_rows) for name in ("item", "greater", "tied")}
        return found._replace(**users, **rows)

    specs = (P(AXIS), P(), P(AXIS), P())
    mapped = jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False)
    return lambda snapshot, *rest: mapped(snapshot.private, snapshot._replace(private=None), *rest)


def over_devices(function: Callable[..., PyTree], mesh: Mesh | None) -> Callable[..., PyTree]:
    """``function(snapshot, slots, *rest)`` of every device's slots, each result joined along its leading axis.

    ``snapshot.private`` is split and `slots` are as `slots_of_devices` has them; the rest of the arguments is not.
    """
    if mesh is None:
        return function

    def on_device(private: PyTree, shared: Any, slots: Bucket, *rest: PyTree) -> PyTree:
        return function(shared._replace(private=private), slots, *rest)

    def mapped(snapshot: Any, slots: Bucket, *rest: PyTree) -> PyTree:
        specs = (P(AXIS), P(), P(AXIS), *(P() for _ in rest))
        split = jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=P(AXIS), check_vma=False)
        return split(snapshot.private, snapshot._replace(private=None), slots, *rest)

    return mapped


def slots_of_devices(
    bucket: Bucket, num_users: int, num_items: int, mesh: Mesh | None, *, chunk: int
) -> Iterator[Bucket]:
    """The slots of a bucket (NumPy), at most `chunk` of every device at a time, in pieces of one shape.

    Each piece has equally many slots of every device, those of one device side by side; empty ones fill them up.
    """
    size = 1 if mesh is None else mesh.size
    split = bucket if mesh is None else _split_bucket(bucket, num_users, num_items, mesh)
    slots = split.user.shape[0] // size
    pieces = -(-slots // chunk)
    width = -(-slots // pieces) if pieces else 0

    def piece(x: Any, k: int, empty: int) -> Any:
        part = x.reshape(size, slots, *x.shape[1:])[:, k * width : (k + 1) * width]
        fill = [(0, 0), (0, width - part.shape[1]), *((0, 0) for _ in x.shape[1:])]
        return np.pad(part, fill, constant_values=empty).reshape(-1, *x.shape[1:])

    for k in range(pieces):
        row = None if split.row is None else piece(np.asarray(split.row), k, NOWHERE)
        yield Bucket(piece(np.asarray(split.user), k, num_users), piece(np.asarray(split.history), k, num_items), row)


def _split_bucket(bucket: Bucket, num_users: int, num_items: int, mesh: Mesh) -> Bucket:
    """The bucket as one block of slots for each device, equally long; empty slots come last in a block."""
    user_b, history_bl = np.asarray(bucket.user), np.asarray(bucket.history)
    share = padded_rows(num_users, mesh) // mesh.size
    owned = [np.flatnonzero(user_b // share == k) for k in range(mesh.size)]
    width = max(slots.size for slots in owned)
    user = np.full((mesh.size, width), num_users, np.int32)
    row = np.full((mesh.size, width), NOWHERE, np.int32)
    history = np.full((mesh.size, width, history_bl.shape[1]), num_items, np.int32)
    for k, slots in enumerate(owned):
        user[k, : slots.size], row[k, : slots.size] = user_b[slots], user_b[slots] - k * share
        history[k, : slots.size] = history_bl[slots]
    arrays: tuple[Any, Any, Any] = (user.reshape(-1), history.reshape(-1, history_bl.shape[1]), row.reshape(-1))
    return Bucket(*arrays)


def _put(tree: PyTree, sharding: NamedSharding) -> PyTree:
    """Arrays in the memory of a process, equal in all processes, as arrays over the mesh."""

    def put(x: Any) -> Array:
        array = np.asarray(x)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, tree)
