"""One round as one pure function.

broadcast, pull_back = open_round(public)              vjp of publish, once a round, on the server
private, total = executor(broadcast, private, ...)     clients train and upload; an aggregator joins
mean = aggregate(total)                                server halves of the upload transforms
public = close_round(public, pull_back, mean)          one pull-back, one optimizer step
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from fedvlr_jax.federated import sampling
from fedvlr_jax.federated.adaptive_clip import AdaptiveClip
from fedvlr_jax.federated.aggregation import Aggregator, make_weighted_mean
from fedvlr_jax.federated.dropouts import Dropouts, unless_failed
from fedvlr_jax.federated.executors import BucketPlan, ClientExecutor, Population, make_vmapped_executor, over_mesh
from fedvlr_jax.federated.mesh import padded_rows
from fedvlr_jax.federated.server import Aggregate, make_server
from fedvlr_jax.federated.step_loss import LocalSettings
from fedvlr_jax.federated.transforms import UploadTransform
from fedvlr_jax.models.model import Broadcast, Model
from fedvlr_jax.types import Array, ClientData, FedState, RoundInfo, given

Round = Callable[[FedState, ClientData], tuple[FedState, RoundInfo]]


class Pipeline(NamedTuple):
    """What happens to uploads between clients and server.

    Attributes:
      transform: before and after they are joined.
      aggregator: how they are joined.
      dropouts: who is lost on the way.
      adaptive: how the bound of clip moves; the public state then remembers it.
      at: ``(bound) -> Pipeline`` of one round, where it moves.
    """

    transform: UploadTransform = UploadTransform()
    aggregator: Aggregator = make_weighted_mean()
    dropouts: Dropouts | None = None
    adaptive: AdaptiveClip | None = None
    at: Callable[[Array], Pipeline] | None = None

    @property
    def forms_uploads(self) -> bool:
        """Whether uploads are needed one by one, so that the server has to do the summing."""
        return self.transform.client is not None or not self.aggregator.linear

    @property
    def scales_uploads(self) -> bool:
        """Whether clients do no more to an upload than to multiply it by a number that its norm gives."""
        return self.transform.by_norm is not None and self.aggregator.linear

    def mean(self, total: Aggregate, clients_per_round: Array | int, key: Array, round_: Array) -> Broadcast:
        """The mean cotangent of a round, from the sums over its clients."""
        transform = self.transform
        weight = jnp.asarray(clients_per_round, float) if transform.fixed_weights else total.weight
        mean = self.aggregator.finish(total.carry, weight)
        if transform.server is None:
            return mean
        return transform.server(sampling.stream(key, sampling.NOISE, round_), mean, weight)


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
    poisson: bool = False,
    server_l2: float | Array = 0.0,
    mesh: Mesh | None = None,
    pipeline: Pipeline | None = None,
) -> Round:
    """Builds the round ``(state, data) -> (state, info)``; pure, to be jitted at the outermost loop.

    Args:
      model: host and variant.
      settings: how a client trains.
      server_optimizer: optimizer of the public parameters.
      plan: one entry per bucket of the data.
      num_users, num_items: |U|, |I|.
      clients_per_round: n_s, drawn uniformly without replacement; ``num_users`` for full participation. It may be
        an int32 [] array, so that one program serves cohorts of every size.
      poisson: each client takes part with probability ``clients_per_round / num_users`` instead.
      drawn: the clients in the buckets were drawn before, and all of them take part.
      server_l2: weight of 0.5 ||public||^2.
      mesh: the devices that the clients are split over (`mesh.py`), None for one.
      pipeline: what happens to uploads; None: their weighted mean is formed.
    """
    pipeline = pipeline or Pipeline()
    dropouts = pipeline.dropouts
    server = make_server(model, server_optimizer, server_l2)
    everybody = drawn or (isinstance(clients_per_round, int) and clients_per_round >= num_users)
    most = clients_per_round if isinstance(clients_per_round, int) and not poisson else num_users
    on_one_device = padded_rows(num_users, mesh) // (1 if mesh is None else mesh.size)
    population = Population(num_users, num_items, num_slots=min(most, on_one_device))

    def executor_of(pipeline: Pipeline) -> ClientExecutor:
        vmapped = make_vmapped_executor(model, settings, plan, pipeline.aggregator, pipeline.transform, population)
        return over_mesh(vmapped, pipeline.aggregator, mesh)

    executor_of_all = executor_of(pipeline)

    def round_(state: FedState, data: ClientData) -> tuple[FedState, RoundInfo]:
        now, executor = pipeline, executor_of_all
        if pipeline.at is not None:
            now = pipeline.at(state.public.memory)
            executor = executor_of(now)
        number = state.public.round
        broadcast, pull_back = server.open_round(state.public, data.content)
        selected_u, cohort = None, jnp.asarray(clients_per_round, jnp.int32)
        if not everybody:
            key = sampling.stream(state.key, sampling.COHORT, number)
            if poisson:
                selected_u = sampling.poisson_mask(key, num_users, clients_per_round / num_users)
                cohort = jnp.sum(selected_u, dtype=jnp.int32)
            else:
                selected_u = sampling.cohort_mask(key, num_users, clients_per_round)
        num_lost, failed = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        if dropouts is not None and dropouts.rate > 0:
            selected_u, num_lost = dropouts.survivors(state.key, number, selected_u, data.buckets, num_users, cohort)
        private, total = executor(
            broadcast, state.private, data.buckets, selected_u, state.key, number, data.evidence
        )
        mean = now.mean(total, clients_per_round, state.key, number)
        public, update_norm = server.close_round(state.public, pull_back, mean)
        if pipeline.adaptive is not None:
            within = given(total.within)
            bound = pipeline.adaptive.next_bound(public.memory, within, clients_per_round, state.key, number)
            public = public.replace(memory=bound)
        if dropouts is not None:
            done = dropouts.enough(cohort - num_lost - total.num_dropped, cohort)
            public, private = unless_failed(done, (public, private), (state.public, state.private))
            failed = jnp.asarray(~done, jnp.int32)
        info = RoundInfo(
            loss=total.loss / jnp.maximum(total.weight, 1e-30),
            num_clients=cohort,
            num_dropped=total.num_dropped,
            update_norm=update_norm,
            num_lost=num_lost,
            failed=failed,
        )
        return state.replace(public=public, private=private), info

    return round_
