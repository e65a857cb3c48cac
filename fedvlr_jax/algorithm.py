"""From settings to pure functions: the one place where names in a config become a model and its rounds."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from fedvlr_jax.errors import ConfigError
from fedvlr_jax.federated import sampling
from fedvlr_jax.federated.bucket_plan import plan_buckets
from fedvlr_jax.federated.mesh import make_mesh, padded_rows
from fedvlr_jax.federated.objectives import OBJECTIVES, is_off
from fedvlr_jax.federated.paths import PATHS
from fedvlr_jax.federated.rounds import make_round
from fedvlr_jax.federated.scoring import Snapshot, make_block_score, router_weights, score_chunk
from fedvlr_jax.federated.step_loss import LocalSettings, trainable
from fedvlr_jax.models.costs import CostReport, cost_report
from fedvlr_jax.models.hosts import HOSTS
from fedvlr_jax.models.model import Model, make_model
from fedvlr_jax.models.router import ACTIVATIONS
from fedvlr_jax.models.variants import VARIANTS
from fedvlr_jax.ranges import check_ranges
from fedvlr_jax.types import (
    Array,
    Bucket,
    ClientData,
    Content,
    Dataset,
    FedState,
    Prior,
    PrivateState,
    PublicState,
    RoundInfo,
    Score,
    content_of,
)

OPTIMIZERS: dict[str, Callable[[float], optax.GradientTransformation]] = {
    "sgd": optax.sgd,
    "momentum": lambda lr: optax.sgd(lr, momentum=0.9),
    "adam": optax.adam,
    "adamw": optax.adamw,
    "adagrad": optax.adagrad,
    "rmsprop": optax.rmsprop,
    "yogi": optax.yogi,
}
"""Optimizers by the name in the config, for the server and for clients."""

PRECISIONS = {"float32": None, "bfloat16": jnp.bfloat16}
"""What item rows and the factors of products are rounded to, by the name in the config; None rounds nothing."""


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
      router_weights: ``(params, chunk) -> w_cj [c, j]``, or None for variants without a router.
      views: names of the fusion operators behind the router's weights, in the order of axis j; () without router.
      cost: sizes of the model and of its messages.
      clients_per_round: n_s.
      model, local: the parts, for analyses.
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
    router_weights: Callable[[Snapshot, Bucket], Array] | None
    views: tuple[str, ...]
    cost: CostReport
    clients_per_round: int
    model: Model
    local: LocalSettings
    mesh: Mesh | None


def make_algorithm(settings: Mapping[str, Any], dataset: Dataset) -> Algorithm:
    """Builds the algorithm that the settings describe for a data set.

    Args:
      settings: nested mapping with the fields of configs/base.py.
      dataset: only sizes and features are read; interactions come in through the rounds.

    Raises:
      ConfigError: a name that does not exist (with a suggestion), or a value out of range.
    """
    check_ranges(settings)
    return build_algorithm(settings, dataset)


def build_algorithm(settings: Mapping[str, Any], dataset: Dataset) -> Algorithm:
    """`make_algorithm` without the check of ranges: the fields in `ranges.TRACEABLE` may be traced numbers."""
    num_users, num_items = dataset.num_users, dataset.num_items
    content = content_of(dataset)
    model = _make_model(settings, content, num_items)
    local = _local_settings(settings, num_items, settings["client"]["steps"])
    _require_path(settings, model, local)
    server, compute = settings["server"], settings["compute"]
    optimizer = _choose(OPTIMIZERS, "server.optimizer", server["optimizer"])(server["lr"])
    clients_per_round = _cohort_size(server["clients_per_round"], num_users)
    mesh = make_mesh(compute["devices"])
    starting = _make_starting(model, local, optimizer, padded_rows(num_users, mesh))
    plan = {"path": compute["path"], "chunk": compute["chunk"], "num_devices": 1 if mesh is None else mesh.size}

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
            server_l2=server["l2"],
            mesh=mesh,
        )

    def run(state: FedState, data: ClientData, num_rounds: int) -> tuple[FedState, RoundInfo]:
        round_ = round_of(data, drawn=False)
        return jax.lax.scan(lambda state, _: round_(state, data), state, length=num_rounds)

    def run_cohort(state: FedState, data: ClientData) -> tuple[FedState, RoundInfo]:
        return round_of(data, drawn=True)(state, data)

    def cohort_words(key: Array, round_: Array) -> Array:
        return sampling.cohort_words(sampling.stream(key, sampling.COHORT, round_), num_users)

    return Algorithm(
        **starting,
        run=run,
        run_cohort=run_cohort,
        cohort_words=cohort_words,
        **_make_ranking(settings, model, num_items),
        views=() if model.variant.mix is None else parse_names(settings["fusion"]["operators"]),
        cost=cost_report(starting["init"], model, content, num_users),
        clients_per_round=clients_per_round,
        model=model,
        local=local,
        mesh=mesh,
    )


def _make_starting(
    model: Model, local: LocalSettings, optimizer: optax.GradientTransformation, num_rows: int
) -> dict[str, Callable]:
    """The functions of an `Algorithm` that make its first state, with rows for `num_rows` clients."""

    def init_public(key: Array) -> PublicState:
        params = model.init_public(sampling.stream(key, sampling.INIT_PUBLIC))
        return PublicState(params=params, opt_state=optimizer.init(params), round=jnp.zeros((), jnp.int32))

    def init_clients(key: Array, ids: Array) -> PrivateState:
        private = jax.vmap(model.init_private)(sampling.entity_keys(sampling.stream(key, sampling.INIT_PRIVATE), ids))
        return PrivateState(params=private, opt_state=jax.vmap(local.optimizer.init)(trainable(private)))

    def init(key: Array) -> FedState:
        return FedState(public=init_public(key), private=init_clients(key, jnp.arange(num_rows)), key=key)

    return {"init": init, "init_public": init_public, "init_clients": init_clients}


def _make_ranking(settings: Mapping[str, Any], model: Model, num_items: int) -> dict[str, Callable | None]:
    """The functions of an `Algorithm` that score items after training."""
    tuning = _local_settings(settings, num_items, max(model.host.tune_steps, 1))

    def snapshot(state: FedState, content: Content, prior: Prior | None = None) -> Snapshot:
        broadcast = model.publish(state.public.params, content)
        used = None if model.host.combine is None else prior
        return Snapshot(broadcast, state.private, state.key, state.public.round, used)

    def score(params: Snapshot, chunk: Bucket) -> Array:
        return score_chunk(model, tuning, num_items, params, chunk)

    def weights(params: Snapshot, chunk: Bucket) -> Array:
        return router_weights(model, num_items, params, chunk)

    return {
        "snapshot": snapshot,
        "score": score,
        "rank_score": make_block_score(model, tuning, num_items, settings["eval"]["item_chunk"]) or score,
        "router_weights": None if model.variant.mix is None else weights,
    }


def parse_names(value: str | Sequence[str]) -> tuple[str, ...]:
    """A comma list, a tuple or a list of names -> names without blanks; `("a,b",)` counts as a comma list."""
    parts = [value] if isinstance(value, str) else list(value)
    return tuple(name.strip() for part in parts for name in part.split(",") if name.strip())


def _make_model(settings: Mapping[str, Any], content: Content, num_items: int) -> Model:
    fusion, host_settings, client = settings["fusion"], settings["host"], settings["client"]
    objective = settings["objective"]
    make_host = _choose(HOSTS, "host.name", host_settings["name"])
    if objective == "squared" and host_settings["name"] != "fcf":
        raise ConfigError(f"objective: squared has its closed form in host fcf only, found {host_settings['name']}")
    options = {k: v for k, v in host_settings.items() if k != "name"}
    host = make_host(num_items, dim=fusion["dim"], init_scale=client["init_scale"], objective=objective, **options)
    rounded = _choose(PRECISIONS, "compute.precision", settings["compute"]["precision"])
    make_variant = _choose(VARIANTS, "variant", settings["variant"])
    variant = make_variant(
        content,
        num_items,
        dim=fusion["dim"],
        heads=fusion["heads"],
        operators=parse_names(fusion["operators"]),
        modalities=parse_names(fusion["modalities"]),
        server_scale=settings["server"]["init_scale"],
        private_scale=client["init_scale"],
        activation=_choose(ACTIVATIONS, "fusion.activation", fusion["activation"]),
        host_has_tables=host.has_item_tables,
        rounded=rounded,
    )
    return make_model(host, variant, num_items, fusion["dim"], rounded)


def _local_settings(settings: Mapping[str, Any], num_items: int, steps: int) -> LocalSettings:
    client = settings["client"]
    make_objective = _choose(OBJECTIVES, "objective", settings["objective"])
    objective = make_objective(
        num_items,
        steps=steps,
        negatives=client["negatives"],
        holdout=client["holdout"],
        confidence=settings["host"]["confidence"],
    )
    return LocalSettings(
        objective=objective,
        optimizer=_choose(OPTIMIZERS, "client.optimizer", client["optimizer"])(client["lr"]),
        table_lr=settings["host"]["table_lr"],
        steps=client["steps"],
        l2=client["l2"],
        move_items=client["move_items"],
        item_lr=client["item_lr"],
        closed_form=settings["compute"]["closed_form"] and client["optimizer"] == "sgd" and is_off(client["l2"]),
    )


def _require_path(settings: Mapping[str, Any], model: Model, local: LocalSettings) -> None:
    """Refuses a path that does not exist, or that cannot do what the host, the objective or the client needs."""
    path = settings["compute"]["path"]
    _choose({"auto": None, **PATHS}, "compute.path", path)
    if local.move_items and path not in ("auto", "uploads"):
        raise ConfigError(f"compute.path: client.move_items needs the path uploads (or auto), found {path}")
    if path in ("picked", "gathered") and (local.objective.all_items or model.host.private_item_table):
        raise ConfigError(
            f"compute.path: {path} needs sampled items (objective bce or bpr) and no private item tables; "
            f"found objective {settings['objective']}, host.name {settings['host']['name']}"
        )


def _choose(table: Mapping[str, Any], field: str, name: str) -> Any:
    if name not in table:
        near = difflib.get_close_matches(str(name), table, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{field}: expected one of {', '.join(table)}, found {name!r}{hint}")
    return table[name]


def _cohort_size(clients_per_round: int, num_users: int) -> int:
    if not 0 <= clients_per_round <= num_users:
        raise ConfigError(
            f"server.clients_per_round: expected 0 (all) to {num_users}, the number of clients in the data, "
            f"found {clients_per_round}"
        )
    return clients_per_round or num_users
