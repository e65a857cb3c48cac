"""The two towers of CLIP as pure functions of a dict of parameters.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021 (arXiv 2103.00020),
with vision transformers. Axes: b batch, n patches and class token, t tokens, w width of the tower, h heads, l layers,
d dimensions of a feature.

A tower's parameters, float32; ``layers`` is stacked over l, so that one layer is compiled for all:

* image: ``patch`` [w, 3, p, p], ``class`` [w], ``position`` [n, w], ``ln_pre``, ``layers``, ``ln_post``,
  ``projection`` [w, d]
* text: ``token`` [vocabulary, w], ``position`` [t, w], ``layers``, ``ln_final``, ``projection`` [w, d]
* layers: ``ln_1``, ``qkv`` [w, 3 w], ``out`` [w, w], ``ln_2``, ``fc`` [w, 4 w], ``proj`` [4 w, w]

A layer norm is a pair ``scale``, ``bias`` [w]; a dense layer a pair ``kernel`` [in, out], ``bias`` [out].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Params = Mapping[str, Any]
ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": partial(jax.nn.gelu, approximate=False),
}


class ClipSpec(NamedTuple):
    """What the shapes of a tower's parameters do not tell."""

    heads: int
    activation: str
    epsilon: float = 1e-5


def image_features(params: Params, pixels_b3rr: jax.Array, spec: ClipSpec) -> jax.Array:
    """Features [b, d] of normalised square images [b, 3, r, r]: the class token after the last layer, projected."""
    x_bnw = _patches(params["patch"], pixels_b3rr)
    first_b1w = jnp.broadcast_to(params["class"], (len(x_bnw), 1, x_bnw.shape[-1]))
    x_bnw = jnp.concatenate([first_b1w, x_bnw], axis=1) + params["position"][None]
    x_bnw = _layer_norm(params["ln_pre"], x_bnw, spec.epsilon)
    x_bnw = _transformer(params["layers"], x_bnw, spec, causal=False)
    return _layer_norm(params["ln_post"], x_bnw[:, :1], spec.epsilon)[:, 0] @ params["projection"]


def text_features(params: Params, ids_bt: jax.Array, mask_bt: jax.Array, spec: ClipSpec) -> jax.Array:
    """Features [b, d] of token ids [b, t]: the end token, which is the last one that the mask has, projected."""
    x_btw = params["token"][ids_bt] + params["position"][None, : ids_bt.shape[1]]
    x_btw = _transformer(params["layers"], x_btw, spec, causal=True)
    end_b11 = mask_bt.sum(axis=1)[:, None, None] - 1
    end_b1w = jnp.take_along_axis(x_btw, end_b11, axis=1)
    return _layer_norm(params["ln_final"], end_b1w, spec.epsilon)[:, 0] @ params["projection"]


def _patches(kernel_w3pp: jax.Array, pixels_b3rr: jax.Array) -> jax.Array:
    """The convolution whose stride is its width, as one product: [b, n, w], patches row by row."""
    width, _, p, _ = kernel_w3pp.shape
    b, _, r, _ = pixels_b3rr.shape
    cut = pixels_b3rr.reshape(b, 3, r // p, p, r // p, p).transpose(0, 2, 4, 1, 3, 5)
    return cut.reshape(b, (r // p) ** 2, 3 * p * p) @ kernel_w3pp.reshape(width, -1).T


def _transformer(layers: Params, x_btw: jax.Array, spec: ClipSpec, *, causal: bool) -> jax.Array:
    """All layers, pre-norm: x + attention(norm(x)), then x + mlp(norm(x))."""
    activation = ACTIVATIONS[spec.activation]

    def layer(x_btw: jax.Array, p: Params) -> tuple[jax.Array, None]:
        x_btw = x_btw + _attention(p, _layer_norm(p["ln_1"], x_btw, spec.epsilon), spec.heads, causal=causal)
        hidden = activation(_dense(p["fc"], _layer_norm(p["ln_2"], x_btw, spec.epsilon)))
        return x_btw + _dense(p["proj"], hidden), None

    return jax.lax.scan(layer, x_btw, layers)[0]


def _attention(p: Params, x_btw: jax.Array, heads: int, *, causal: bool) -> jax.Array:
    """Multi-head attention; `causal` hides later tokens, and with them the padding, from every token."""
    b, t, w = x_btw.shape
    qkv_btchk = _dense(p["qkv"], x_btw).reshape(b, t, 3, heads, w // heads)
    q_bthk, k_bthk, v_bthk = (qkv_btchk[:, :, c] for c in range(3))
    mixed_bthk = jax.nn.dot_product_attention(q_bthk, k_bthk, v_bthk, is_causal=causal)
    return _dense(p["out"], mixed_bthk.reshape(b, t, w))


def _dense(p: Params, x_btw: jax.Array) -> jax.Array:
    return x_btw @ p["kernel"] + p["bias"][None, None]


def _layer_norm(p: Params, x_btw: jax.Array, epsilon: float) -> jax.Array:
    mean_bt1 = x_btw.mean(axis=-1, keepdims=True)
    variance_bt1 = x_btw.var(axis=-1, keepdims=True)
    normal_btw = (x_btw - mean_bt1) * jax.lax.rsqrt(variance_bt1 + epsilon)
    return normal_btw * p["scale"][None, None] + p["bias"][None, None]
