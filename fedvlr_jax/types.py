"""The types a reader meets first, and the axis letters used in every name of this package.

Axis letters (they are also the einsum letters):

    u  users; one user is one client          i  items
    c  client slots of one chunk              r  row tables broadcast to clients (views first)
    j  fused views, one per fusion operator   d  latent dimensions
    l  slots of a padded history              b  items of one local step (positives and negatives)
    a  local steps                            n  rows a client touches in one round
    t  the two held-out splits (valid, test)  k  cut-offs of a ranking metric
    h  held-out rows, user after user         p  places of one user's held-out rows

Padding is always ``id == num_items`` (items) or ``id == num_users`` (users): such an id gathers with
``mode='fill'`` and scatters with ``mode='drop'``, so padding can neither read nor write a real row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from fedvlr_jax.agreed import Evidence, Prior, ScoreViews

Array = jax.Array
PyTree = Any
T = TypeVar("T")


def given(x: T | None) -> T:
    """`x`, where the caller knows that there is one."""
    assert x is not None
    return x


NOWHERE = np.iinfo(np.int32).max
"""A row that is out of range in every table (`Bucket.row`)."""

MODALITIES = {"D": "id", "V": "visual", "C": "text"}
"""What is known of an item, in the order of every axis of modalities: the symbol, as in `Content` and the settings,
and the name, as in operators and results."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """Interactions, splits and frozen item features, checked and complete (NumPy, in CPU memory).

    Attributes:
      name: name of the set, as it appears in results.
      num_users, num_items: ids are contiguous, ``0 <= id < num``.
      train_user, train_item: int32 [rows], distinct pairs sorted by (user, item). Every user occurs.
      valid_item, test_item: int32 [h], held-out items, user after user; -1 where there is none. A user has as many
        places as its larger split has rows, and at least one; its rows come first, by item.
      held_user: int32 [h], the user of each place, ascending; None where every user has one, and h = u.
      V, C: float32 [i, dv] and [i, dc], visual and textual features with unit-norm rows, or None where
        the set lacks the modality.
      planted: float32 [u, 3], the true preference for (ID, visual, textual) affinity of each user, rows
        sum to one; None for real data.
      dropped_duplicates: number of repeated (user, item) rows that were dropped while reading.
      train_age: int32 [rows], for every train row the number of its user's train rows with a later timestamp (0 =
        the latest; equal times share an age); None where the set has no timestamps.
      user_ids, item_ids: [u] and [i], the ids that the caller knows users and items by: number k is
        ``user_ids[k]``. None where the numbers are the ids.
      item_titles: str [i], what to call an item; None where nobody said.
      missing_V, missing_C: bool [i], items whose visual or textual row is imputed; None where nobody said.
      time_span: the earliest and the latest timestamp as they are written; None where there are none, or they were
        not kept.
      newcomers: users who are left out of everything else here, with numbers of their own (`data/user_split.py`):
        their train rows are the histories that they come with. None where nobody is left out.
      fewer_items: the same interactions without the items that came after training (`inference/new_items.py`): what a
        run chose before its rounds is chosen by it. None where none came.
    """

    name: str
    num_users: int
    num_items: int
    train_user: np.ndarray
    train_item: np.ndarray
    valid_item: np.ndarray
    test_item: np.ndarray
    held_user: np.ndarray | None = None
    V: np.ndarray | None = None
    C: np.ndarray | None = None
    planted: np.ndarray | None = None
    dropped_duplicates: int = 0
    train_age: np.ndarray | None = None
    user_ids: np.ndarray | None = None
    item_ids: np.ndarray | None = None
    item_titles: np.ndarray | None = None
    missing_V: np.ndarray | None = None
    missing_C: np.ndarray | None = None
    time_span: tuple[float, float] | None = None
    newcomers: Dataset | None = None
    fewer_items: Dataset | None = None

    @property
    def ranked(self) -> Dataset:
        """Whose held-out rows are ranked: the newcomers' where users are left out, else its own."""
        return self.newcomers or self


class Content(NamedTuple):
    """Frozen item features on the device: ``V`` [i, dv] visual, ``C`` [i, dc] textual; None where absent."""

    V: Array | None
    C: Array | None


def content_of(dataset: Dataset) -> Content:
    """The features of a data set as device arrays."""
    return Content(*(None if x is None else jnp.asarray(x) for x in (dataset.V, dataset.C)))


class Bucket(NamedTuple):
    """Clients with train histories of similar length, padded to one width.

    Attributes:
      user: int32 [c], client ids; ``num_users`` marks an empty slot.
      history: int32 [c, l], train positives of each client in ascending order, then ``num_items``.
      row: int32 [c], the index of each client in the private state at hand, and out of range for an empty slot. None
        where that holds all clients in the order of their ids. A device of a mesh, or a cohort that was read from a
        store, has the states of some clients only; empty slots then come last.
    """

    user: Array
    history: Array
    row: Array | None = None

    @property
    def state_row(self) -> Array:
        """`row` where there is one, else `user`."""
        return self.user if self.row is None else self.row


