"""What the maps behind score views are formed with, chosen inside a run by each view alone.

Of each map, candidates are formed one after the other, and the one stays whose view has the best NDCG on the items
that clients hold back (`held_back.py`): a client adds one number for each candidate to a secure sum. A view is linear
in its map, so that a sum of two maps in several proportions is judged by the scores of both, and formed once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy

from fedvlr_jax.federated import prior
from fedvlr_jax.federated.held_back import HeldBack, mean_ndcgs
from fedvlr_jax.federated.score_views import DECAY
from fedvlr_jax.federated.view_maps import KERNELS, Choice, ViewSums, centred_by_modality, collective, content_kernel
from fedvlr_jax.types import Dataset

RIDGES = (20.0, 50.0, 100.0, 200.0, 400.0)
RIDGES_NEXT = (1000.0, 300.0, 100.0, 30.0)
NEXT_WEIGHTS = (0.0, 1.0, 2.0, 4.0)
STRENGTHS = (0.03, 0.1, 0.3, 1.0)  # beside none
RIDGES_NEAR = (30.0, 200.0)
KEPT_ITEMS = 4000
"""Up to so many items the maps that were chosen are kept, and not formed again."""
DENSE = 0.03  # share of the catalogue from which on histories are multiplied as dense rows

NUM_CANDIDATES = len(RIDGES) + len(RIDGES_NEXT) + len(RIDGES_NEAR) + 2 * (3 + len(STRENGTHS) + len(KERNELS))
"""Most maps that choices are made among; the weights of sums of two maps need no further ones."""

NUM_MAPS = 10  # that views are read through


class Chosen(NamedTuple):
    """A choice, and the maps of the inner histories that were formed for it, as of `view_maps.form`, or none."""

    choice: Choice
    maps: dict[str, np.ndarray]


class Best(NamedTuple):
    """The best candidate so far: its quality, what it was formed with, and its map unless maps are not kept."""

    quality: float
    value: Any
    map_ii: np.ndarray | None


def megabytes_once(dataset: Dataset) -> float:
    """10^6 bytes that move before the first round, 4 a number, for histories with and without held-back items.

    Every client of n items sends three lower triangles and one whole matrix of its block, receives the rows of a map
    at its items for each view and once more for each candidate, and sends one number a candidate.
    """
    length_u = np.bincount(dataset.train_user, minlength=dataset.num_users).astype(np.int64)
    blocks_u = 2 * (3 * length_u * (length_u + 1) // 2 + length_u**2)
    rows_u = (2 * NUM_MAPS + NUM_CANDIDATES) * length_u * dataset.num_items
    return 4e-6 * float((blocks_u + rows_u + NUM_CANDIDATES).sum())


def choose(sums: ViewSums, held: HeldBack, features: Dataset) -> Chosen:
    """The best settings of each map by its view alone on the held-back items.

    Args:
      sums: of the inner histories.
      held: inner histories and held-back items.
      features: a data set with the features to use, None where a modality is off.
    """
    judge = judge_of(held)
    kernels = {
        m: judge.best_of(KERNELS, functools.partial(content_kernel, x), every=True)
        for m, x in centred_by_modality(features).items()
    }
    ease = judge.best_of(RIDGES, lambda ridge: prior.ease(sums.gram_ii, ridge))
    joint, strength = _choose_collective(judge, sums.gram_ii, features, ease)
    choice = Choice(
        ridge=ease.value,
        ridge_next=RIDGES_NEXT[0],
        next_weight=0.0,
        ridge_near=RIDGES_NEAR[0],
        near_weight=0.0,
        strength=strength,
        ridge_collective=joint.value,
        kernel={m: best.value for m, best in kernels.items()},
    )
    found = {"ease": ease, "collective": joint} | kernels
    maps = {name: best.map_ii for name, best in found.items() if best.map_ii is not None}
    return _choose_ordered(judge, sums, Chosen(choice, maps)) if sums.ordered.next_ii.any() else Chosen(choice, maps)


def _choose_collective(
    judge: Judge, gram_ii: np.ndarray, features: Dataset, ease: Best
) -> tuple[Best, dict[str, float]]:
    """The best ridge of collective EASE, around that of EASE, and the strength of each modality."""
    centred, ridge, best = centred_by_modality(features), ease.value, ease
    strength = dict.fromkeys(centred, 0.0)
    for modality in centred:

        def with_features(rho: float, modality: str = modality) -> np.ndarray:
            return collective(gram_ii, centred, strength | {modality: rho}, ridge)

        best = judge.best_of(STRENGTHS, with_features, best=best._replace(value=0.0))
        strength[modality] = best.value
    best = best._replace(value=ridge)
    if not any(strength.values()):
        return best, strength
    around = (2 * ridge, 0.5 * ridge)
    return judge.best_of(around, lambda r: collective(gram_ii, centred, strength, r), best=best, every=True), strength


def _choose_ordered(judge: Judge, sums: ViewSums, chosen: Chosen) -> Chosen:
    """With the settings of the maps that read the order of time."""
    (choice, maps), ordered = chosen, sums.ordered
    following = judge.best_of(
        RIDGES_NEXT, lambda ridge: prior.inverse(ordered.past_ii, ridge), recent=True, then_ii=ordered.next_ii
    )
    ridge_next, inverse_ii = following.value, following.map_ii
    del following
    next_ii = prior.next_map(ordered, ridge_next) if inverse_ii is None else inverse_ii @ ordered.next_ii
    del inverse_ii
    ease_ii = maps["ease"] if "ease" in maps else prior.ease(sums.gram_ii, choice.ridge)
    _, next_weight = judge.best_weight(ease_ii, next_ii)
    del ease_ii
    best = -1.0
    for ridge in RIDGES_NEAR:
        near_ii = prior.ease(ordered.similar_ii, ridge)
        quality, weight = judge.best_weight(near_ii, next_ii)
        if quality > best:
            best, ridge_near, near_weight = quality, ridge, weight
            if judge.keep:
                near_ii += weight * next_ii
                maps = maps | {"next": next_ii, "prior": near_ii}
    choice = choice._replace(
        ridge_next=ridge_next, next_weight=next_weight, ridge_near=ridge_near, near_weight=near_weight
    )
    return Chosen(choice, maps)


class Judge(NamedTuple):
    """Inner histories with what is held back of them, float32 [u, i], flat and with the weights of recent items."""

    held: HeldBack
    flat_ui: scipy.sparse.csr_array
    recent_ui: scipy.sparse.csr_array

    @property
    def keep(self) -> bool:
        """Whether maps are kept."""
        return self.held.inner.num_items <= KEPT_ITEMS

    def best_of(
        self,
        values: Sequence[Any],
        make: Callable[[Any], np.ndarray],
        *,
        recent: bool = False,
        best: Best | None = None,
        every: bool = False,
        then_ii: np.ndarray | None = None,
    ) -> Best:
        """The value with the best map; unless `every` one is tried, up to the first that is worse than before it.

        A value costs a solution, and quality has one peak. Scores go through the map, and `then_ii` behind it.
        """
        history_ui = self.recent_ui if recent else self.flat_ui
        for value in values:
            map_ii = make(value)

            def scores(begin: int, end: int, map_ii: np.ndarray = map_ii) -> list[np.ndarray]:
                found_ci = _through(history_ui[begin:end], map_ii)
                return [found_ci if then_ii is None else found_ci @ then_ii]

            (quality,) = mean_ndcgs(scores, self.held)
            if best is None or quality > best.quality or (quality == best.quality and not every):
                best = Best(quality, value, map_ii if self.keep else None)
            elif not every:
                break
        assert best is not None
        return best

    def best_weight(self, first_ii: np.ndarray, next_ii: np.ndarray) -> tuple[float, float]:
        """The best quality of ``first + x next``, and x."""

        def scores(begin: int, end: int) -> list[np.ndarray]:
            first_ci, next_ci = (_through(self.recent_ui[begin:end], x_ii) for x_ii in (first_ii, next_ii))
            return [first_ci + x * next_ci for x in NEXT_WEIGHTS]

        return max(zip(mean_ndcgs(scores, self.held), NEXT_WEIGHTS, strict=True))


def judge_of(held: HeldBack) -> Judge:
    """What judges maps by these held-back items."""
    dataset = held.inner
    shape = (dataset.num_users, dataset.num_items)
    settings = prior.PriorSettings(decay=DECAY)
    weight_r = prior.recency(dataset.train_age, settings, len(dataset.train_item)).astype(np.float32)
    at = (dataset.train_user, dataset.train_item)
    flat_ui, recent_ui = (scipy.sparse.csr_array((x_r, at), shape) for x_r in (np.ones_like(weight_r), weight_r))
    return Judge(held, flat_ui, recent_ui)


def _through(history_ci: scipy.sparse.csr_array, map_ii: np.ndarray) -> np.ndarray:
    dense = history_ci.nnz > DENSE * history_ci.shape[0] * history_ci.shape[1]
    return (history_ci.toarray() if dense else history_ci) @ map_ii
