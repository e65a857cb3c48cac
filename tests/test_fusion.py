"""Fusion operators against their formulas, and the modality switches; for laws of all of them see `laws.fusion`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws.fusion import CONTENT, build, built

from fedvlr_jax.assembly import parse_names
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.models.fusion import tall_product
from fedvlr_jax.types import Content


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


@pytest.mark.parametrize("name", ["sum", "mlp", "gate", "attention"])
def test_operators_that_join_modalities_read_each_of_them(name):
    _, params, views = built(name)
    before = views(params, CONTENT)
    others = [(params | {"D": params["D"] + 1}, CONTENT)]
    others += [(params, CONTENT._replace(**{letter: getattr(CONTENT, letter)[::-1]})) for letter in "VC"]
    for other in others:
        assert np.abs(views(*other) - before).max() > 1e-3


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
