"""Items that nobody had in training: a catalogue that grows by what is known of the new ones, their features.

The server's fusion operators act on one item's row at a time, so that the views of a new item come out of its
features by the trained operators. Its row of D, and of a host's own public tables, does not exist: it is the mean of
the rows of all items with train rows, an item about whose identity nothing is known. (Zero would be a row like none
that the operators were trained on, and the rows of items without train rows only went where negatives pushed them.)
A client's private item table starts at zero for it, as it does for every item. An item-to-item prior and score views
treat it as what it is, an item without train rows; what a run chose for them, and sums with noise, stay as they were.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.data.by_item import by_index
from fedvlr_jax.data.features import unit_rows
from fedvlr_jax.data.ids import as_column, as_ids, ids_or_numbers
from fedvlr_jax.data.messages import Source
from fedvlr_jax.errors import DataError
from fedvlr_jax.models.model import ITEM_TABLE
from fedvlr_jax.types import Array, Dataset, FedState, PyTree


def with_new_items(
    dataset: Dataset,
    features: dict[str, np.ndarray | None],
    ids: Sequence[object] | None = None,
    titles: Sequence[str] | None = None,
) -> Dataset:
    """The data set with items behind its last one, which nobody has.

    Args:
      dataset: what was trained on.
      features: by the letters of the modalities that the set has, "V" [n, dv] and "C" [n, dc] of the new items; rows
        are scaled to norm one.
      ids: of the new items; by default the numbers that follow. Where they are of another kind than those of the
        set, all ids become text.
      titles: of the new items.

    Raises:
      DataError: features that are missing, not finite, zero, of another width, or of a modality that the set
        lacks; an id that there is already; or ids or titles of more or fewer items.
    """
    sizes = {len(x) for x in features.values() if x is not None}
    if len(sizes) != 1 or not min(sizes):
        raise DataError(f"{dataset.name}, new items: expected features of as many items, found {sorted(sizes)} rows")
    (size,) = sizes
    more = _column(dataset, "ids", np.arange(dataset.num_items, dataset.num_items + size) if ids is None else ids)
    item_ids = _joined(ids_or_numbers(dataset.item_ids, dataset.num_items).tolist(), more)
    if len(more) != size or len(set(map(str, item_ids.tolist()))) < len(item_ids):
        raise DataError(
            f"{dataset.name}, new items: expected {size} ids that no item has, found {len(more)} or known ones"
        )
    named = [
        "" if title is None else str(title)
        for title in _column(dataset, "titles", [""] * size if titles is None else titles)
    ]
    if len(named) != size:
        raise DataError(f"{dataset.name}, new items: expected {size} titles, found {len(named)}")
    given = {letter: _in_order(dataset, letter, rows, more, ids) for letter, rows in features.items()}
    V, C = (_grown(dataset, letter, given.get(letter)) for letter in ("V", "C"))
    old_titles = [""] * dataset.num_items if dataset.item_titles is None else dataset.item_titles.tolist()
    return dataclasses.replace(
        dataset,
        num_items=dataset.num_items + size,
        item_ids=item_ids,
        item_titles=np.array([*old_titles, *named]),
        missing_V=_more(dataset.missing_V, size),
        missing_C=_more(dataset.missing_C, size),
        V=V,
        C=C,
        newcomers=None,
        fewer_items=dataset.fewer_items or dataset,
    )


def _in_order(dataset: Dataset, letter: str, rows: Any, more: list[Any], ids: Any) -> Any:
    """Features in the order of the new ids, also those of a frame whose index has the ids in another order."""
    found = by_index(Source(f"{dataset.name}, new items"), letter, rows, as_ids(more), ids)
    if not isinstance(found, dict):
        return rows
    if absent := [id_ for id_ in more if id_ not in found]:
        raise DataError(f"{dataset.name}, new items, {letter}: expected {absent[0]!r} in the index, found it nowhere")
    return np.stack([found[id_] for id_ in more])


def _column(dataset: Dataset, field: str, values: Sequence[object] | np.ndarray) -> list[Any]:
    return as_column(Source(f"{dataset.name}, new items"), field, values).tolist()


def _joined(known: list[Any], more: list[Any]) -> np.ndarray:
    """Ids of one kind as they are, others as text."""
    ids = as_ids([*known, *more])
    return as_ids([*map(str, known), *map(str, more)]) if ids.dtype.kind == "O" else ids


def _more(imputed: np.ndarray | None, size: int) -> np.ndarray | None:
    return None if imputed is None else np.concatenate([imputed, np.zeros(size, bool)])


def _grown(dataset: Dataset, letter: str, rows: np.ndarray | None) -> np.ndarray | None:
    old = getattr(dataset, letter)
    if old is None:
        if rows is not None:
            raise DataError(f"{dataset.name}, new items: expected no {letter}, which the data set lacks, found some")
        return None
    new = np.zeros((0, 0)) if rows is None else np.asarray(rows, np.float32)
    if new.ndim != 2 or new.shape[1] != old.shape[1] or not np.isfinite(new).all() or not new.any(axis=1).all():
        raise DataError(
            f"{dataset.name}, new items: expected finite {letter} [n, {old.shape[1]}] without rows of zeros, "
            f"found {list(new.shape)}"
        )
    return np.concatenate([old, unit_rows(new)])


def grow_state(state: FedState, num_items: int, seen_i: np.ndarray) -> FedState:
    """The trained state for a catalogue of `num_items`, of which the first |I| were trained.

    Args:
      state: of the trained run. Optimizer states are left out: nothing can be trained from it.
      num_items: of the larger catalogue.
      seen_i: bool [i], items with train rows, whose mean row the new items get.
    """
    more = num_items - seen_i.size
    weight_i = jnp.asarray(seen_i / max(seen_i.sum(), 1), jnp.float32)

    def grow(x: Array) -> Array:
        return jnp.concatenate([x, jnp.broadcast_to(weight_i @ x, (more, x.shape[1]))])

    params = state.public.params
    variant, host = params["variant"], params["host"]
    grown: PyTree = {
        "variant": variant | ({"D": grow(variant["D"])} if "D" in variant else {}),
        "host": host | {"tables": jax.tree.map(grow, host["tables"])},
    }
    private = state.private.params
    if ITEM_TABLE in private:
        private = private | {ITEM_TABLE: jnp.pad(private[ITEM_TABLE], ((0, 0), (0, more), (0, 0)))}
    return state.replace(
        public=state.public.replace(params=grown, opt_state=()),
        private=state.private.replace(params=private, opt_state=(), memory=()),
    )
