"""Laws of FUSION_OPS: operators act on one item's row at a time, and take any modality that is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.errors import ConfigError
from fedvlr_jax.models.fusion import Fusion, make_fusion
from fedvlr_jax.types import Content
from laws.judging import require_close, require_finite

NUM_ITEMS, DIM = 9, 8
CONTENT = Content(jax.random.normal(jax.random.key(1), (9, 6)), jax.random.normal(jax.random.key(2), (9, 5)))
WITHOUT_GRADIENT = {"attention": ("['key']['bias']",)}
"""Parameters that are documented to have no effect, by the end of their names."""


def build(
    operators: Sequence[str], modalities: Sequence[str] = "DVC", content: Content = CONTENT, heads: int = 2
) -> tuple[Fusion, Any]:
    """Views of some operators, and their parameters."""
    options = {"dim": DIM, "heads": heads, "modalities": tuple(modalities), "init_scale": 1.0}
    fusion = make_fusion(operators, content, NUM_ITEMS, **options)
    return fusion, jax.jit(fusion.init)(jax.random.key(0))


def views_are_finite_and_jit_changes_nothing(name: str) -> None:
    fusion, params = build((name,))
    views_ijd = fusion.views(params, CONTENT)
    assert views_ijd.shape == (NUM_ITEMS, 1, DIM), f"operator {name}: expected [i, d], found {views_ijd.shape}"
    require_finite(f"operator {name}: views are not finite", views_ijd)
    message = f"operator {name}: jit changes its views"
    require_close(message, jax.jit(fusion.views)(params, CONTENT), views_ijd, rtol=1e-5, atol=1e-5)


def views_follow_a_permutation_of_the_items(name: str) -> None:
    fusion, params = build((name,))
    order = np.random.default_rng(0).permutation(NUM_ITEMS)
    permuted = fusion.views(params | {"D": params["D"][order]}, Content(CONTENT.V[order], CONTENT.C[order]))
    message = f"operator {name}: its views do not follow a permutation of the items"
    require_close(message, permuted, fusion.views(params, CONTENT)[order], rtol=1e-5, atol=1e-6)


def gradients_are_row_local(name: str) -> None:
    fusion, params = build((name,))

    def one_row(D: jax.Array, content: Content) -> jax.Array:
        return jnp.sum(fusion.views(params | {"D": D}, content)[4] ** 2)

    gradients = [np.asarray(g) for g in jax.tree.leaves(jax.grad(one_row, (0, 1))(params["D"], CONTENT))]
    for gradient in gradients:
        others = np.abs(np.delete(gradient, 4, axis=0)).max()
        assert others == 0, f"operator {name}: it is not row-local: other rows' gradients are up to {others}"
    assert max(np.abs(g).max() for g in gradients) > 0, f"operator {name}: it reads neither D nor features"


def every_parameter_gets_a_gradient(name: str) -> None:
    """On random input; parameters without effect are documented in `WITHOUT_GRADIENT`."""
    fusion, params = build((name,))
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(5), x.shape), params)
    weight = jax.random.normal(jax.random.key(6), (NUM_ITEMS, 1, DIM))
    gradient = jax.grad(lambda params: jnp.sum(weight * fusion.views(params, CONTENT) ** 2))(params)
    for path, x in jax.tree_util.tree_leaves_with_path(gradient["gamma"]):
        where = jax.tree_util.keystr(path)
        unused = where.endswith(WITHOUT_GRADIENT.get(name, ()))
        assert unused or np.abs(x).max() > 1e-6, f"operator {name}: parameter {where} gets no gradient"


def modalities_can_be_switched_off(name: str) -> None:
    """Without one modality, or with one alone, an operator says no or reads nothing of what is off."""
    for modalities in ("DV", "DC", "VC", "D", "V", "C"):
        try:
            fusion, params = build((name,), modalities)
        except ConfigError:
            continue
        views = fusion.views(params, CONTENT)
        require_finite(f"operator {name}: views are not finite with modalities {modalities} alone", views)
        off = {letter: getattr(CONTENT, letter)[::-1] for letter in "VC" if letter not in modalities}
        other = params if "D" in modalities else params | {"D": params["D"] + 1}
        found = fusion.views(other, CONTENT._replace(**off))
        same = np.array_equal(found, views)
        assert same, f"operator {name}: it reads a modality that is off, with modalities {modalities}"


LAWS = {
    views_are_finite_and_jit_changes_nothing: (),
    views_follow_a_permutation_of_the_items: (),
    gradients_are_row_local: (),
    every_parameter_gets_a_gradient: (),
    modalities_can_be_switched_off: (),
}
