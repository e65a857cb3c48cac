"""Broken hosts, variants, operators and routers: the law that each breaks, and words of its message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from laws import fusion, hosts, routers, variants

from broken.rows import Row, changed, times_made, unseeded
from fedvlr_jax.models.fusion import Operator
from fedvlr_jax.models.hosts import HOSTS
from fedvlr_jax.models.router import ROUTERS
from fedvlr_jax.models.variants import VARIANTS

# ---- hosts


def host(**changes: Any) -> Row:
    """FCF with other functions."""
    return changed(HOSTS, "fcf", **{field: lambda made, value=value: value for field, value in changes.items()})


def dot(theta: Any, head: Any, items: Any) -> jax.Array:
    """The score of FCF."""
    return items.dot(theta["w"])


def forgetful(num_items: int, **options: Any) -> Any:
    """A host whose scores depend on how often the process made it."""
    factor = 1 + 0.1 * next(times_made)
    return HOSTS["fcf"](num_items, **options)._replace(score=lambda *args: factor * dot(*args))


@jax.custom_batching.custom_vmap
def shared(w_d: jax.Array) -> jax.Array:
    """Under vmap the mean over all clients, which none of them can know."""
    return w_d


@shared.def_vmap
def _shared(size: int, batched: list, w_cd: jax.Array) -> tuple[jax.Array, bool]:
    return jnp.broadcast_to(jnp.mean(w_cd, axis=0, keepdims=True), w_cd.shape), True


def leaking(theta: Any, head: Any, items: Any) -> jax.Array:
    """A score that reads the vectors of other clients."""
    return dot(theta, head, items) + jnp.sum(shared(jax.lax.stop_gradient(theta["w"])))


def unweighted(theta: Any, items: Any, weight_b: jax.Array, round_: jax.Array) -> jax.Array:
    """A regulariser that takes padding, and rows that a step does not use, for its own."""
    return jnp.mean(jnp.sum(items.views_bjd, axis=(1, 2)) ** 2)


def crooked(theta: Any, head: Any, items: Any) -> jax.Array:
    """Twice the row's own score, less the mean score of the rows beside it."""
    return 2 * dot(theta, head, items) - jnp.mean(dot(theta, head, items))


OF_HOSTS = {
    hosts.private_state_is_a_finite_function_of_the_key: ("not a function of the key", host(init_private=unseeded)),
    hosts.scores_are_finite_numbers: ("not finite", host(score=lambda *args: jnp.log(dot(*args)))),
    hosts.scores_are_row_local: ("not row-local", host(score=crooked)),
    hosts.a_linear_score_is_linear: ("not linear in g_i", host(score=lambda *args: jnp.tanh(dot(*args)))),
    hosts.weights_of_clients_are_positive: (
        "not positive",
        host(client_weight=lambda num_positives: num_positives - 1),
    ),
    hosts.penalties_read_the_rows_that_are_used: ("rows of weight zero", host(regulariser=unweighted)),
    hosts.padding_has_no_influence: ("padding of histories", host(regulariser=unweighted)),
    hosts.training_reaches_every_parameter: (
        r"no gradient reaches private \['theta'\]\['w'\]",
        host(score=lambda theta, head, items: dot(jax.lax.stop_gradient(theta), head, items)),
    ),
    hosts.uploads_hold_nothing_of_other_clients: ("private state of another", host(score=leaking)),
    hosts.a_device_goes_on_where_it_stopped: ("goes on with another result", forgetful),
    hosts.a_round_equals_algorithm_1: ("from Algorithm 1", host(score=crooked)),
    hosts.paths_agree: ("paths do not agree", host(score=crooked)),
    hosts.layout_changes_nothing: ("layout of clients changes a run", host(score=leaking)),
}


# ---- variants


def variant(name: str = "base", /, **changes: Callable[[Any], Any]) -> Row:
    """A variant with other functions."""
    return changed(VARIANTS, name, **changes)


def mapped(function: Callable[[jax.Array, Any], jax.Array]) -> Callable[[Any], Any]:
    """``rows`` followed by ``function(table, content)``."""

    def change(made: Any) -> Any:
        return lambda params, content: {k: function(x, content) for k, x in made.rows(params, content).items()}

    return change


