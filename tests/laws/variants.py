"""Laws of VARIANTS: what a variant publishes and what a client keeps for it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from problems import settings, tiny_dataset

from fedvlr_jax.assembly import configured_model
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.models.model import Model
from fedvlr_jax.models.variants import VARIANTS, Variant
from fedvlr_jax.types import Content
from laws.judging import require_close, require_equal, require_finite

DATASET = tiny_dataset(num_users=3, num_items=9)
CONTENT = Content(jnp.asarray(DATASET.V), jnp.asarray(DATASET.C))
DIM, CHANGED = 8, 4


class Published(NamedTuple):
    """A host in a variant, public parameters, row tables, and ``(params, content) -> rows`` compiled."""

    model: Model
    params: Any
    rows: dict[str, jax.Array]
    rows_of: Callable[..., dict[str, jax.Array]]


def make_model(name: str, host: str = "fcf", content: Content = CONTENT, modalities: str = "D,V,C") -> Model:
    """The variant of that name as `make_algorithm` makes it."""
    tree = settings(variant=name, host__name=host, fusion__modalities=modalities, fusion__operators="sum,id")
    return configured_model(tree, content, DATASET.num_items)


def first_rows(variant: Variant, content: Content) -> tuple[Any, dict[str, jax.Array]]:
    """Initial public parameters and row tables."""

    def both(key: jax.Array, content: Content) -> tuple[Any, dict[str, jax.Array]]:
        params = variant.init_public(key)
        return params, variant.rows(params, content)

    return jax.jit(both)(jax.random.key(0), content)


def published(name: str, host: str = "fcf") -> Published:
    """The variant of that name with all modalities, made and compiled once for all laws."""
    return _published(name, VARIANTS[name], host)


@functools.lru_cache(maxsize=16)
def _published(name: str, row: Any, host: str) -> Published:
    del row  # the same name with another row is another variant
    model = make_model(name, host)
    return Published(model, *first_rows(model.variant, CONTENT), jax.jit(model.variant.rows))


def rows_lead_with_the_items(name: str) -> None:
    """``"views"`` [i, j, d] and tables [i, ...], finite; D [i, d] among the parameters wherever there are views."""
    for host in ("fcf", "fedncf"):  # without and with item tables of its own
        model, params, rows, _ = published(name, host)
        if not model.host.has_item_tables:
            assert "views" in rows, (
                f"variant {name}: expected views for a host without item tables, found {set(rows)}"
            )
        if "views" in rows:
            views = rows["views"]
            assert views.ndim == 3, f"variant {name}: expected views [i, j, d], found {views.shape}"
            assert views.shape[2] == DIM, f"variant {name}: expected views of width {DIM}, found {views.shape}"
            found = params.get("D", np.zeros(0)).shape
            assert found == (DATASET.num_items, DIM), f"variant {name}: expected D [i, d] in params, found {found}"
        for table, x in rows.items():
            assert x.shape[0] == DATASET.num_items, f"variant {name}: {table} does not lead with the items: {x.shape}"
        require_finite(f"variant {name}: rows are not finite", rows)


def rows_are_row_local(name: str) -> None:
    """Another item's features, or its row of D, change no other row."""
    _, params, rows, rows_of = published(name)
    features = Content(*(x.at[CHANGED].set(-x[CHANGED][::-1]) for x in CONTENT))
    moved = params | {"D": params["D"].at[CHANGED].add(1.0)}
    for other_params, content in ((params, features), (moved, CONTENT)):
        found = rows_of(other_params, content)
        for table, x in rows.items():
            differs_i = np.abs(np.asarray(x - found[table])).reshape(DATASET.num_items, -1).max(axis=1) > 1e-6
            differs_i[CHANGED] = False
            assert not differs_i.any(), f"variant {name}: {table} is not row-local: one item changes others"


def private_state_is_a_function_of_the_key(name: str) -> None:
    first, again = (make_model(name).variant.init_private(jax.random.key(3)) for _ in range(2))
    require_equal(f"variant {name}: initial private state is not a function of the key", first, again)
    require_finite(f"variant {name}: initial private state is not finite", first)


def a_router_weighs_the_views(name: str) -> None:
    """Several views need a router, whose parameters are the private ``"phi"``."""
    model, _, rows, _ = published(name)
    variant = model.variant
    private = variant.init_private(jax.random.key(3))
    if variant.router is None:
        assert rows["views"].shape[1] == 1, f"variant {name}: several views and no router"
        return
    assert "phi" in private, f"variant {name}: expected the router's parameters phi, found {set(private)}"
    w_j = variant.router.weights(private["phi"], jnp.mean(rows["views"], axis=0))
    assert w_j.shape == rows["views"].shape[1:2], (
        f"variant {name}: expected a weight for each view, found {w_j.shape}"
    )


def a_bonus_is_row_local(name: str) -> None:
    _require_row_local(name, "bonus", published(name).model.variant.bonus)


def a_teacher_is_row_local(name: str) -> None:
    teacher = published(name).model.variant.teacher
    _require_row_local(name, "teacher", None if teacher is None else teacher.score)


def _require_row_local(name: str, what: str, score: Callable[..., jax.Array] | None) -> None:
    """A score of its own, where the variant has it, is a number for each row, whatever the other rows are."""
    if score is None:
        return
    model, _, rows, _ = published(name)
    private = model.variant.init_private(jax.random.key(3))
    all_i = score(private, rows)
    assert all_i.shape == (DATASET.num_items,), f"variant {name}: expected a {what} [b], found {all_i.shape}"
    index = np.array([5, 0])
    some = score(private, jax.tree.map(lambda x: x[index], rows))
    require_close(f"variant {name}: its {what} is not row-local", some, all_i[index], rtol=1e-5, atol=1e-6)


def a_missing_modality_is_refused_or_harmless(name: str) -> None:
    """One ConfigError, or finite rows; never NaN."""
    for V, C, modalities in [(0, 1, "D,V,C"), (1, 0, "D,V,C"), (0, 0, "D,V,C"), (1, 1, "V,C"), (1, 1, "D")]:
        content = Content(CONTENT.V if V else None, CONTENT.C if C else None)
        try:
            _, rows = first_rows(make_model(name, content=content, modalities=modalities).variant, content)
        except ConfigError:
            continue
        require_finite(f"variant {name}: rows are not finite without a modality", rows)


LAWS = {
    rows_lead_with_the_items: (),
    rows_are_row_local: (),
    private_state_is_a_function_of_the_key: (),
    a_router_weighs_the_views: (),
    a_bonus_is_row_local: (),
    a_teacher_is_row_local: (),
    a_missing_modality_is_refused_or_harmless: (),
}
