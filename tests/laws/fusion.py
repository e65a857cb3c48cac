"""Laws of FUSION_OPS: operators act on one item's row at a time, and take any modality that is there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.errors import ConfigError
from fedvlr_jax.models.fusion import FUSION_OPS, Fusion, make_fusion
from fedvlr_jax.types import Content
from laws.judging import require_close, require_finite

NUM_ITEMS, DIM = 9, 8
CONTENT = Content(jax.random.normal(jax.random.key(1), (9, 6)), jax.random.normal(jax.random.key(2), (9, 5)))
WITHOUT_GRADIENT = {"attention": ("['key']['bias']",)}
"""Parameters that are documented to have no effect, by the end of their names."""


class Built(NamedTuple):
    """Views of some operators with random parameters, and ``(params, content) -> F_ijd`` compiled."""

    fusion: Fusion
    params: Any
    views: Callable[..., jax.Array]


def build(
    operators: Sequence[str], modalities: Sequence[str] = "DVC", content: Content = CONTENT, heads: int = 2
) -> tuple[Fusion, Any]:
    """Views of some operators, and their initial parameters."""
    options = {"dim": DIM, "heads": heads, "modalities": tuple(modalities), "init_scale": 1.0}
    fusion = make_fusion(operators, content, NUM_ITEMS, **options)
    return fusion, jax.jit(fusion.init)(jax.random.key(0))


def built(name: str) -> Built:
    """The operator of that name alone, made and compiled once for all laws."""
    return _built(name, FUSION_OPS[name])


@functools.lru_cache(maxsize=16)
def _built(name: str, row: Any) -> Built:
    del row  # the same name with another row is another operator
    fusion, params = build((name,))
    leaves, tree = jax.tree.flatten(params)
    rng = np.random.default_rng(5)
    moved = [x + jnp.asarray(0.1 * rng.normal(size=x.shape), x.dtype) for x in leaves]
    return Built(fusion, jax.tree.unflatten(tree, moved), jax.jit(fusion.views))


def views_are_finite_and_jit_changes_nothing(name: str) -> None:
    fusion, params, views = built(name)
    views_ijd = views(params, CONTENT)
    assert views_ijd.shape == (NUM_ITEMS, 1, DIM), f"operator {name}: expected [i, d], found {views_ijd.shape}"
    require_finite(f"operator {name}: views are not finite", views_ijd)
    message = f"operator {name}: jit changes its views"
    require_close(message, views_ijd, fusion.views(params, CONTENT), rtol=1e-5, atol=1e-5)


def views_follow_a_permutation_of_the_items(name: str) -> None:
    _, params, views = built(name)
    order = np.random.default_rng(0).permutation(NUM_ITEMS)
    permuted = views(params | {"D": params["D"][order]}, Content(CONTENT.V[order], CONTENT.C[order]))
    message = f"operator {name}: its views do not follow a permutation of the items"
    require_close(message, permuted, views(params, CONTENT)[order], rtol=1e-5, atol=1e-6)


def gradients_are_row_local(name: str) -> None:
    fusion, params, _ = built(name)

    def one_row(D: jax.Array, content: Content) -> jax.Array:
        return jnp.sum(fusion.views(params | {"D": D}, content)[4] ** 2)

    gradients = jax.tree.map(np.asarray, jax.jit(jax.grad(one_row, (0, 1)))(params["D"], CONTENT))
    for gradient in jax.tree.leaves(gradients):
        others = np.abs(np.delete(gradient, 4, axis=0)).max()
        assert others == 0, f"operator {name}: it is not row-local: other rows' gradients are up to {others}"
    largest = max(np.abs(g).max() for g in jax.tree.leaves(gradients))
    assert largest > 0, f"operator {name}: it reads neither D nor features"


def every_parameter_gets_a_gradient(name: str) -> None:
    """On random input; parameters without effect are documented in `WITHOUT_GRADIENT`."""
    fusion, params, _ = built(name)
    weight = np.random.default_rng(6).normal(size=(NUM_ITEMS, 1, DIM))
    gradient = jax.jit(jax.grad(lambda params: jnp.sum(weight * fusion.views(params, CONTENT) ** 2)))(params)
    for path, x in jax.tree_util.tree_leaves_with_path(gradient["gamma"]):
        where = jax.tree_util.keystr(path)
        unused = where.endswith(WITHOUT_GRADIENT.get(name, ()))
        assert unused or np.abs(x).max() > 1e-6, f"operator {name}: parameter {where} gets no gradient"


def modalities_can_be_switched_off(name: str) -> None:
    """Without one modality an operator says no, or is finite and reads nothing of what is off."""
    for off in "DVC":
        on = tuple(letter for letter in "DVC" if letter != off)
        fusion = make_fusion((name,), CONTENT, NUM_ITEMS, dim=DIM, heads=2, modalities=on)
        try:
            views, changed = jax.jit(_views_before_and_after, static_argnums=(0, 1, 2))(
                fusion.init, fusion.views, off
            )
        except ConfigError:
            continue
        require_finite(f"operator {name}: views are not finite without modality {off}", views)
        assert np.array_equal(views, changed), f"operator {name}: it reads modality {off}, which is off"


def _views_before_and_after(init: Callable, views: Callable, off: str) -> tuple[jax.Array, jax.Array]:
    """Views, and views with another D or other features in the place of a modality."""
    params = init(jax.random.key(0))
    if off == "D":
        return views(params, CONTENT), views(params | {"D": params["D"] + 1}, CONTENT)
    return views(params, CONTENT), views(params, CONTENT._replace(**{off: getattr(CONTENT, off)[::-1]}))


LAWS = {
    views_are_finite_and_jit_changes_nothing: (),
    views_follow_a_permutation_of_the_items: (),
    gradients_are_row_local: (),
    every_parameter_gets_a_gradient: (),
    modalities_can_be_switched_off: (),
}