def over_features(x: jax.Array, content: Any) -> jax.Array:
    """Divided by the norm of all features, which may be none."""
    return x / optax.tree.norm([f for f in content if f is not None], squared=True)


def centred(made: Any) -> Any:
    """A teacher whose logits have mean 0 over the rows that are scored."""

    def score(private: Any, rows: dict[str, jax.Array]) -> jax.Array:
        t_b = made.teacher.score(private, rows)
        return t_b - jnp.mean(t_b)

    return made.teacher._replace(score=score)


OF_VARIANTS = {
    variants.rows_lead_with_the_items: (r"expected views \[i, j, d\]", variant(rows=mapped(lambda x, _: x[:, 0]))),
    variants.rows_are_row_local: ("not row-local", variant(rows=mapped(lambda x, _: x - jnp.mean(x)))),
    variants.private_state_is_a_function_of_the_key: (
        "function of the key",
        variant(init_private=lambda _: unseeded),
    ),
    variants.a_router_weighs_the_views: ("several views and no router", variant("fedvlr", router=lambda _: None)),
    variants.a_bonus_is_row_local: (
        "bonus is not row-local",
        variant("vbpr", bonus=lambda made: lambda private, rows: made.bonus(private, rows) - jnp.mean(rows["E"])),
    ),
    variants.a_teacher_is_row_local: ("teacher is not row-local", variant("gfmfr", teacher=centred)),
    variants.a_missing_modality_is_refused_or_harmless: (
        "not finite without a modality",
        variant(rows=mapped(over_features)),
    ),
}


# ---- operators


class Centred(Operator):
    """D less its mean over the items, and a parameter that does nothing."""

    @nn.compact
    def __call__(self, e_id: jax.Array, v_id: jax.Array, c_id: jax.Array) -> jax.Array:
        unused = self.param("unused", nn.initializers.ones, ())
        return e_id - jnp.mean(e_id, axis=0, keepdims=True) + 0 * unused


class ByPlace(Operator):
    """D times the place of the item, over nothing where D is off."""

    @nn.compact
    def __call__(self, e_id: jax.Array, v_id: jax.Array, c_id: jax.Array) -> jax.Array:
        place_i1 = jnp.arange(e_id.shape[0], dtype=e_id.dtype)[:, None]
        return place_i1 * e_id / float(self.present[0])


class Narrow(Operator):
    """The first two dimensions of D."""

    @nn.compact
    def __call__(self, e_id: jax.Array, v_id: jax.Array, c_id: jax.Array) -> jax.Array:
        return e_id[:, :2]


OF_OPERATORS = {
    fusion.views_are_finite_and_jit_changes_nothing: (r"expected \[i, d\]", Narrow),
    fusion.views_follow_a_permutation_of_the_items: ("permutation of the items", ByPlace),
    fusion.gradients_are_row_local: ("not row-local", Centred),
    fusion.every_parameter_gets_a_gradient: (r"\['unused'\] gets no gradient", Centred),
    fusion.modalities_can_be_switched_off: ("not finite without modality D", ByPlace),
}


# ---- routers


def unnormalised(made: Any) -> Any:
    """Weights that grow with the history."""
    return lambda phi, pooled_jd: jnp.abs(jnp.mean(pooled_jd, axis=1)) + made.weights(phi, pooled_jd)


OF_ROUTERS = {
    routers.weights_are_weights: ("not to one", changed(ROUTERS, "bias", weights=unnormalised)),
    routers.it_is_pure: (
        "init is not a function of the key",
        changed(ROUTERS, "bias", init=lambda _: lambda key: {"logit_j": unseeded(key)["w"][:3]}),
    ),
    routers.padding_is_inert: (
        "padding changes what it reads",
        changed(ROUTERS, "bias", read=lambda made: lambda rows_ljd, weight_l: jnp.mean(rows_ljd, axis=0)),
    ),
    routers.the_closed_form_equals_plain_steps: (
        "not the plain steps",
        changed(
            ROUTERS,
            "mlp",
            closed_form=lambda made: made.closed_form._replace(finish=lambda phi, pooled_jd, moving: phi),
        ),
    ),
    routers.fedvlr_trains_on_all_paths: (
        "two rounds move the public parameters by 0.0",
        changed(ROUTERS, "uniform", weights=lambda made: lambda phi, h: made.weights(phi, h) / 0),
    ),
}
