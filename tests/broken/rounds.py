"""Broken objectives, transforms and aggregators: the law that each breaks, and words of its message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from laws import aggregators, objectives, transforms

from broken.rows import Row, changed, times_made
from fedvlr_jax.federated.aggregation import AGGREGATORS
from fedvlr_jax.federated.objectives import OBJECTIVES
from fedvlr_jax.federated.transforms import UploadTransform

# ---- objectives


def objective(name: str, loss: Callable[..., jax.Array]) -> Row:
    """An objective with another loss, ``loss(original, draw, *scores)``."""
    return changed(OBJECTIVES, name, loss=lambda made: lambda draw, *scores: loss(made.loss, draw, *scores))


def weighed_by_place(loss: Callable[..., jax.Array], draw: Any, s_l: jax.Array, s_ln: jax.Array) -> jax.Array:
    """Later positives count more."""
    place_l = jnp.arange(s_l.size) * draw.target_l
    return jnp.sum(place_l * jax.nn.softplus(-s_l))


def forgetful_objective(*args: Any, **options: Any) -> Any:
    """One whose loss depends on how often the process made it."""
    factor = 1 + 0.1 * next(times_made)
    return objective("bce", lambda loss, *scores: factor * loss(*scores))(*args, **options)


OF_OBJECTIVES = {
    objectives.losses_are_finite_numbers: (
        "its gradient is not finite",
        objective("bce", lambda loss, draw, s_l, s_ln: jnp.sum(jnp.sqrt(jnp.abs(s_l)))),
    ),
    objectives.padding_has_no_influence: (
        "padding changes the loss",
        objective("bce", lambda loss, draw, s_l, s_ln: jnp.mean(jax.nn.softplus(-s_l))),
    ),
    objectives.the_order_of_positives_is_irrelevant: ("order of positives", objective("bce", weighed_by_place)),
    objectives.a_better_positive_lowers_the_loss: (
        "does not lower the loss",
        objective("softmax", lambda loss, draw, s_i: -loss(draw, s_i)),
    ),
    objectives.only_what_is_read_gets_a_gradient: (
        "must not read",
        objective("softmax", lambda loss, draw, s_i: jax.nn.logsumexp(s_i) + loss(draw, s_i)),
    ),
    objectives.draws_are_those_of_the_client: (
        "weights are not the history's",
        changed(
            OBJECTIVES,
            "bce",
            draw=lambda made: lambda *args: made.draw(*args)._replace(target_l=jnp.zeros(8), input_l=jnp.zeros(8)),
        ),
    ),
    objectives.paths_agree: ("paths do not agree", forgetful_objective),
}


# ---- transforms and aggregators


def on_clients(client: Callable[..., Any]) -> Row:
    """A transform of uploads, ``client(key, upload, memory) -> (upload, memory)``."""
    return lambda **options: UploadTransform(client=client)


def scaled(factor: Callable[[jax.Array], jax.Array]) -> Row:
    """A transform that multiplies every number by a function of it."""

    def client(key: jax.Array, upload: Any, memory: Any) -> Any:
        rows, head = jax.tree.map(lambda x: x * factor(x), (upload.rows, upload.head))
        return upload._replace(rows=rows, head=head), memory

    return on_clients(client)


def noisy(key: jax.Array, upload: Any, memory: Any) -> Any:
    """Noise on every slot of the rows, padding too."""
    return upload._replace(rows=jax.tree.map(lambda x: x + jax.random.normal(key, x.shape), upload.rows)), memory


OF_TRANSFORMS = {
    transforms.uploads_and_memory_keep_their_form: (
        "changes its form",
        on_clients(lambda key, upload, memory: (upload, jnp.zeros(3))),
    ),
    transforms.halves_are_pure: ("not a function", scaled(lambda x: np.random.default_rng().normal())),
    transforms.finite_uploads_stay_finite: ("becomes infinite", scaled(lambda x: 1 / jnp.sqrt(jnp.sum(x**2)))),
    transforms.padding_is_not_sent: ("writes into the padding", on_clients(noisy)),
    transforms.clients_take_part_or_are_left_alone: (
        "it has memory, but no half on the clients",
        lambda **options: UploadTransform(init=lambda broadcast: jnp.zeros(3)),
    ),
    transforms.rounds_are_finite_and_memory_is_the_clients: (
        "clients were dropped|not finite",
        scaled(lambda x: jnp.inf),
    ),
}


def aggregator(name: str = "weighted_mean", /, **changes: Callable[[Any], Any]) -> Row:
    """An aggregator with other functions."""
    return changed(AGGREGATORS, name, **changes)


def careless(made: Any) -> Any:
    """Products with alpha 0, which keep NaN."""

    def add(total: Any, uploads: Any, alpha_c: jax.Array) -> Any:
        shaped = lambda x: alpha_c.reshape((-1,) + (1,) * (x.ndim - 1))  # noqa: E731
        rows, head = jax.tree.map(lambda x: x * shaped(x), (uploads.rows, uploads.head))
        return made.add(total, uploads._replace(rows=rows, head=head), jnp.ones_like(alpha_c))

    return add


def first_of_chunk(made: Any) -> Any:
    """Only the first client of a chunk counts."""
    return lambda total, uploads, alpha_c: made.add(total, uploads, alpha_c * (jnp.arange(alpha_c.size) == 0))


def dense_only(made: Any) -> Any:
    """Uploads of all items are taken for nothing."""
    return lambda total, uploads, alpha_c: total if uploads.ids_n is None else made.add(total, uploads, alpha_c)


def unweighing(made: Any) -> Any:
    """The sum instead of the mean."""
    return lambda total, weight: made.finish(total, jnp.minimum(weight, 1.0))


OF_AGGREGATORS = {
    aggregators.it_equals_a_dense_computation: ("not its dense computation", aggregator(finish=unweighing)),
    aggregators.equal_uploads_and_one_client_give_the_weighted_mean: (
        "do not give the weighted mean",
        aggregator(finish=unweighing),
    ),
    aggregators.order_and_chunks_of_clients_are_irrelevant: ("order or chunks", aggregator(add=first_of_chunk)),
    aggregators.a_client_of_weight_zero_changes_nothing: ("client of weight zero", aggregator(add=careless)),
    aggregators.dense_uploads_equal_those_of_all_items: ("uploads of all items", aggregator(add=dense_only)),
    aggregators.devices_merge_to_one: (
        "devices do not merge to one",
        aggregator(merge=lambda _: lambda carry, axis: carry),
    ),
    aggregators.nobody_gives_zeros: (
        "does not give zeros",
        aggregator(finish=lambda made: lambda total, weight: jax.tree.map(lambda x: x / weight, total)),
    ),
    aggregators.a_linear_carry_is_the_weighted_sum: ("linear is set", aggregator(add=first_of_chunk)),
    aggregators.only_what_is_linear_takes_other_paths: ("paths do not agree", aggregator(add=first_of_chunk)),
    aggregators.rounds_are_finite: (
        "do not move",
        aggregator(finish=lambda made: lambda total, weight: jax.tree.map(jnp.zeros_like, total)),
    ),
}
