"""From names in the settings to the parts of an algorithm: model, local training, aggregation, optimizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import optax

from fedvlr_jax.errors import ConfigError, choose, require_one_of
from fedvlr_jax.federated.adaptive_clip import AdaptiveClip, divide_noise
from fedvlr_jax.federated.aggregation import AGGREGATORS
from fedvlr_jax.federated.dropouts import Dropouts
from fedvlr_jax.federated.factors import has_factors
from fedvlr_jax.federated.objectives import OBJECTIVES, is_off
from fedvlr_jax.federated.paths import PATHS
from fedvlr_jax.federated.rounds import Pipeline
from fedvlr_jax.federated.step_loss import LocalSettings, RouterSettings
from fedvlr_jax.federated.transforms import make_transform
from fedvlr_jax.federated.words import make_fixed_point, make_word_sum
from fedvlr_jax.models.hosts import HOSTS
from fedvlr_jax.models.hosts.host import Host
from fedvlr_jax.models.model import Model, make_model
from fedvlr_jax.models.router import ACTIVATIONS, ROUTERS
from fedvlr_jax.models.variants import VARIANTS
from fedvlr_jax.types import Array, Content

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


PATH_NAMES = ("auto", *PATHS)
"""Ways to compute a round by the name in the config; auto chooses one for each bucket."""


def parse_names(value: str | Sequence[str]) -> tuple[str, ...]:
    """A comma list, a tuple or a list of names -> names without blanks; `("a,b",)` counts as a comma list."""
    parts = [value] if isinstance(value, str) else list(value)
    return tuple(name.strip() for part in parts for name in part.split(",") if name.strip())


def configured_host(settings: Mapping[str, Any], num_items: int) -> Host:
    """The host of ``config.host``."""
    host_settings, objective = settings["host"], settings["objective"]
    make_host = choose(HOSTS, "host.name", host_settings["name"])
    if objective == "squared" and host_settings["name"] != "fcf":
        raise ConfigError(f"objective: squared has its closed form in host fcf only, found {host_settings['name']}")
    options = {k: v for k, v in host_settings.items() if k != "name"}
    sizes = {"dim": settings["fusion"]["dim"], "init_scale": settings["client"]["init_scale"]}
    return make_host(num_items, **sizes, objective=objective, **options)


def configured_model(settings: Mapping[str, Any], content: Content, num_items: int) -> Model:
    """The host in the variant of ``config.host`` and ``config.variant``."""
    fusion, client, host = settings["fusion"], settings["client"], configured_host(settings, num_items)
    rounded = choose(PRECISIONS, "compute.precision", settings["compute"]["precision"])
    make_variant = choose(VARIANTS, "variant", settings["variant"])
    variant = make_variant(
        content,
        num_items,
        dim=fusion["dim"],
        heads=fusion["heads"],
        operators=parse_names(fusion["operators"]),
        modalities=parse_names(fusion["modalities"]),
        server_scale=settings["server"]["init_scale"],
        private_scale=client["init_scale"],
        activation=choose(ACTIVATIONS, "fusion.activation", fusion["activation"]),
        make_router=choose(ROUTERS, "fusion.router", fusion["router"]),
        first_odds=fusion["first_odds"],
        groups=fusion["groups"],
        distil=fusion["distil"],
        host_has_tables=host.has_item_tables,
        rounded=rounded,
    )
    return make_model(host, variant, num_items, fusion["dim"], rounded)


def local_settings(settings: Mapping[str, Any], num_items: int, steps: int) -> LocalSettings:
    """How a client trains by ``config.client``, with draws for `steps` local steps."""
    client, router = settings["client"], RouterSettings(**settings["router"])
    no_l2 = is_off(client["l2"]) and is_off(router.l2)
    make_objective = choose(OBJECTIVES, "objective", settings["objective"])
    objective = make_objective(
        num_items,
        steps=steps,
        negatives=client["negatives"],
        holdout=client["holdout"],
        confidence=settings["host"]["confidence"],
    )
    return LocalSettings(
        objective=objective,
        optimizer=choose(OPTIMIZERS, "client.optimizer", client["optimizer"])(client["lr"]),
        table_lr=settings["host"]["table_lr"],
        steps=client["steps"],
        l2=client["l2"],
        move_items=client["move_items"],
        item_lr=client["item_lr"],
        router=router,
        closed_form=settings["compute"]["closed_form"] and client["optimizer"] == "sgd" and no_l2,
    )


def make_pipeline(settings: Mapping[str, Any], secure: Mapping[str, Any], num_clients: int) -> Pipeline:
    """The upload transforms and the aggregator of ``config.aggregation`` and ``config.secure``.

    Args:
      settings, secure: the two groups.
      num_clients: the most that take part in a round.
    """
    if not is_off(settings["clip_quantile"]):
        return _make_adaptive_pipeline(settings, secure)
    name = settings["aggregator"]
    make_aggregator = choose(AGGREGATORS, "aggregation.aggregator", name)
    pipeline = Pipeline(make_transform(parse_names(settings["transforms"]), settings), make_aggregator(**settings))
    if pipeline.transform.server is not None and not pipeline.aggregator.linear:
        raise ConfigError(
            f"aggregation.transforms: noise is calibrated to a sum of clipped uploads, so expected "
            f"aggregation.aggregator weighted_mean, found {name}"
        )
    return _in_words(pipeline, settings, secure, num_clients) if secure["sum"] else pipeline


def _make_adaptive_pipeline(settings: Mapping[str, Any], secure: Mapping[str, Any]) -> Pipeline:
    """The pipeline whose bound of clip moves, with the noise divided between uploads and count."""
    noise, count_noise = divide_noise(settings["noise_multiplier"], settings["count_share"])
    if "noise" not in parse_names(settings["transforms"]):
        count_noise = 0.0

    def at(bound: Array | float) -> Pipeline:
        fixed = {**settings, "clip_norm": bound, "noise_multiplier": noise, "clip_quantile": 0.0}
        pipeline = make_pipeline(fixed, {"sum": False}, 0)
        return pipeline._replace(transform=pipeline.transform._replace(counts=True, fixed_weights=True))

    first = at(settings["clip_norm"])
    if secure["sum"] or not first.scales_uploads:
        raise ConfigError(
            f"aggregation.clip_quantile: a bound that moves needs clip alone on clients, and a sum of numbers, so "
            f"expected aggregation.transforms clip or clip,noise, aggregation.aggregator weighted_mean and no "
            f"secure.sum, found {settings['transforms']!r}, {settings['aggregator']}, {secure['sum']}"
        )
    adaptive = AdaptiveClip(settings["clip_norm"], settings["clip_quantile"], settings["clip_rate"], count_noise)
    return first._replace(adaptive=adaptive, at=at)


def _in_words(
    pipeline: Pipeline, settings: Mapping[str, Any], secure: Mapping[str, Any], num_clients: int
) -> Pipeline:
    """The pipeline with its sum in words of 32 bits, in which all clients weigh 1."""
    if not (pipeline.aggregator.linear and pipeline.transform.bounded):
        raise ConfigError(
            f"secure.sum: a sum in words needs numbers that are bounded, and a sum, so expected "
            f"aggregation.transforms with clip last on a client and aggregation.aggregator weighted_mean, found "
            f"{settings['transforms']!r} and {settings['aggregator']}"
        )
    point = make_fixed_point(settings["clip_norm"], secure["bits"], num_clients)
    dropouts = Dropouts(secure["dropout"], secure["threshold"])
    return Pipeline(pipeline.transform._replace(fixed_weights=True), make_word_sum(point), dropouts)


def require_path(settings: Mapping[str, Any], model: Model, local: LocalSettings, pipeline: Pipeline) -> None:
    """Refuses a path that does not exist, or that cannot do what the host, the objective or the client needs."""
    path = settings["compute"]["path"]
    require_one_of(PATH_NAMES, "compute.path", path)
    if local.move_items and path not in ("auto", "uploads"):
        raise ConfigError(f"compute.path: client.move_items needs the path uploads (or auto), found {path}")
    if path == "factors" and not has_factors(model, local):
        raise ConfigError(
            f"compute.path: factors needs scores that are linear in item rows, in full precision, with rows that "
            f"stay within a round, and no teacher; found host.name {settings['host']['name']}, variant "
            f"{settings['variant']}, compute.precision {settings['compute']['precision']}, client.move_items "
            f"{settings['client']['move_items']}"
        )
    whole = ("auto", "uploads", "factors") if pipeline.scales_uploads else ("auto", "uploads")
    if pipeline.forms_uploads and path not in whole:
        aggregation = settings["aggregation"]
        raise ConfigError(
            f"compute.path: transforms on clients and aggregators that are not linear need every client's upload, "
            f"which only uploads (or auto) forms row by row, and factors where all they do is clip; found {path} "
            f"with aggregation.transforms "
            f"{aggregation['transforms']!r} and aggregation.aggregator {aggregation['aggregator']}"
        )
    no_tables = path == "picked" and model.host.private_item_table
    if no_tables or (path in ("picked", "gathered") and local.objective.all_items):
        raise ConfigError(
            f"compute.path: {path} needs sampled items (objective bce or bpr)"
            + (" and no private item tables" if path == "picked" else "")
            + f"; found objective {settings['objective']}, host.name {settings['host']['name']}"
        )


def require_rows(settings: Mapping[str, Any], local: LocalSettings, pipeline: Pipeline) -> None:
    """Refuses downloads of some rows where a client reads, or an upload has, the rows of all items."""
    rows = settings["client"]["download_rows"]
    if rows and (local.objective.all_items or pipeline.transform.whole or settings["secure"]["sum"]):
        raise ConfigError(
            f"client.download_rows: expected 0 (all) where every row is read or sent back; fewer need objective bce "
            f"or bpr, a host that trains item rows, no noise on clients and no secure.sum; found {rows} with "
            f"objective {settings['objective']}, host.name {settings['host']['name']}, aggregation.transforms "
            f"{settings['aggregation']['transforms']!r}, secure.sum {settings['secure']['sum']}"
        )
