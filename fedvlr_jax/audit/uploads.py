"""What a server sees in one round: every client's upload as it leaves the device, and what stands in for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.agreed import Evidence
from fedvlr_jax.algorithm import Algorithm
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.federated import sampling
from fedvlr_jax.federated.client import make_client_round
from fedvlr_jax.federated.private_state import gather_clients
from fedvlr_jax.federated.step_loss import put_rows
from fedvlr_jax.federated.transforms import UploadTransform, upload_norm
from fedvlr_jax.models.model import Broadcast
from fedvlr_jax.types import Array, Bucket, ClientData, FedState, PrivateState


class Seen(NamedTuple):
    """Uploads of one round, client by client, float32.

    Attributes:
      rows_uif: the rows of all items, tables beside each other; zero where a client sent none.
      norm_u: L2 norms of whole uploads, rows and head.
      view_norm_uj: of the rows of every view; [u, 0] without views.
    """

    rows_uif: np.ndarray
    norm_u: np.ndarray
    view_norm_uj: np.ndarray


def make_observer(
    algorithm: Algorithm, data: ClientData, num_users: int, num_items: int
) -> Callable[[FedState], Seen]:
    """``(state) -> Seen``: what every client would send in the next round, without any upload transform.

    Args:
      algorithm: of the run.
      data: all clients, in buckets.
      num_users, num_items: |U|, |I|.

    Raises:
      ConfigError: an upload has no rows of items, when it is looked at.
    """
    one_round = make_client_round(algorithm.model, algorithm.local, num_items, UploadTransform())

    def send(
        broadcast: Broadcast,
        private: PrivateState,
        history_l: Array,
        key: Array,
        evidence: Evidence | None,
        number: Array,
    ) -> tuple[Array, Array, Array]:
        _, upload, _ = one_round(broadcast, private, history_l, key, key, number, evidence)
        ids_n = upload.ids_n
        if not upload.rows:
            raise ConfigError(
                "audit.methods: expected methods whose uploads have rows of items, found one that sends none "
                "(fedblend with host.fusion_weight 0); what it sends is no map of a history, and no attack reads it"
            )
        rows = upload.rows if ids_n is None else jax.tree.map(lambda x: put_rows(x, ids_n, num_items), upload.rows)
        flat = jnp.concatenate([x.reshape(num_items, -1) for x in jax.tree.leaves(rows)], axis=1)
        views = rows.get("views", jnp.zeros((num_items, 0, 1)))
        return flat, upload_norm(upload), jnp.sqrt(jnp.sum(views**2, axis=(0, 2)))

    @jax.jit
    def send_all(state: FedState, bucket: Bucket) -> tuple[Array, Array, Array]:
        number = state.public.round
        broadcast = algorithm.model.publish(state.public.params, data.content)
        key_c = sampling.entity_keys(sampling.stream(state.key, sampling.CLIENT, number), bucket.user)
        private = gather_clients(state.private, bucket.state_row, None)
        evidence = jax.tree.map(lambda x: x.at[bucket.user].get(mode="fill", fill_value=0), data.evidence)
        each = jax.vmap(send, in_axes=(None, 0, 0, 0, 0, None))
        return each(broadcast, private, bucket.history, key_c, evidence, number)

    def see(state: FedState) -> Seen:
        user = np.concatenate([np.asarray(bucket.user) for bucket in data.buckets])
        found = [jax.device_get(send_all(state, jax.tree.map(jnp.asarray, bucket))) for bucket in data.buckets]
        order = np.argsort(user)[: np.sum(user < num_users)]
        return Seen(*(np.concatenate(field)[order] for field in zip(*found, strict=True)))

    return see


def clipped(seen: Seen, bound: float) -> np.ndarray:
    """The rows of uploads that are scaled down to the norm `bound`, [u, i, f]."""
    factor_u = np.minimum(1.0, bound / np.maximum(seen.norm_u, 1e-30)).astype(np.float32)
    return seen.rows_uif * factor_u[:, None, None]


def noised(rows: np.ndarray, deviation: float, *seed: int) -> np.ndarray:
    """Rows with Gaussian noise on every number of the whole table; one draw for each tuple of whole numbers."""
    noise = np.random.default_rng(seed).standard_normal(rows.shape, dtype=np.float32)
    return rows + np.float32(deviation) * noise


def groups_of(num_users: int, size: int, seed: int) -> list[np.ndarray]:
    """All clients in random groups of `size` or, where that does not divide their number, of a few more."""
    order_u = np.random.default_rng(seed).permutation(num_users)
    return np.array_split(order_u, max(num_users // size, 1))


def summed(rows_uif: np.ndarray, size: int, seed: int) -> np.ndarray:
    """What a server with a secure sum sees in place of each client's rows: the sum of its group, [u, i, f]."""
    seen = np.empty_like(rows_uif)
    for group in groups_of(len(rows_uif), size, seed):
        seen[group] = rows_uif[group].sum(axis=0)
    return seen
