"""What some hosts agree on with their clients before the first round; axis letters as in `types.py`."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

Array = jax.Array
PyTree = Any


class Prior(NamedTuple):
    """What a host that scores with an item-to-item prior needs beside the trained model (`prior.py`).

    Attributes:
      score_ui: float32 [u, i], each client's own row of prior scores; a client never sees another's.
      blend_ii: float32 [i, i], rows sum to one: how far an item's trained score is its own, and how far that of the
        items with features like its own.
      choice: float32 [] by name, what it was formed with.
    """

    score_ui: Array
    blend_ii: Array
    choice: dict[str, Array]


class Evidence(NamedTuple):
    """What a client of a host with score views learns from; the table is its own, and stays as it is.

    Attributes:
      base_b: float32 [b], its candidates' scores where learning starts; [u, b] over all clients.
      x_bk: float32 [b, k], their views as `score_views.coordinates`, from histories without any client's last items.
      target_b: float32 [b], 1 for the client's own last train items.
      candidate_b: bool [b], False for padding.
    """

    base_b: Array
    x_bk: Array
    target_b: Array
    candidate_b: Array


class ViewBasis(NamedTuple):
    """Weights ``start_k + turn_kk y`` of score views in each shape, for what is learned, y (`view_basis.py`)."""

    start_k: Array
    turn_kk: Array


class ScoreViews(NamedTuple):
    """What a host that weighs score views needs beside the trained model (`federated/score_views.py`).

    Attributes:
      evidence: leaves [u, ...]; a client never sees another's.
      z_uiv: float32 [u, i, v], each client's own standardised views; None where that is too large to keep.
      maps: `score_views.ItemMap` by name, from whole histories: what the views are formed with.
      count_i: float32 [i], clients that have each item.
      age_r: int32 [rows], ages of all train rows, client after client in the order of their histories, or None.
      start_u: int32 [u], where the rows of each client begin.
      basis, choice: of the weights; and float32 [] by name, what the run chose (`view_maps.described`).
    """

    evidence: Evidence
    z_uiv: Array | None
    maps: dict[str, PyTree]
    count_i: Array
    age_r: Array | None
    start_u: Array
    basis: ViewBasis
    choice: dict[str, Array]
