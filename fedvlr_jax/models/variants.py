"""Variants: how a host gets its item representation g_i, and what a client keeps for it.

base    one view, the item-ID table D                          g_i = D_i
mlp     one view, the monolithic fusion `mlp` (ablation)       g_i = F_mlp,i
vbpr    D, and E = [V, C] W_e public (naive federated VBPR)    host's score on D_i, plus psi_u . E_i
fedvlr  the views of all operators and a private router        g_i = sum_j w_uj F_j,i

and two competitors:

attention  one view, attention over an item's modalities, the same for all users (see below)    g_i = F_attention,i
gfmfr      D, and teachers of groups of users, fused from features (`group_fusion`)             g_i = D_i

`attention` follows AMMFRS (Feng et al., IEEE TNNLS 2024), of which the abstract says that an attention mechanism
gives the modalities different weights; its encoders, its scores and how item ids take part are left open, and are
the host's and those of operator `attention` here. Its noise and its defence against bad clients are settings.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from fedvlr_jax.errors import ConfigError
from fedvlr_jax.models.fusion import make_fusion
from fedvlr_jax.models.group_fusion import GroupFusion, membership
from fedvlr_jax.models.hosts.host import product
from fedvlr_jax.models.router import Router, favour_first
from fedvlr_jax.models.router_logits import Activation
from fedvlr_jax.types import Array, Content, PyTree


class Teacher(NamedTuple):
    """What a client learns from beside its own scores.

    Attributes:
      score: ``(private, rows) -> t_b``, logits of the rows; trained by the client's objective too.
      weight: of the divergence of the client's scores from these.
    """

    score: Callable[[PyTree, dict[str, Array]], Array]
    weight: float | Array


class Variant(NamedTuple):
    """One way to represent items.

    Attributes:
      init_public: ``(key) -> params``; they hold ``"D"`` [i, d] wherever `rows` has "views".
      rows: ``(params, content) -> {"views": [i, j, d], ...}``, the row tables of the broadcast; "views" is
        missing where the host has item tables of its own and the variant adds nothing to them.
      init_private: ``(key) -> params`` of one client.
      router: weighs the views with ``private["phi"]``, and with ``params["router"]`` where it has public parameters;
        None where a single view needs no weights.
      bonus: ``(private, rows) -> s_b``, what the variant adds to the host's score, or None.
      teacher: whom the client's scores follow during training, or None. No item is ranked by it.
    """

    init_public: Callable[[Array], PyTree]
    rows: Callable[[PyTree, Content], dict[str, Array]]
    init_private: Callable[[Array], PyTree]
    router: Router | None = None
    bonus: Callable[[PyTree, dict[str, Array]], Array] | None = None
    teacher: Teacher | None = None

    @property
    def shares_router(self) -> bool:
        """Whether the router has public parameters, which every client reads whole."""
        return self.router is not None and self.router.init_shared is not None


def _nothing(key: Array) -> PyTree:
    return {}


def _base(
    content: Content,
    num_items: int,
    *,
    dim: int,
    server_scale: float,
    modalities: Sequence[str],
    host_has_tables: bool,
    **_: Any,
) -> Variant:
    if "D" not in modalities and not host_has_tables:
        raise ConfigError("fusion.modalities: the variants base and vbpr are built on D, found modalities without it")

    def init_public(key: Array) -> PyTree:
        if host_has_tables:
            return {}
        return {"D": server_scale * jax.random.normal(key, (num_items, dim))}

    def rows(params: PyTree, content: Content) -> dict[str, Array]:
        return {} if host_has_tables else {"views": params["D"][:, None, :]}

    return Variant(init_public, rows, _nothing)


def _one_view(
    content: Content,
    num_items: int,
    *,
    operator: str,
    dim: int,
    server_scale: float,
    modalities: Sequence[str],
    heads: int,
    activation: Activation,
    rounded: jnp.dtype | None,
    **_: Any,
) -> Variant:
    options: dict[str, Any] = {
        "dim": dim,
        "heads": heads,
        "modalities": modalities,
        "init_scale": server_scale,
        "rounded": rounded,
    }
    fusion = make_fusion((operator,), content, num_items, activation=activation, **options)
    return Variant(fusion.init, lambda params, content: {"views": fusion.views(params, content)}, _nothing)


def _features_used(variant: str, content: Content, modalities: Sequence[str]) -> list[str]:
    """Which of V and C there are and are switched on; at least one."""
    used = [m for m, features in zip(("V", "C"), content, strict=True) if features is not None and m in modalities]
    if not used:
        raise ConfigError(f"variant {variant}: expected visual or textual features in the data and fusion.modalities")
    return used


def _vbpr(
    content: Content,
    num_items: int,
    *,
    dim: int,
    server_scale: float,
    private_scale: float,
    modalities: Sequence[str],
    **options: Any,
) -> Variant:
    base = _base(content, num_items, dim=dim, server_scale=server_scale, modalities=modalities, **options)
    used = _features_used("vbpr", content, modalities)
    project = nn.Dense(dim, use_bias=False)

    def features(content: Content) -> Array:
        return jnp.concatenate([getattr(content, m) for m in used], axis=1)

    def init_public(key: Array) -> PyTree:
        key_d, key_e = jax.random.split(key)
        return base.init_public(key_d) | {"project_E": project.init(key_e, features(content)[:1])}

    def rows(params: PyTree, content: Content) -> dict[str, Array]:
        E_id: Any = project.apply(params["project_E"], features(content))
        return base.rows(params, content) | {"E": E_id}

    def init_private(key: Array) -> PyTree:
        return {"psi": private_scale * jax.random.normal(key, (dim,))}

    return Variant(init_public, rows, init_private, bonus=lambda private, rows: product(rows["E"], private["psi"]))


def _gfmfr(
    content: Content,
    num_items: int,
    *,
    dim: int,
    server_scale: float,
    modalities: Sequence[str],
    activation: Activation,
    rounded: jnp.dtype | None,
    groups: int,
    distil: float | Array,
    **options: Any,
) -> Variant:
    base = _base(content, num_items, dim=dim, server_scale=server_scale, modalities=modalities, **options)
    used = _features_used("gfmfr", content, modalities)
    fusion = GroupFusion(dim, groups, server_scale, activation, rounded)

    def features(content: Content) -> list[Array | None]:
        return [getattr(content, m) if m in used else None for m in ("V", "C")]

    def init_public(key: Array) -> PyTree:
        some = [None if x is None else x[:1] for x in features(content)]
        return base.init_public(key) | {"groups": fusion.init(jax.random.fold_in(key, 1), *some)}

    def rows(params: PyTree, content: Content) -> dict[str, Array]:
        T_ik: Any = fusion.apply(params["groups"], *features(content))
        return base.rows(params, content) | {"teacher": T_ik}

    def score(private: PyTree, rows: dict[str, Array]) -> Array:
        return product(rows["teacher"], membership(private))

    return Variant(init_public, rows, lambda key: {"group": jnp.zeros(groups)}, teacher=Teacher(score, distil))


def _fedvlr(
    content: Content,
    num_items: int,
    *,
    dim: int,
    server_scale: float,
    operators: Sequence[str],
    modalities: Sequence[str],
    heads: int,
    activation: Activation,
    make_router: Callable[[int, int, Activation], Router],
    first_odds: float | Array,
    rounded: jnp.dtype | None,
    **_: Any,
) -> Variant:
    options: dict[str, Any] = {
        "dim": dim,
        "heads": heads,
        "modalities": modalities,
        "init_scale": server_scale,
        "rounded": rounded,
    }
    fusion = make_fusion(operators, content, num_items, activation=activation, **options)
    router = favour_first(make_router(dim, fusion.num_views, activation), first_odds)

    def init_public(key: Array) -> PyTree:
        if router.init_shared is None:
            return fusion.init(key)
        return fusion.init(key) | {"router": router.init_shared(jax.random.fold_in(key, 1))}

    return Variant(
        init_public,
        lambda params, content: {"views": fusion.views(params, content)},
        lambda key: {"phi": router.init(key)},
        router=router,
    )


VARIANTS: dict[str, Callable[..., Variant]] = {
    "base": _base,
    "mlp": functools.partial(_one_view, operator="mlp"),
    "vbpr": _vbpr,
    "fedvlr": _fedvlr,
    "attention": functools.partial(_one_view, operator="attention"),
    "gfmfr": _gfmfr,
}
"""Factories by the name in the config; each takes the options it knows and ignores the others."""
