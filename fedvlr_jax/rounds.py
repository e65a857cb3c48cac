"""One round as one pure function, on either of two paths that give the same result.

    broadcast, pull_back = vjp(publish, public)            once a round, on the server
    cotangent = sum_u alpha_u (cotangent of client u)      chunks of clients, vmapped
    (gradient,) = pull_back(cotangent / sum_u alpha_u)     once a round, on the server

`uploads`: every client returns its own upload. This is the specification, what a device runs, and what privacy
and robustness act on. `fused`: the alpha-weighted sum of the clients' losses is differentiated with respect to the
shared broadcast, so that the sum over clients happens inside matrix products and no upload is ever formed.

Clients run in chunks of one bucket. How many chunks of a bucket a round needs depends on the cohort, so the loop
over chunks has a dynamic length: partial participation costs what it trains.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from fedvlr_jax import sampling
from fedvlr_jax.client import (
    Local,
    LocalSettings,
    Upload,
    Work,
    download_of,
    draw_work,
    local_steps,
    make_local_update,
    make_loss,
    make_solve,
    make_update,
)
from fedvlr_jax.model import Broadcast, Download, Model, pool
from fedvlr_jax.server import Aggregate, add_uploads, empty_aggregate, make_server_step
from fedvlr_jax.types import Array, Bucket, ClientData, FedState, PrivateState, PyTree, RoundInfo


class BucketPlan(NamedTuple):
    """How the clients of one bucket are computed; it changes speed and memory, never the result.

    Attributes:
      chunk: clients at a time.
      path: "fused" or "uploads".
      touched_rows: on the uploads path, confine a client to the rows it touches.
    """

    chunk: int
    path: str
    touched_rows: bool = True


class Trained(NamedTuple):
    """What a chunk of clients returns: stepped states, their summed contribution, and who survived."""

    local: Local
    contribution: Broadcast | Upload
    finite_c: Array
    loss_c: Array


def make_round(
    model: Model,
    settings: LocalSettings,
    server_optimizer: optax.GradientTransformation,
    plan: Sequence[BucketPlan],
    *,
    num_users: int,
    num_items: int,
    clients_per_round: int,
    server_l2: float = 0.0,
) -> Callable[[FedState, ClientData], tuple[FedState, RoundInfo]]:
    """Builds the round ``(state, data) -> (state, info)``; pure, to be jitted at the outermost loop.

    Args:
      model: host and variant.
      settings: how a client trains.
      server_optimizer: optimizer of the public parameters.
      plan: one entry per bucket of the data.
      num_users, num_items: |U|, |I|.
      clients_per_round: n_s, drawn uniformly without replacement; ``num_users`` for full participation.
      server_l2: weight of 0.5 ||public||^2.
    """
    server_step = make_server_step(server_optimizer, model.penalty, server_l2)

    def round_(state: FedState, data: ClientData) -> tuple[FedState, RoundInfo]:
        number = state.public.round
        broadcast, pull_back = jax.vjp(lambda p: model.publish(p, data.content), state.public.params)
        selected_u = None
        if clients_per_round < num_users:
            key = sampling.stream(state.key, sampling.COHORT, number)
            selected_u = sampling.cohort_mask(key, num_users, clients_per_round)
        client_key = sampling.stream(state.key, sampling.CLIENT, number)
        private, total = state.private, empty_aggregate(broadcast)
        for bucket, bucket_plan in zip(data.buckets, plan, strict=True):
            train = _make_chunk(model, settings, bucket_plan, num_items, broadcast, client_key, number)
            private, total = _over_bucket(
                train, bucket, bucket_plan.chunk, num_users, num_items, selected_u, private, total
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
    user_b, history_bl = jnp.asarray(bucket.user), jnp.asarray(bucket.history)
    count = user_b.size
    if selected_u is not None:
        selected_b = selected_u[user_b]
        order_b = jnp.argsort(~selected_b, stable=True)
        user_b, history_bl, count = user_b[order_b], history_bl[order_b], jnp.sum(selected_b)

    def body(k: Array, carry: tuple[PrivateState, Aggregate]) -> tuple[PrivateState, Aggregate]:
        private, total = carry
        slot_c = k * chunk + jnp.arange(chunk)
        user_c = jnp.where(
            slot_c < count, user_b.at[slot_c].get(mode="fill", fill_value=num_users), num_users
        )
        history_cl = history_bl.at[slot_c].get(mode="fill", fill_value=num_items)
        return train(Bucket(user_c, history_cl), user_c < num_users, private, total)

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

    def work_of(history_l: Array, key: Array) -> Work:
        return draw_work(settings, num_items, history_l, key, touched_rows=touched_rows)

    def train(
        clients: Bucket, active_c: Array, private: PrivateState, total: Aggregate
    ) -> tuple[PrivateState, Aggregate]:
        work_c = jax.vmap(work_of)(clients.history, sampling.entity_keys(key, clients.user))
        local_c = gather_local(private, clients.user, work_c.ids_n)
        length_c = jnp.sum(clients.history < num_items, axis=1).astype(jnp.float32)
        alpha_c = jnp.where(active_c, model.host.client_weight(length_c), 0.0)
        run = _run_fused if plan.path == "fused" else _run_uploads
        trained, alive_c = run(model, settings, broadcast, local_c, work_c, alpha_c, round_)
        alpha_c = jnp.where(alive_c, alpha_c, 0.0)
        if plan.path == "fused":
            cotangent = jax.tree.map(jnp.add, total.cotangent, trained.contribution)
        else:
            cotangent = add_uploads(total.cotangent, trained.contribution, alpha_c)
        user_c = jnp.where(alive_c, clients.user, jnp.iinfo(jnp.int32).max)
        return scatter_local(private, user_c, work_c.ids_n, trained.local), Aggregate(
            cotangent,
            total.weight + jnp.sum(alpha_c),
            total.loss + jnp.sum(jnp.where(alive_c, alpha_c * trained.loss_c, 0.0)),
            total.num_dropped + jnp.sum(active_c & ~alive_c, dtype=jnp.int32),
        )

    return train


def _run_uploads(
    model: Model,
    settings: LocalSettings,
    broadcast: Broadcast,
    local_c: Local,
    work_c: Work,
    alpha_c: Array,
    round_: Array,
) -> tuple[Trained, Array]:
    """The specification: every client returns its own upload; one that is not finite is left out."""
    local_update = make_local_update(model, settings)
    local_c, upload_c, loss_ca = jax.vmap(local_update, in_axes=(None, 0, 0, None))(
        broadcast, local_c, work_c, round_
    )
    finite_c = finite_rows((local_c, upload_c.rows, upload_c.head, loss_ca))
    return Trained(local_c, upload_c, finite_c, jnp.mean(loss_ca, axis=1)), (alpha_c > 0) & finite_c


def _run_fused(
    model: Model,
    settings: LocalSettings,
    broadcast: Broadcast,
    local_c: Local,
    work_c: Work,
    alpha_c: Array,
    round_: Array,
) -> tuple[Trained, Array]:
    """Trains a chunk with shared rows; if a client is not finite, the chunk runs again without it."""

    def run(alive_c: Array) -> Trained:
        weight_c = jnp.where(alive_c, alpha_c, 0.0)
        safe_c = jax.tree.map(lambda x: jnp.where(_column(alive_c, x), x, 0), local_c)
        return _fused_steps(model, settings, broadcast, safe_c, work_c.draw, weight_c, round_)

    def unfinished(carry: tuple) -> Array:
        return ~carry[0]

    def attempt(carry: tuple) -> tuple:
        _, alive_c, _ = carry
        trained = run(alive_c)
        good_c = alive_c & trained.finite_c
        sum_finite = jnp.all(finite_rows(jax.tree.map(lambda x: x[None], trained.contribution)))
        done = sum_finite & jnp.all(good_c == alive_c)
        # A sum that overflows although every client looks finite has no culprit: the chunk is left out whole.
        blame = sum_finite | jnp.any(good_c != alive_c)
        return done, jnp.where(blame, good_c, False), trained

    alive_c = alpha_c > 0
    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(run, alive_c))
    _, alive_c, trained = jax.lax.while_loop(unfinished, attempt, (jnp.array(False), alive_c, empty))
    return trained, alive_c


def _fused_steps(
    model: Model,
    settings: LocalSettings,
    broadcast: Broadcast,
    local_c: Local,
    draw_c: PyTree,
    weight_c: Array,
    round_: Array,
) -> Trained:
    """A local steps of a chunk with one backward pass a step for its private and public parameters.

    The losses are pulled back with the weights alpha_c: the cotangent of the shared download is then the weighted
    sum over clients, and a client's private gradient comes out multiplied by its weight, which is divided off.
    """
    if draw_c.negative_aln is not None:
        draw_c = draw_c._replace(negative_aln=jnp.swapaxes(draw_c.negative_aln, 0, 1))
    download, pull = download_of(
        model, broadcast.rows, broadcast.head, draw_c, jax.vmap(pool, in_axes=(None, 0, 0))
    )
    per_client = (Download(None, 0, None), 0, 0)
    loss = jax.vmap(make_loss(model, settings, round_, all_items=True), in_axes=per_client)
    inverse_c = jnp.where(weight_c > 0, 1 / jnp.where(weight_c > 0, weight_c, 1.0), 0.0)

    def gradients(download: Download, params_c: PyTree, draw_c: PyTree) -> tuple:
        loss_c, pull_loss = jax.vjp(lambda dl, p: loss(dl, p, draw_c), download, params_c)
        cotangent, gradient_c = pull_loss(weight_c)
        return loss_c, cotangent, jax.tree.map(lambda g: _column(inverse_c, g) * g, gradient_c)

    solve = make_solve(model)
    local_c, total, loss_ac = local_steps(
        gradients,
        jax.vmap(make_update(settings)),
        solve if solve is None else jax.vmap(solve, in_axes=per_client),
        settings,
        model.host.alternate,
        download,
        local_c,
        draw_c,
    )
    finite_c = finite_rows((local_c, loss_ac.T))
    return Trained(local_c, Broadcast(pull(total), total.head), finite_c, jnp.mean(loss_ac, axis=0))


def gather_local(private: PrivateState, user_c: Array, ids_cn: Array | None) -> Local:
    """The states of clients `user_c`; of a private item table only the rows `ids_cn` where given."""

    def take(x: Array) -> Array:
        return x.at[user_c].get(mode="fill", fill_value=0)

    params = {k: jax.tree.map(take, v) for k, v in private.params.items() if k != "own"}
    if "own" in private.params:
        at = (user_c,) if ids_cn is None else (user_c[:, None], ids_cn)
        params["own"] = private.params["own"].at[at].get(mode="fill", fill_value=0)
    return Local(params, jax.tree.map(take, private.opt_state))


def scatter_local(private: PrivateState, user_c: Array, ids_cn: Array | None, local_c: Local) -> PrivateState:
    """Writes the states of clients `user_c` back; an id out of range writes nothing."""

    def put(x: Array, new: Array) -> Array:
        return x.at[user_c].set(new, mode="drop")

    params = {k: jax.tree.map(put, v, local_c.params[k]) for k, v in private.params.items() if k != "own"}
    if "own" in private.params:
        at = (user_c,) if ids_cn is None else (user_c[:, None], ids_cn)
        params["own"] = private.params["own"].at[at].set(local_c.params["own"], mode="drop")
    return PrivateState(params=params, opt_state=jax.tree.map(put, private.opt_state, local_c.opt_state))


def finite_rows(tree: PyTree) -> Array:
    """bool [c], whether every floating-point number of a client is finite, over leaves with leading axis c."""
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    finite = [jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim))) for x in leaves]
    return jnp.all(jnp.stack(finite), axis=0)


def _column(x_c: Array, like: Array) -> Array:
    return x_c.reshape(x_c.shape + (1,) * (like.ndim - 1))
