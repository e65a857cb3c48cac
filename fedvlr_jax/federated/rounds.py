"""One round as one pure function.

    broadcast, pull_back = vjp(publish, public)            once a round, on the server
    cotangent = sum_u alpha_u (cotangent of client u)      chunks of clients, vmapped (paths.py)
    (gradient,) = pull_back(cotangent / sum_u alpha_u)     once a round, on the server

Clients run in chunks of one bucket. How many chunks of a bucket a round needs depends on the cohort, so the loop
over chunks has a dynamic length: partial participation costs what it trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from fedvlr_jax.federated import sampling
from fedvlr_jax.federated.client import ClientBatch, draw_batch
from fedvlr_jax.federated.mesh import over_devices
from fedvlr_jax.federated.paths import PATHS, gather_local, scatter_local
from fedvlr_jax.federated.server import Aggregate, add_uploads, empty_aggregate, make_server_step
from fedvlr_jax.federated.step_loss import LocalSettings
from fedvlr_jax.models.model import Broadcast, Model
from fedvlr_jax.types import NOWHERE, Array, Bucket, ClientData, FedState, PrivateState, RoundInfo


class BucketPlan(NamedTuple):
    """How the clients of one bucket are computed; it changes speed and memory, never the result.

    Attributes:
      chunk: clients at a time.
      path: a name in `paths.PATHS`.
      touched_rows: on the uploads path, confine a client to the rows it touches.
    """

    chunk: int
    path: str
    touched_rows: bool = True


def make_round(
    model: Model,
    settings: LocalSettings,
    server_optimizer: optax.GradientTransformation,
    plan: Sequence[BucketPlan],
    *,
    num_users: int,
    num_items: int,
    clients_per_round: Array | int,
    drawn: bool = False,
    server_l2: float = 0.0,
    mesh: Mesh | None = None,
) -> Callable[[FedState, ClientData], tuple[FedState, RoundInfo]]:
    """Builds the round ``(state, data) -> (state, info)``; pure, to be jitted at the outermost loop.

    Args:
      model: host and variant.
      settings: how a client trains.
      server_optimizer: optimizer of the public parameters.
      plan: one entry per bucket of the data.
      num_users, num_items: |U|, |I|.
      clients_per_round: n_s, drawn uniformly without replacement; ``num_users`` for full participation. It may be
        an int32 [] array, so that one program serves cohorts of every size.
      drawn: the clients in the buckets were drawn before, and all of them take part.
      server_l2: weight of 0.5 ||public||^2.
      mesh: the devices that the clients are split over (`mesh.py`), None for one.
    """
    server_step = make_server_step(server_optimizer, model.penalty, server_l2)

    def train(
        broadcast: Broadcast,
        private: PrivateState,
        buckets: Sequence[Bucket],
        selected_u: Array | None,
        key: Array,
        number: Array,
    ) -> tuple[PrivateState, Aggregate]:
        total = empty_aggregate(broadcast)
        for bucket, bucket_plan in zip(buckets, plan, strict=True):
            chunk = _make_chunk(model, settings, bucket_plan, num_items, broadcast, key, number)
            private, total = _over_bucket(
                chunk, bucket, bucket_plan.chunk, num_users, num_items, selected_u, private, total
            )
        return private, total

    def round_(state: FedState, data: ClientData) -> tuple[FedState, RoundInfo]:
        number = state.public.round
        broadcast, pull_back = jax.vjp(lambda p: model.publish(p, data.content), state.public.params)
        selected_u = None
        everybody = drawn or (isinstance(clients_per_round, int) and clients_per_round >= num_users)
        if not everybody:
            key = sampling.stream(state.key, sampling.COHORT, number)
            selected_u = sampling.cohort_mask(key, num_users, clients_per_round)
        client_key = sampling.stream(state.key, sampling.CLIENT, number)
        private, total = over_devices(train, mesh)(
            broadcast, state.private, data.buckets, selected_u, client_key, number
        )
        public, update_norm = server_step(state.public, pull_back, total)
        info = RoundInfo(
            loss=total.loss / jnp.maximum(total.weight, 1e-30),
            num_clients=jnp.asarray(clients_per_round, jnp.int32),
            num_dropped=total.num_dropped,
            update_norm=update_norm,
        )
        return state.replace(public=public, private=private), info

    return round_


def _over_bucket(
    train: Callable,
    bucket: Bucket,
    chunk: int,
    num_users: int,
    num_items: int,
    selected_u: Array | None,
    private: PrivateState,
    total: Aggregate,
) -> tuple[PrivateState, Aggregate]:
    """Trains the cohort's clients of one bucket, chunk by chunk; selected clients come first in the order."""
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


def _make_chunk(
    model: Model,
    settings: LocalSettings,
    plan: BucketPlan,
    num_items: int,
    broadcast: Broadcast,
    key: Array,
    round_: Array,
) -> Callable:
    """``(clients, active_c, private, total) -> (private, total)`` for one chunk of clients."""
    touched_rows = plan.path == "uploads" and plan.touched_rows

    def batch_of(history_l: Array, key: Array) -> ClientBatch:
        return draw_batch(settings, num_items, history_l, key, touched_rows=touched_rows)

    def train(
        clients: Bucket, active_c: Array, private: PrivateState, total: Aggregate
    ) -> tuple[PrivateState, Aggregate]:
        batch_c = jax.vmap(batch_of)(clients.history, sampling.entity_keys(key, clients.user))
        local_c = gather_local(private, clients.state_row, batch_c.ids_n)
        length_c = jnp.sum(clients.history < num_items, axis=1).astype(float)
        alpha_c = jnp.where(active_c, model.host.client_weight(length_c), 0.0)
        result, alive_c = PATHS[plan.path](model, settings, broadcast, local_c, batch_c, alpha_c, round_)
        alpha_c = jnp.where(alive_c, alpha_c, 0.0)
        if isinstance(result.contribution, Broadcast):
            cotangent = jax.tree.map(jnp.add, total.cotangent, result.contribution)
        else:
            cotangent = add_uploads(total.cotangent, result.contribution, alpha_c)
        row_c = jnp.where(alive_c, clients.state_row, NOWHERE)
        return scatter_local(private, row_c, batch_c.ids_n, result.local), Aggregate(
            cotangent,
            total.weight + jnp.sum(alpha_c),
            total.loss + jnp.sum(jnp.where(alive_c, alpha_c * result.loss_c, 0.0)),
            total.num_dropped + jnp.sum(active_c & ~alive_c, dtype=jnp.int32),
        )

    return train
