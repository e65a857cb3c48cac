"""Lists by brute force: every order of equal scores, for every user, in NumPy."""

from __future__ import annotations

import collections
import itertools
import math

import numpy as np


def orders_of(score_i: np.ndarray, history: set[int], k: int) -> list[tuple[int, ...]]:
    """The first k candidates under every order of all items that does not put a worse score first, equally likely."""
    items = [i for i in range(len(score_i)) if i not in history]
    value = {i: float(score_i[i]) if np.isfinite(score_i[i]) else -np.inf for i in items}
    orders = itertools.permutations(items)
    return [o[:k] for o in orders if all(value[a] >= value[b] for a, b in itertools.pairwise(o))]


def cosine_distance(x_id: np.ndarray, shown: tuple[int, ...]) -> float:
    """The mean of 1 - cosine over all pairs of a list; NaN without any."""
    pairs = list(itertools.combinations(shown, 2))
    return float(np.mean([1 - x_id[a] @ x_id[b] for a, b in pairs])) if pairs else np.nan


def gini_of(amount_i: np.ndarray) -> float:
    """The mean absolute difference of all pairs over twice the mean."""
    return float(np.abs(amount_i[:, None] - amount_i[None]).mean() / (2 * amount_i.mean()))


def expected_lists(score_ui: np.ndarray, dataset, k: int) -> dict[str, object]:
    """Every metric of lists of length k: values [u] by name, and the numbers of all users together."""
    count_i = np.array([(dataset.train_item == i).sum() for i in range(dataset.num_items)])
    popularity_i = count_i / dataset.num_users
    information_i = np.array([-np.log2((n + 1) / (dataset.num_users + 1)) for n in count_i])
    lists_u = [
        orders_of(score_i, set(dataset.train_item[dataset.train_user == u].tolist()), k)
        for u, score_i in enumerate(score_ui)
    ]

    def mean_over_orders(measure) -> np.ndarray:
        return np.array([np.mean([measure(shown) for shown in lists]) for lists in lists_u])

    exposure_i = np.zeros(dataset.num_items)
    for lists in lists_u:
        for shown in lists:
            exposure_i[list(shown)] += 1 / len(lists)
    # Ties of different users are broken independently: every combination of their orders is equally likely.
    sets_u = [collections.Counter(frozenset(shown) for shown in lists) for lists in lists_u]
    shown_items, together = 0, itertools.product(*(sets.items() for sets in sets_u))
    for combination in together:
        shown_items += len(frozenset().union(*(s for s, _ in combination))) * math.prod(n for _, n in combination)
    return {
        "Novelty": mean_over_orders(lambda shown: information_i[list(shown)].mean()),
        "Popularity": mean_over_orders(lambda shown: popularity_i[list(shown)].mean()),
        "VisualDiversity": mean_over_orders(lambda shown: cosine_distance(dataset.V, shown)),
        "TextDiversity": mean_over_orders(lambda shown: cosine_distance(dataset.C, shown)),
        "Coverage": shown_items / math.prod(map(len, lists_u)) / dataset.num_items,
        "Gini": gini_of(exposure_i),
        "exposure": exposure_i,
    }