class HeldOut(NamedTuple):
    """The held-out items of users of whom some have several in a split.

    Attributes:
      item: int32 [t, h], as the fields of `Dataset`.
      user: int32 [h], as `Dataset.held_user`.
      start: int32 [u + 2]; the rows of user u are ``start[u] <= h < start[u + 1]``, those of an empty slot none.
      place: int32 [p], 0, 1, ...: as many as the places of the user who has most.
    """

    item: Array
    user: Array
    start: Array
    place: Array


Targets = Array | HeldOut
"""Held-out items: int32 [t, u], -1 where there is none, where every user has one place; else a `HeldOut`."""


class ClientData(NamedTuple):
    """What a run needs beside the state: every client's history, bucketed by length, the features, and a prior.

    `prior` holds what a host agreed on with its clients before the first round: a `Prior`, or `ScoreViews`.
    `newcomers` is the same of users who are ranked without having been trained, None where nobody is left out.
    """

    buckets: tuple[Bucket, ...]
    content: Content
    prior: Prior | ScoreViews | None = None
    newcomers: ClientData | None = None

    @property
    def evidence(self) -> Evidence | None:
        """That of the score views, if there are any."""
        return self.prior.evidence if isinstance(self.prior, ScoreViews) else None


class PublicState(struct.PyTreeNode, kw_only=True):
    """What the server owns. ``params`` holds D, gamma and public heads; ``round`` is int32 [].

    ``memory`` is what it keeps between rounds about uploads: the bound of clip, [], where that moves; else ().
    """

    params: PyTree
    opt_state: PyTree
    round: Array
    memory: PyTree = ()


class PrivateState(struct.PyTreeNode, kw_only=True):
    """What the clients own; every leaf has a leading user axis [u, ...], or none where it is one client's.

    It is never uploaded. ``memory`` is what upload transforms keep between rounds (`federated/transforms.py`).
    """

    params: PyTree
    opt_state: PyTree
    memory: PyTree = ()


class FedState(struct.PyTreeNode, kw_only=True):
    """The whole state of a run. ``key`` never changes: streams are folded in by purpose, round and client."""

    public: PublicState
    private: PrivateState
    key: Array


class RoundInfo(NamedTuple):
    """What a round reports; under ``lax.scan`` every field gains a leading axis of rounds.

    Attributes:
      loss: float32 [], alpha-weighted mean over the surviving clients of their mean loss over local steps.
      num_clients: int32 [], clients drawn into the cohort.
      num_dropped: int32 [], clients whose loss or upload was not finite and who were left out.
      update_norm: float32 [], L2 norm of the aggregated gradient of the public parameters.
      num_lost: int32 [], clients of the cohort that a secure sum lost on the way.
      failed: int32 [], 1 where too few were left for a sum, so that nothing changed.
    """

    loss: Array
    num_clients: Array
    num_dropped: Array
    update_norm: Array
    num_lost: Array | int = 0
    failed: Array | int = 0


class Ranks(NamedTuple):
    """Ranks of the held-out items of every user; axis ``t`` is (valid, test), and h = u unless there is a `user`.

    Attributes:
      item: int32 [t, h], the held-out item, -1 where there is none.
      greater: int32 [t, h], candidates with a strictly better score than the held-out item.
      tied: int32 [t, h], size of the held-out item's tie group, itself included (>= 1).
      constant: bool [u], whether all candidates of the user have one score.
      nonfinite: int32 [u], candidates whose score was not finite (ranked as -inf).
      user: int32 [h], whose row it is, as `Dataset.held_user`; None where every user has one place.
    """

    item: Array
    greater: Array
    tied: Array
    constant: Array
    nonfinite: Array
    user: Array | None = None


class BlockScore(NamedTuple):
    """A score function that forms the scores of some items at a time, for catalogues of which all is too much.

    Attributes:
      prepare: ``(params, chunk) -> ready``, done once for a chunk of users.
      score: ``(params, ready, first) -> s_cb``, the scores of the items ``first <= i < first + size``.
      num_items: |I|.
      size: items at a time, at most |I|.
    """

    prepare: Callable[[PyTree, Bucket], PyTree]
    score: Callable[[PyTree, PyTree, Array], Array]
    num_items: int
    size: int


Score = Callable[[PyTree, Bucket], Array] | BlockScore
"""``(params, chunk) -> s_ci``, float32 scores of all items; or the same some items at a time."""
