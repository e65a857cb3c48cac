"""Server side: fusion operators g_j and the views F_j = g_j(V, C, D; gamma_j) that a round broadcasts.

Every operator acts on one item's row at a time. That row-locality is one of the conditions under which pulling
the summed client cotangents back once a round equals differentiating inside every client (Algorithm 1), and it
lets a client download only the rows it touches.

To add an operator: write an `Operator` whose call maps ``(e_id, v_id, c_id) -> [i, d]`` and give it a row in
``FUSION_OPS``. The tests over that table judge it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedvlr_jax.errors import ConfigError
from fedvlr_jax.types import MODALITIES, Array, Content, PyTree, given

LETTERS = tuple(MODALITIES)


class Operator(nn.Module):
    """What every fusion operator is told; one uses what it needs.

    Attributes:
      dim: d.
      heads: attention heads.
      present: which of `MODALITIES` the data has and the settings leave on; the others come in as zeros.
      activation: of hidden layers.
      dtype: the type that layers compute in, None for that of the parameters.
    """

    dim: int
    heads: int
    present: tuple[bool, bool, bool]
    activation: Callable[[Array], Array] = nn.relu
    dtype: jnp.dtype | None = None


class Sum(Operator):
    """``e + v + c``; no parameters."""

    @nn.compact
    def __call__(self, e_id: Array, v_id: Array, c_id: Array) -> Array:
        return e_id + v_id + c_id


class Mlp(Operator):
    """Linear(3d -> 2d), activation (ReLU in the paper), Linear(2d -> d) on the concatenated modalities."""

    @nn.compact
    def __call__(self, e_id: Array, v_id: Array, c_id: Array) -> Array:
        joint = jnp.concatenate([e_id, v_id, c_id], axis=-1)
        hidden = self.activation(nn.Dense(2 * self.dim, dtype=self.dtype, name="hidden")(joint))
        return nn.Dense(self.dim, dtype=self.dtype, name="out")(hidden)


class Gate(Operator):
    """Each modality times the sigmoid of its own Linear(d -> d), concatenated, Linear(3d -> d)."""

    @nn.compact
    def __call__(self, e_id: Array, v_id: Array, c_id: Array) -> Array:
        gated = [
            x * nn.sigmoid(nn.Dense(self.dim, dtype=self.dtype, name=f"gate_{name}")(x))
            for name, x in zip(MODALITIES, (e_id, v_id, c_id), strict=True)
        ]
        return nn.Dense(self.dim, dtype=self.dtype, name="out")(jnp.concatenate(gated, axis=-1))


class Attention(Operator):
    """Multi-head attention over the item's own modality tokens, averaged over the tokens that are present.

    The tokens of one item attend to each other only, so the operator stays row-local. A modality that is
    switched off is masked as a key and left out of the average. The keys' bias shifts all logits of a query alike,
    so it has neither effect nor gradient.
    """

    @nn.compact
    def __call__(self, e_id: Array, v_id: Array, c_id: Array) -> Array:
        tokens_imd = jnp.stack([e_id, v_id, c_id], axis=-2)
        present_m = jnp.asarray(self.present)
        mask_ihmm = jnp.broadcast_to(present_m, (tokens_imd.shape[0], 1, 3, 3))
        attention = nn.MultiHeadDotProductAttention(num_heads=self.heads, dtype=self.dtype, name="attention")
        attended_imd = attention(tokens_imd, mask=mask_ihmm)
        weight_m = present_m.astype(e_id.dtype) / sum(self.present)
        return jnp.einsum("m,imd->id", weight_m, attended_imd)


class _Single(Operator):
    """One modality alone. With these three as operators, a router's weights are a modality preference."""

    which: int = 0

    @nn.compact
    def __call__(self, e_id: Array, v_id: Array, c_id: Array) -> Array:
        if not self.present[self.which]:
            raise ConfigError(
                f"fusion.operators: an operator of modality {LETTERS[self.which]} alone needs that modality, "
                f"found fusion.modalities without it"
            )
        return (e_id, v_id, c_id)[self.which]


def _single(which: int) -> Callable[..., nn.Module]:
    def make(**kwargs: Any) -> nn.Module:
        return _Single(which=which, **kwargs)

    return make


FUSION_OPS: dict[str, Callable[..., nn.Module]] = {
    "sum": Sum,
    "mlp": Mlp,
    "gate": Gate,
    "attention": Attention,
    **{name: _single(which) for which, name in enumerate(MODALITIES.values())},
}


class Fusion(NamedTuple):
    """Views of one set of operators as a pair of pure functions.

    Attributes:
      init: ``(key) -> params`` with ``D`` [i, d], ``project`` (W_v, b_v, W_c, b_c) and ``gamma`` by operator.
      views: ``(params, content) -> F_ijd`` [i, j, d]. Items lead so that a client gathers one contiguous row
        per item; axis j follows the order of the operators.
      num_views: |G|.
    """

    init: Callable[[Array], PyTree]
    views: Callable[[PyTree, Content], Array]
    num_views: int


