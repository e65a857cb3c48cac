"""Independent oracles of ranking: naive loops, every order of tied items, and ties broken by item index."""

from __future__ import annotations

import itertools
import math
import pathlib
import warnings

import jax
import numpy as np
from hypothesis import strategies as st

from fedvlr_jax import data
from fedvlr_jax.data.features import unit_rows
from fedvlr_jax.types import Bucket, Dataset

NUM_ITEMS = 7
SPECIAL = np.array([0.0, -0.0, 1.0, 1.0 + 2**-23, -3.5, 1e-40, -1e-40, np.nan, np.inf, -np.inf], np.float32)


@st.composite
def chunks(draw):
    """Scores of three users with ties and special values, padded histories, held-out items or -1."""
    pick = st.integers(0, len(SPECIAL) - 1)
    scores_ci = SPECIAL[draw(st.lists(pick, min_size=3 * NUM_ITEMS, max_size=3 * NUM_ITEMS))].reshape(3, NUM_ITEMS)
    history_cl, target_tc = np.full((3, 4), NUM_ITEMS, np.int32), np.full((2, 3), -1, np.int32)
    for c in range(3):
        items = draw(st.permutations(range(NUM_ITEMS)))
        length = draw(st.integers(0, 4))
        history_cl[c, :length] = sorted(items[:length])
        target_tc[:, c] = [draw(st.sampled_from([-1, items[5]])), draw(st.sampled_from([-1, items[6]]))]
    return scores_ci, history_cl, target_tc


def one_bucket(dataset: Dataset) -> tuple[Bucket, ...]:
    """All users in one bucket, in order, padded to the longest history."""
    histories = [dataset.train_item[dataset.train_user == u] for u in range(dataset.num_users)]
    width = max(len(h) for h in histories)
    padded = [[*h, *[dataset.num_items] * (width - len(h))] for h in histories]
    return (Bucket(user=np.arange(dataset.num_users, dtype=np.int32), history=np.asarray(padded, np.int32)),)


def random_dataset(seed: int, num_users: int, num_items: int, *, density: float = 0.25) -> Dataset:
    """Random train rows (two items never occur), validation and test items outside the history, and features."""
    rng = np.random.default_rng(seed)
    taken_ui = rng.random((num_users, num_items)) < density * rng.random(num_items)[None] * 2
    taken_ui[:, :2] = False
    taken_ui[np.arange(num_users), rng.integers(2, num_items, size=num_users)] = True
    held = np.array([rng.permutation(np.flatnonzero(~row))[:2] for row in taken_ui], np.int32)
    user, item = np.nonzero(taken_ui)
    V, C = (rng.normal(size=(num_items, d)) for d in (6, 5))
    return Dataset(
        name="random",
        num_users=num_users,
        num_items=num_items,
        train_user=user.astype(np.int32),
        train_item=item.astype(np.int32),
        valid_item=held[:, 0],
        test_item=held[:, 1],
        V=unit_rows(V),
        C=unit_rows(C),
    )


def rank_of(scores, history, target: int) -> tuple[int, int]:
    """(greater, tied) of one held-out item by a loop over the candidates, for NumPy float32 scores."""
    if target < 0:
        return 0, 1
    value = [float(s) if math.isfinite(s) else -math.inf for s in scores]
    others = [i for i in range(len(value)) if i != target and i not in set(np.asarray(history).tolist())]
    greater = sum(value[i] > value[target] for i in others)
    return greater, 1 + sum(value[i] == value[target] for i in others)


def ranks_over_all_orders(scores, target: int) -> list[int]:
    """The rank of an item under every order in which tied items can be listed, all equally likely."""
    ranks = []
    for order in itertools.permutations(range(len(scores))):
        listed = sorted(order, key=lambda i: -scores[i])  # stable: ties keep the order of the permutation
        ranks.append(listed.index(target) + 1)
    return ranks


def lowest_index_ranks(score_ui, masked_ui, target_u) -> np.ndarray:
    """Ranks when ties are broken by ascending item index, the artefact behind the published numbers."""
    score_ui = np.where(masked_ui, -np.inf, score_ui)
    order_ui = np.argsort(-score_ui, axis=1, kind="stable")
    return np.argmax(order_ui == np.asarray(target_u)[:, None], axis=1) + 1


def load_real(folder: pathlib.Path) -> Dataset:
    """A canonical folder as the library reads it, without the warning about KU's repeated rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", data.DataWarning)
        return data.load(folder.name, folder.parent)


def largest_array(jaxpr) -> int:
    """Most elements of any array that a program makes, inner programs included."""
    inner = [
        getattr(leaf, "jaxpr", leaf)
        for eqn in jaxpr.eqns
        for leaf in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr"))
        if hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")
    ]
    made = [math.prod(v.aval.shape) for eqn in jaxpr.eqns for v in eqn.outvars]
    return max([*made, *map(largest_array, inner)])
