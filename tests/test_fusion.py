"""Laws that every fusion operator obeys, and the modality switches."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.assembly import parse_names
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.models.fusion import FUSION_OPS, make_fusion, tall_product
from fedvlr_jax.types import Content

OPERATORS = tuple(FUSION_OPS)
CONTENT = Content(jax.random.normal(jax.random.key(1), (9, 6)), jax.random.normal(jax.random.key(2), (9, 5)))


def build(operators, modalities="DVC", content=CONTENT, dim=8, heads=2):
    fusion = make_fusion(operators, content, 9, dim=dim, heads=heads, modalities=tuple(modalities), init_scale=1.0)
    return fusion, jax.jit(fusion.init)(jax.random.key(0))


@pytest.mark.parametrize("name", OPERATORS)
def test_views_are_finite_and_jit_changes_nothing(name):
    fusion, params = build((name,))
    views_ijd = fusion.views(params, CONTENT)
    assert views_ijd.shape == (9, 1, 8)
    chex.assert_tree_all_finite(views_ijd)
    np.testing.assert_allclose(jax.jit(fusion.views)(params, CONTENT), views_ijd, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OPERATORS)
def test_views_follow_a_permutation_of_the_items(name):
    fusion, params = build((name,))
    order = np.random.default_rng(0).permutation(9)
    permuted = fusion.views(params | {"D": params["D"][order]}, Content(CONTENT.V[order], CONTENT.C[order]))
    np.testing.assert_allclose(permuted, fusion.views(params, CONTENT)[order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPERATORS)
def test_gradients_are_row_local(name):
    fusion, params = build((name,))

    def one_row(D, content):
        return jnp.sum(fusion.views(params | {"D": D}, content)[4] ** 2)

    grad_D, grad_content = jax.grad(one_row, (0, 1))(params["D"], CONTENT)
    for gradient in (grad_D, *grad_content):
        assert np.abs(np.delete(np.asarray(gradient), 4, axis=0)).max() == 0
    assert max(np.abs(g).max() for g in (grad_D, *grad_content)) > 0


def test_operators_equal_their_formulas():
    fusion, params = build(("sum", "mlp", "gate", "id", "visual", "text"))
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    dense = lambda p, x: x @ np.asarray(p["kernel"]) + np.asarray(p["bias"])  # noqa: E731
    e = np.asarray(params["D"])
    v, c = (dense(params["project"][m]["params"], np.asarray(x)) for m, x in zip("VC", CONTENT, strict=True))
    mlp, gate = (params["gamma"][name]["params"] for name in ("mlp", "gate"))
    hidden = np.maximum(dense(mlp["hidden"], np.hstack([e, v, c])), 0)
    gated = [x * sigmoid(dense(gate[f"gate_{m}"], x)) for m, x in zip("DVC", (e, v, c), strict=True)]
    expected = [e + v + c, dense(mlp["out"], hidden), dense(gate["out"], np.hstack(gated)), e, v, c]
    np.testing.assert_allclose(fusion.views(params, CONTENT), np.stack(expected, axis=1), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("modalities", ["DVC", "DC", "V"])
def test_attention_equals_its_formula_over_the_modalities_that_are_on(modalities):
    fusion, params = build(("attention",), modalities)
    params = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(3), x.shape), params)
    layers = jax.tree.map(np.asarray, params["gamma"]["attention"]["params"]["attention"])
    tokens = {"D": np.asarray(params["D"])}
    for m in set(modalities) - {"D"}:
        layer = params["project"][m]["params"]
        tokens[m] = np.asarray(getattr(CONTENT, m)) @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
    x_imd = np.stack([tokens[m] for m in modalities], axis=1)
    q, k, v = (
        np.einsum("imd,dhe->imhe", x_imd, layers[n]["kernel"]) + layers[n]["bias"] for n in ("query", "key", "value")
    )
    logits = np.exp(np.einsum("imhe,inhe->ihmn", q, k) / np.sqrt(4))
    mixed = np.einsum("ihmn,inhe->imhe", logits / logits.sum(axis=-1, keepdims=True), v)
    attended = np.einsum("imhe,hed->imd", mixed, layers["out"]["kernel"]) + layers["out"]["bias"]
    np.testing.assert_allclose(fusion.views(params, CONTENT)[:, 0], attended.mean(axis=1), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("off", ["D", "V", "C"])
@pytest.mark.parametrize("name", ["sum", "mlp", "gate", "attention"])
def test_a_modality_that_is_off_changes_nothing(name, off):
    fusion, params = build((name,), modalities="DVC".replace(off, ""))
    changed_params = params | {"D": params["D"] + 1} if off == "D" else params
    changed = CONTENT._replace(**{off: getattr(CONTENT, off)[::-1]}) if off != "D" else CONTENT
    np.testing.assert_array_equal(fusion.views(changed_params, changed), fusion.views(params, CONTENT))
    full, full_params = build((name,))
    on = full.views(full_params | {"D": full_params["D"] + 1} if off == "D" else full_params, changed)
    assert np.abs(on - full.views(full_params, CONTENT)).max() > 1e-3


def test_a_modality_that_the_data_lacks_is_off():
    fusion, params = build(("sum",), content=Content(None, CONTENT.C))
    assert set(params["project"]) == {"C"}
    assert fusion.views(params, Content(None, CONTENT.C)).shape == (9, 1, 8)


@pytest.mark.parametrize(
    ("operators", "modalities", "heads", "words"),
    [
        (("sum", "gates"), "DVC", 2, "unknown operator 'gates'"),
        ((), "DVC", 2, "at least one"),
        (("sum", "sum"), "DVC", 2, "distinct"),
        (("sum",), "", 2, "at least one modality"),
        (("sum",), "DX", 2, "found 'X'"),
        (("visual",), "DC", 2, "modality V"),
        (("attention",), "DVC", 3, "divisor"),
    ],
)
def test_settings_that_make_no_sense_are_refused(operators, modalities, heads, words):
    with pytest.raises(ConfigError, match=words):
        build(operators, modalities, heads=heads)


def test_operator_lists_are_read_as_a_user_writes_them():
    assert parse_names("sum, mlp,gate") == parse_names(("sum,mlp,gate",)) == parse_names(["sum", "mlp", "gate"])


def test_a_tall_product_has_the_gradients_and_the_curvature_of_a_product():
    x, w, g = (jax.random.normal(jax.random.key(k), shape) for k, shape in enumerate([(7, 5), (5, 3), (7, 3)]))

    def curvature(product):
        gradient = jax.grad(lambda x, w: jnp.sum(g * product(x, w) ** 3), argnums=(0, 1))
        return jax.jvp(gradient, (x, w), (x + 1, w - 1))

    for found, expected in zip(*map(jax.tree.leaves, map(curvature, (tall_product, jnp.matmul))), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