def make_fusion(
    operators: Sequence[str],
    content: Content,
    num_items: int,
    *,
    dim: int,
    heads: int = 4,
    modalities: Sequence[str] = LETTERS,
    init_scale: float = 0.1,
    activation: Callable[[Array], Array] = nn.relu,
    rounded: jnp.dtype | None = None,
) -> Fusion:
    """Builds the views of `operators` over the modalities that are switched on and that the data has.

    Args:
      operators: names in ``FUSION_OPS``, in the order of axis j. "gate#2" is another operator of kind gate, with
        parameters of its own.
      content: the frozen features; only their shapes are read here. A missing one is switched off.
      num_items: |I|.
      dim: d, the shared latent dimension.
      heads: attention heads, a divisor of `dim`.
      modalities: subset of ("D", "V", "C"); one left out enters the operators as zeros (ablations w/o D, V, C).
      init_scale: standard deviation of the initial item-ID table D.
      activation: of operator `mlp`.
      rounded: the type that the layers compute in (sums inside a product are float32); None for that of the
        parameters. Parameters and views keep theirs.

    Raises:
      ConfigError: an unknown operator or modality, no modality left, or `heads` that do not divide `dim`.
    """
    present = _present(modalities, content)
    shared: dict[str, Any] = {
        "dim": dim,
        "heads": heads,
        "present": present,
        "activation": activation,
        "dtype": rounded,
    }
    modules = {name: FUSION_OPS[kind_of(name)](**shared) for name in _checked(operators)}
    if "attention" in map(kind_of, modules) and dim % heads:
        raise ConfigError(f"fusion.heads: expected a divisor of fusion.dim={dim}, found {heads}")
    project = nn.Dense(dim)

    def init(key: Array) -> PyTree:
        key_d, key_v, key_c, *key_j = jax.random.split(key, 3 + len(modules))
        zeros_id = jnp.zeros((1, dim))
        D_id = init_scale * jax.random.normal(key_d, (num_items, dim))
        projections = {
            letter: project.init(k, jnp.zeros((1, given(features).shape[1])))
            for letter, features, k, on in zip(("V", "C"), content, (key_v, key_c), present[1:], strict=True)
            if on
        }
        gamma = {
            name: module.init(k, zeros_id, zeros_id, zeros_id)
            for (name, module), k in zip(modules.items(), key_j, strict=True)
        }
        return {"D": D_id, "project": projections, "gamma": gamma}

    def views(params: PyTree, content: Content) -> Array:
        tokens = project_modalities(params, content, present, rounded)
        found: list[Any] = [m.apply(params["gamma"][name], *tokens) for name, m in modules.items()]
        return jnp.stack([x.astype(params["D"].dtype) for x in found], axis=1)

    return Fusion(init, views, len(modules))


def project_modalities(
    params: PyTree, content: Content, present: Sequence[bool], rounded: jnp.dtype | None = None
) -> tuple[Array, Array, Array]:
    """The three modality tokens e = D, v = V W_v + b_v, c = C W_c + b_c, each [i, d]; zeros where switched off."""
    dense = nn.Dense(params["D"].shape[1], dtype=rounded, dot_general=_tall_dot)
    e_id = params["D"] if present[0] else jnp.zeros_like(params["D"])
    tokens: list[Any] = [
        dense.apply(params["project"][letter], features) if on else jnp.zeros_like(e_id)
        for letter, features, on in zip(("V", "C"), content, present[1:], strict=True)
    ]
    v_id, c_id = tokens
    return e_id, v_id, c_id


def _tall_dot(x: Array, w: Array, dimensions: Any, precision: Any = None) -> Array:
    """`tall_product` instead of the `jax.lax.dot_general` that `nn.Dense` calls."""
    del dimensions  # the last axis of x against the first of w: a matrix product
    return tall_product(x, w, precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def tall_product(x_io: Array, w_od: Array, precision: Any = None) -> Array:
    """``x w`` [i, d] whose gradient with respect to w first transposes x.

    That gradient, x^T g, sums over rows of x, which a CPU does three times slower than over columns (560 items, 512
    features, d = 64: 0.76 and 0.23 ms). The barrier keeps the compiler from undoing the transposition.
    """
    return jnp.matmul(x_io, w_od, precision=precision)


def _tall_forward(x_io: Array, w_od: Array, precision: Any) -> tuple[Array, tuple[Array, Array]]:
    return jnp.matmul(x_io, w_od, precision=precision), (x_io, w_od)


def _tall_backward(precision: Any, saved: tuple[Array, Array], g_id: Array) -> tuple[Array, Array]:
    x_io, w_od = saved
    x_oi = jax.lax.optimization_barrier(x_io.T)
    return jnp.matmul(g_id, w_od.T, precision=precision), jnp.matmul(x_oi, g_id, precision=precision)


tall_product.defvjp(_tall_forward, _tall_backward)


def kind_of(operator: str) -> str:
    """The kind of an operator: "gate" of "gate" and of "gate#2"."""
    return operator.partition("#")[0]


def _present(modalities: Sequence[str], content: Content) -> tuple[bool, bool, bool]:
    for letter in modalities:
        if letter not in MODALITIES:
            raise ConfigError(f"fusion.modalities: expected a subset of {','.join(MODALITIES)}, found {letter!r}")
    present = (
        "D" in modalities,
        "V" in modalities and content.V is not None,
        "C" in modalities and content.C is not None,
    )
    if not any(present):
        raise ConfigError("fusion.modalities: expected at least one modality that the data has, found none")
    return present


def _checked(operators: Sequence[str]) -> Sequence[str]:
    if not operators:
        raise ConfigError(f"fusion.operators: expected at least one of {', '.join(FUSION_OPS)}, found none")
    for name in operators:
        if kind_of(name) not in FUSION_OPS:
            raise ConfigError(f"fusion.operators: unknown operator {name!r}; known are {', '.join(FUSION_OPS)}")
    if len(set(operators)) != len(operators):
        raise ConfigError(f"fusion.operators: expected distinct operators, found {', '.join(operators)}")
    return operators
