"""From settings to pure functions: the one place where names in a config become a model and its rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from fedvlr_jax.agreed import Prior, ScoreViews
from fedvlr_jax.assembly import (
    OPTIMIZERS,
    configured_model,
    local_settings,
    make_pipeline,
    parse_names,
    require_path,
    require_rows,
)
from fedvlr_jax.errors import ConfigError, choose
from fedvlr_jax.federated import sampling
from fedvlr_jax.federated.bucket_plan import plan_buckets
from fedvlr_jax.federated.client import make_client_round
from fedvlr_jax.federated.mesh import make_mesh, padded_rows
from fedvlr_jax.federated.newcomers import make_learn, score_newcomers
from fedvlr_jax.federated.objectives import NO_ITEMS
from fedvlr_jax.federated.private_state import first_params, trainable
from fedvlr_jax.federated.rounds import Pipeline, make_round
from fedvlr_jax.federated.scoring import Snapshot, make_block_score, router_weights, score_chunk
from fedvlr_jax.federated.server import Server, make_server
from fedvlr_jax.federated.step_loss import LocalSettings
from fedvlr_jax.federated.transforms import UploadTransform, no_memory
from fedvlr_jax.models.costs import CostReport, cost_report
from fedvlr_jax.models.model import Model, Upload
from fedvlr_jax.privacy.accounting import guarantee_of
from fedvlr_jax.settings import check_settings
from fedvlr_jax.types import (
    Array,
    Bucket,
    ClientData,
    Content,
    Dataset,
    FedState,
    PrivateState,
    PublicState,
    PyTree,
    RoundInfo,
    Score,
    content_of,
)


class Algorithm(NamedTuple):
    """A federated algorithm on one data set, as pure functions.

    Attributes:
      init: ``(key) -> FedState`` from a typed key.
      init_public: ``(key) -> PublicState``, the part of it that the server owns.
      init_clients: ``(key, ids int [s]) -> PrivateState [s, ...]``, the rows of some clients in it.
      run: ``(state, data, num_rounds) -> (state, RoundInfo [rounds])``; jit it once with `num_rounds` static and
        the state donated.
      run_cohort: ``(state, data) -> (state, RoundInfo)``, a round of clients that were drawn before: the private
        state has their rows alone, and each bucket a ``row`` that says where they stand.
      cohort_words: ``(key, round) -> uint32 [passes, u]``; `sampling.cohort_ids` of it are whom `run` draws.
      snapshot: ``(state, content[, prior]) -> params`` of `score`: publishes the current views once. Without a prior,
        a host that has one ranks by its trained logits alone.
      score: ``(params, chunk) -> s_ci [c, i]``, the scores of all items.
      rank_score: the same for ranking: some items at a time where ``eval.item_chunk`` says so.
      new_score: as `rank_score`, for users who were not trained: ``params.private`` is not read, the slots of a chunk
        get private states of their own first (`federated/newcomers.py`).
      router_weights: ``(params, chunk) -> w_cj [c, j]``, or None for variants without a router.
      views: names of the fusion operators behind the router's weights, in the order of axis j; () without router.
      cost: sizes of the model and of its messages.
      clients_per_round: n_s.
      client_round: `client.make_client_round`, what a device runs; `run` gives what it gives, but for
        ``aggregation.clip_quantile``, since it clips to the first bound in every round: devices refuse that setting.
      server: `server.Server`, the two halves of a round on the server.
      pipeline: what happens to uploads between the two.
      model, local: the parts, for analyses.
      tuning: as `local`, for the steps that a host takes before it scores.
      mesh: the devices that clients are split over, None for one.
    """

    init: Callable[[Array], FedState]
    init_public: Callable[[Array], PublicState]
    init_clients: Callable[[Array, Array], PrivateState]
    run: Callable[[FedState, ClientData, int], tuple[FedState, RoundInfo]]
    run_cohort: Callable[[FedState, ClientData], tuple[FedState, RoundInfo]]
    cohort_words: Callable[[Array, Array], Array]
    snapshot: Callable[..., Snapshot]
    score: Callable[[Snapshot, Bucket], Array]
    rank_score: Score
    new_score: Score
    router_weights: Callable[[Snapshot, Bucket], Array] | None
    views: tuple[str, ...]
    cost: CostReport
    clients_per_round: int
    client_round: Callable[..., tuple[PrivateState, Upload, Array]]
    server: Server
    pipeline: Pipeline
    model: Model
    local: LocalSettings
    tuning: LocalSettings
    mesh: Mesh | None


def make_algorithm(settings: Mapping[str, Any], dataset: Dataset) -> Algorithm:
    """Builds the algorithm that the settings describe for a data set.

    Args:
      settings: nested, with all fields, as of `settings.default_settings`.
      dataset: only sizes and features are read; interactions come in through the rounds.

    Raises:
      ConfigError: a name that does not exist (with a suggestion), or a value out of range.
    """
    check_settings(settings)
    return build_algorithm(settings, dataset)


def build_algorithm(settings: Mapping[str, Any], dataset: Dataset) -> Algorithm:
    """`make_algorithm` without `check_settings`: the fields in `traceable_fields` may be traced numbers."""
    num_users, num_items = dataset.num_users, dataset.num_items
    content = content_of(dataset)
    model = configured_model(settings, content, num_items)
    local = local_settings(settings, num_items, settings["client"]["steps"])
    if not model.host.trains_items:
        local = local._replace(objective=NO_ITEMS)
    guarantee = guarantee_of(settings, num_users)
    noise = {} if guarantee is None else {"noise_multiplier": guarantee.noise_multiplier}
    clients_per_round = _cohort_size(settings["server"]["clients_per_round"], num_users)
    most = num_users if settings["server"]["sampling"] == "poisson" else clients_per_round
    pipeline = make_pipeline(settings["aggregation"] | noise, settings["secure"], most)
    require_path(settings, model, local, pipeline)
    require_rows(settings, local, pipeline)
    server, compute = settings["server"], settings["compute"]
    optimizer = choose(OPTIMIZERS, "server.optimizer", server["optimizer"])(server["lr"])
    mesh = make_mesh(compute["devices"])
    bound = None if pipeline.adaptive is None else pipeline.adaptive.first
    first = optimizer.init, local.optimizer.init, pipeline.transform.init, bound
    starting = _make_starting(model, *first, content, padded_rows(num_users, mesh), mesh is not None)
    plan = {
        "path": compute["path"],
        "chunk": compute["chunk"],
        "num_devices": 1 if mesh is None else mesh.size,
        "forms_uploads": pipeline.forms_uploads,
        "scales_uploads": pipeline.scales_uploads,
        "whole_uploads": pipeline.transform.whole,
    }

    def round_of(data: ClientData, drawn: bool) -> Callable[[FedState, ClientData], tuple[FedState, RoundInfo]]:
        return make_round(
            model,
            local,
            optimizer,
            plan_buckets(model, local, data.buckets, num_items, **plan),
            num_users=num_users,
            num_items=num_items,
            clients_per_round=clients_per_round,
            drawn=drawn,
            poisson=server["sampling"] == "poisson",
            server_l2=server["l2"],
            mesh=mesh,
            pipeline=pipeline,
        )

    def run(state: FedState, data: ClientData, num_rounds: int) -> tuple[FedState, RoundInfo]:
        round_ = round_of(data, drawn=False)
        return jax.lax.scan(lambda state, _: round_(state, data), state, length=num_rounds)

    def run_cohort(state: FedState, data: ClientData) -> tuple[FedState, RoundInfo]:
        return round_of(data, drawn=True)(state, data)

    def cohort_words(key: Array, round_: Array) -> Array:
        return sampling.cohort_words(sampling.stream(key, sampling.COHORT, round_), num_users)

    ranking = _make_ranking(settings, model, num_items)
    learn = make_learn(
        make_client_round(model, local, num_items, UploadTransform()),
        starting["init_clients"],
        first_id=num_users,
        rounds=settings["client"]["new_rounds"],
    )
    return Algorithm(
        **starting,
        new_score=score_newcomers(learn, ranking["rank_score"]),
        run=run,
        run_cohort=run_cohort,
        cohort_words=cohort_words,
        **ranking,
        views=() if model.variant.router is None else parse_names(settings["fusion"]["operators"]),
        cost=cost_report(starting["init"], model, content, num_users, settings["client"]["download_rows"]),
        clients_per_round=clients_per_round,
        client_round=make_client_round(model, local, num_items, pipeline.transform),
        server=make_server(model, optimizer, server["l2"]),
        pipeline=pipeline,
        model=model,
        local=local,
        mesh=mesh,
    )


def _make_starting(
    model: Model,
    init_server: optax.TransformInitFn,
    init_client: optax.TransformInitFn,
    init_memory: Callable[[PyTree], PyTree],
    bound: float | Array | None,
    content: Content,
    num_rows: int,
    at_once: bool,
) -> dict[str, Any]:
    """The functions of an `Algorithm` that make its first state, with rows for `num_rows` clients.

    They read of optimizers and upload transforms what a first state is, so that they do not depend on any rate.
    `bound` is the first one of a clip whose bound moves, None for others; for `at_once` see `first_params`.
    """

    def init_public(key: Array) -> PublicState:
        params = model.init_public(sampling.stream(key, sampling.INIT_PUBLIC))
        memory = () if bound is None else jnp.asarray(bound, float)
        return PublicState(
            params=params, opt_state=init_server(params), round=jnp.zeros((), jnp.int32), memory=memory
        )

    def init_clients(key: Array, ids: Array) -> PrivateState:
        keys = sampling.entity_keys(sampling.stream(key, sampling.INIT_PRIVATE), ids)
        private = first_params(model.init_private, keys, at_once=at_once)
        opt_state = jax.vmap(init_client)(trainable(private))
        return PrivateState(params=private, opt_state=opt_state, memory=jax.vmap(first_memory)(ids))

    def first_memory(_: Array) -> PyTree:
        """What the upload transforms of one client remember before its first round; it depends on shapes alone."""
        if init_memory is no_memory:  # as in most runs, which are spared two traces of the model
            return ()
        public = jax.eval_shape(model.init_public, jax.eval_shape(lambda: jax.random.key(0)))
        like = jax.eval_shape(model.publish, public, content)
        return init_memory(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like))

    def init(key: Array) -> FedState:
        return FedState(public=init_public(key), private=init_clients(key, jnp.arange(num_rows)), key=key)

    return {"init": init, "init_public": init_public, "init_clients": init_clients}


def _make_ranking(settings: Mapping[str, Any], model: Model, num_items: int) -> dict[str, Any]:
    """The functions of an `Algorithm` that score items after training."""
    tuning = local_settings(settings, num_items, max(model.host.tune_steps, 1))

    def snapshot(state: FedState, content: Content, prior: Prior | ScoreViews | None = None) -> Snapshot:
        broadcast = model.publish(state.public.params, content)
        used = None if model.host.combine is None and model.host.view_weights is None else prior
        return Snapshot(broadcast, state.private, state.key, state.public.round, used)

    def score(params: Snapshot, chunk: Bucket) -> Array:
        return score_chunk(model, tuning, num_items, params, chunk)

    def weights(params: Snapshot, chunk: Bucket) -> Array:
        return router_weights(model, num_items, params, chunk)

    return {
        "tuning": tuning,
        "snapshot": snapshot,
        "score": score,
        "rank_score": make_block_score(model, tuning, num_items, settings["eval"]["item_chunk"]) or score,
        "router_weights": None if model.variant.router is None else weights,
    }


def _cohort_size(clients_per_round: int, num_users: int) -> int:
    if not 0 <= clients_per_round <= num_users:
        raise ConfigError(
            f"server.clients_per_round: expected 0 (all) to {num_users}, the number of clients in the data, "
            f"found {clients_per_round}"
        )
    return clients_per_round or num_users
