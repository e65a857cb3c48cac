"""The nearest neighbours of every item, and scores that sum similarities over a user's history."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import scipy

from fedvlr_jax.types import Dataset


def neighbour_scores(
    dataset: Dataset, similarity_ii: np.ndarray, counts: Iterable[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """s_ui = sum of the similarities of i to those items of the user's history that are among its k neighbours.

    Items as similar as the k-th neighbour are all kept, so that the model does not depend on the order of item ids.
    Similarities that are not positive make no neighbour.

    Args:
      dataset: the train rows of its ranked users are the histories.
      similarity_ii: float64 [i, i], symmetric; its diagonal does not count, an item is not its own neighbour. Equal
        similarities must be equal to the bit.
      counts: the k to try, each at least 1; more than the other items means all of them.

    Yields:
      ``(k, s_ui)``, float64 [u, i], for every k in the order given.
    """
    num_items, ranked = dataset.num_items, dataset.ranked
    ones = np.ones(len(ranked.train_user))
    history_ui = scipy.sparse.csr_array((ones, (ranked.train_user, ranked.train_item)), (ranked.num_users, num_items))
    similarity_ii = similarity_ii.copy()
    np.fill_diagonal(similarity_ii, 0)
    counts = tuple(counts)
    kth = {k: max(num_items - k, 0) for k in counts}
    ordered_ii = np.partition(similarity_ii, sorted(set(kth.values())), axis=1)  # symmetric: rows are columns
    widest_i1 = ordered_ii[:, min(kth.values()), None]  # all neighbours for any k are among those for the largest
    item, other = np.nonzero((similarity_ii >= widest_i1) & (similarity_ii > 0))  # `other` is a neighbour of `item`
    similarity_n = similarity_ii[item, other]
    for k in counts:
        near_n = similarity_n >= ordered_ii[item, kth[k]]
        at = (other[near_n], item[near_n])
        weights = scipy.sparse.csr_array((similarity_n[near_n], at), (num_items, num_items))
        yield k, (history_ui @ weights).toarray()
