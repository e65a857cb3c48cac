"""Executors: who trains the clients of a round. The server opens and closes it and does not know.

Here are the two that run inside a compiled program: `make_vmapped_executor`, chunks of clients vmapped on one device,
and `over_mesh`, the same on every device of a mesh. Clients in other processes need no executor of this kind: whoever
carries messages calls ``open_round`` (`server.py`), the function of `client.make_client_round` on each device, the
``add`` of an aggregator for what comes back, and ``close_round``.

Clients run in chunks of one bucket. How many chunks of a bucket a round needs depends on the cohort, so the loop
over chunks has a dynamic length: partial participation costs what it trains.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from fedvlr_jax.agreed import Evidence
from fedvlr_jax.federated import sampling
from fedvlr_jax.federated.aggregation import Aggregator
from fedvlr_jax.federated.client import ClientBatch, draw_batch
from fedvlr_jax.federated.factors import Factors, add_factors
from fedvlr_jax.federated.mesh import AXIS
from fedvlr_jax.federated.paths import PATHS, ChunkResult, train_chunk
from fedvlr_jax.federated.private_state import gather_clients, scatter_clients
from fedvlr_jax.federated.server import Aggregate
from fedvlr_jax.federated.step_loss import LocalSettings
from fedvlr_jax.federated.transforms import UploadTransform, upload_norm
from fedvlr_jax.models.model import Broadcast, Model, derived
from fedvlr_jax.types import NOWHERE, Array, Bucket, PrivateState, PyTree, given


class ClientExecutor(Protocol):
    """Trains the cohort of one round."""

    def __call__(
        self,
        broadcast: Broadcast,
        private: PrivateState,
        buckets: Sequence[Bucket],
        selected_u: Array | None,
        key: Array,
        round_: Array,
        evidence: Evidence | None,
    ) -> tuple[PrivateState, Aggregate]:
        """The clients' private states after the round, and the sums over the cohort.

        Args:
          broadcast: of `server.open_round`.
          private: the states of the clients in the buckets, before the round.
          buckets: histories.
          selected_u: bool [u], who takes part; None: everybody in the buckets.
          key: of the run; `sampling` derives a client's keys from it.
          round_: int32 [], number of the round.
          evidence: leaves [u, ...], what clients learn from beside their histories, or None.
        """


class BucketPlan(NamedTuple):
    """How the clients of one bucket are computed; it changes speed and memory, never the result.

    Attributes:
      chunk: clients at a time.
      path: a name in `paths.PATHS`.
      touched_rows: on the path `uploads`, confine a client to the rows it touches; on `gathered`, its private table.
    """

    chunk: int
    path: str
    touched_rows: bool = True


class Population(NamedTuple):
    """|U|, |I|, and the most clients that one executor trains in a round."""

    num_users: int
    num_items: int
    num_slots: int


def make_vmapped_executor(
    model: Model,
    settings: LocalSettings,
    plan: Sequence[BucketPlan],
    aggregator: Aggregator,
    transform: UploadTransform,
    population: Population,
) -> ClientExecutor:
    """Chunks of clients of one bucket, vmapped; `plan` has one entry for each bucket.

    Where nobody looks at single uploads, and clients leave the rows as they are, what all of them would make of the
    broadcast is made once, and the sum of their cotangents is pulled back once.
    """
    looks = transform.client is not None or not aggregator.linear
    derives = model.host.derive is not None and not looks and not settings.move_items

    def train(
        broadcast: Broadcast,
        private: PrivateState,
        buckets: Sequence[Bucket],
        selected_u: Array | None,
        key: Array,
        round_: Array,
        evidence: Evidence | None,
    ) -> tuple[PrivateState, Aggregate]:
        client_key = sampling.stream(key, sampling.CLIENT, round_)
        zero = jnp.zeros(())
        broadcast, pull_back = jax.vjp(functools.partial(derived, model), broadcast) if derives else (broadcast, None)
        carry = aggregator.init(broadcast, population.num_slots)
        total = Aggregate(carry, zero, zero, jnp.zeros((), jnp.int32), zero if transform.counts else None)
        for bucket, bucket_plan in zip(buckets, plan, strict=True):
            chunk = _Chunk(model, settings, bucket_plan, aggregator, transform, population.num_items)
            step = chunk.trainer(broadcast, key, client_key, round_, evidence)
            private, total = _over_bucket(step, bucket, bucket_plan.chunk, population, selected_u, private, total)
        if pull_back is not None:
            total = total._replace(carry=pull_back(total.carry)[0])
        return private, total

    return train


def over_mesh(executor: ClientExecutor, aggregator: Aggregator, mesh: Mesh | None) -> ClientExecutor:
    """The executor on every device of a mesh, each with its own clients; the totals are joined.

    Private states and buckets are split over the devices, everything else is on all of them.
    """
    if mesh is None:
        return executor

    def on_device(*arguments: Any) -> tuple[PrivateState, Aggregate]:
        private, total = executor(*arguments)
        sums = jax.lax.psum(total._replace(carry=()), AXIS)
        return private, sums._replace(carry=aggregator.merge(total.carry, AXIS))

    specs = (P(), P(AXIS), P(AXIS), P(), P(), P(), P())
    # Loop carries start equal on all devices and end different; the check of replication has no word for that.
    mapped: Any = jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=(P(AXIS), P()), check_vma=False)
    return mapped


TrainStep = Callable[[Bucket, Array, PrivateState, Aggregate], tuple[PrivateState, Aggregate]]


def _over_bucket(
    train: TrainStep,
    bucket: Bucket,
    chunk: int,
    population: Population,
    selected_u: Array | None,
    private: PrivateState,
    total: Aggregate,
) -> tuple[PrivateState, Aggregate]:
    """Trains the cohort's clients of one bucket, chunk by chunk; selected clients come first in the order."""
    num_users, num_items, _ = population
    bucket = jax.tree.map(jnp.asarray, bucket)
    count = bucket.user.size if bucket.row is None else jnp.sum(bucket.user < num_users)
    if selected_u is not None:
        selected_b = selected_u.at[bucket.user].get(mode="fill", fill_value=False)
        order_b = jnp.argsort(~selected_b, stable=True)
        bucket, count = jax.tree.map(lambda x: x[order_b], bucket), jnp.sum(selected_b)

    def body(k: Array, carry: tuple[PrivateState, Aggregate]) -> tuple[PrivateState, Aggregate]:
        private, total = carry
        slot_c = k * chunk + jnp.arange(chunk)
        user_c = jnp.where(slot_c < count, bucket.user.at[slot_c].get(mode="fill", fill_value=num_users), num_users)
        history_cl = bucket.history.at[slot_c].get(mode="fill", fill_value=num_items)
        row_c = bucket.state_row.at[slot_c].get(mode="fill", fill_value=NOWHERE)
        row_c = jnp.where(user_c < num_users, row_c, NOWHERE)
        return train(Bucket(user_c, history_cl, row_c), user_c < num_users, private, total)

    return jax.lax.fori_loop(0, (count + chunk - 1) // chunk, body, (private, total))


def client_weights(model: Model, transform: UploadTransform, length: Array) -> Array:
    """alpha before normalisation, of clients with train histories of these lengths; shaped like `length`, floats."""
    return jnp.ones_like(length) if transform.fixed_weights else model.host.client_weight(length)


class _Chunk(NamedTuple):
    """What a chunk of clients is trained with."""

    model: Model
    settings: LocalSettings
    plan: BucketPlan
    aggregator: Aggregator
    transform: UploadTransform
    num_items: int

    def trainer(
        self, broadcast: Broadcast, key: Array, client_key: Array, round_: Array, evidence: Evidence | None
    ) -> TrainStep:
        """``(clients, active_c, private, total) -> (private, total)`` with the keys of the run and of this round."""
        model, path = self.model, PATHS[self.plan.path]

        def train(
            clients: Bucket, active_c: Array, private: PrivateState, total: Aggregate
        ) -> tuple[PrivateState, Aggregate]:
            batch_c = jax.vmap(self._batch)(clients.history, sampling.entity_keys(client_key, clients.user))
            if evidence is not None:
                own = jax.tree.map(lambda x: x.at[clients.user].get(mode="fill", fill_value=0), evidence)
                batch_c = batch_c._replace(draw=batch_c.draw._replace(evidence=own))
            state_c = gather_clients(private, clients.state_row, batch_c.ids_n)
            length_c = jnp.sum(clients.history < self.num_items, axis=1).astype(float)
            weight_c = client_weights(model, self.transform, length_c)
            alpha_c = jnp.where(active_c, weight_c, 0.0)
            result = train_chunk(path, model, self.settings, broadcast, state_c, batch_c, alpha_c, round_)
            alpha_c = jnp.where(result.alive_c, alpha_c, 0.0)
            state_c, carry = self._joined(result, total.carry, alpha_c, clients.user, key, round_, broadcast)
            row_c = jnp.where(result.alive_c, clients.state_row, NOWHERE)
            return scatter_clients(private, row_c, batch_c.ids_n, state_c), Aggregate(
                carry,
                total.weight + jnp.sum(alpha_c),
                total.loss + jnp.sum(jnp.where(result.alive_c, alpha_c * result.loss_c, 0.0)),
                total.num_dropped + jnp.sum(active_c & ~result.alive_c, dtype=jnp.int32),
                total.within if total.within is None else total.within + self._within(result),
            )

        return train

    def _batch(self, history_l: Array, key: Array) -> ClientBatch:
        path, own_table = self.plan.path, self.model.host.private_item_table
        touched_rows = self.plan.touched_rows and (path == "uploads" or (path == "gathered" and own_table))
        return draw_batch(self.settings, self.num_items, history_l, key, touched_rows=touched_rows)

    def _joined(
        self,
        result: ChunkResult,
        carry: PyTree,
        alpha_c: Array,
        user_c: Array,
        key: Array,
        round_: Array,
        broadcast: Broadcast,
    ) -> tuple[PrivateState, PyTree]:
        """The states with what transforms remember, and the carry with what the clients of the chunk send."""
        uploads, transform = result.uploads, self.transform
        if uploads is None:
            return result.state, jax.tree.map(jnp.add, carry, result.total)
        if isinstance(uploads, Factors):
            public_id = broadcast.rows.get("D")
            if transform.by_norm is None:
                return result.state, add_factors(carry, uploads, alpha_c, public_id)
            with jax.default_matmul_precision("highest"):  # what is added has the norm that was bounded
                weight_c = alpha_c * transform.by_norm(uploads.norm)
                return result.state, add_factors(carry, uploads, weight_c, public_id)
        if transform.client is None:
            return result.state, self.aggregator.add(carry, uploads, alpha_c)
        key_c = sampling.entity_keys(sampling.stream(key, sampling.TRANSFORM, round_), user_c)
        uploads, memory = jax.vmap(transform.client)(key_c, uploads, result.state.memory)
        return result.state.replace(memory=memory), self.aggregator.add(carry, uploads, alpha_c)

    def _within(self, result: ChunkResult) -> Array:
        """The sum over clients of 1/2 for an upload that stays as it is, and -1/2 for another."""
        uploads, by_norm = result.uploads, given(self.transform.by_norm)
        norm_c = uploads.norm if isinstance(uploads, Factors) else jax.vmap(upload_norm)(given(uploads))
        return jnp.sum(jnp.where(result.alive_c, jnp.where(by_norm(norm_c) >= 1, 0.5, -0.5), 0.0))
