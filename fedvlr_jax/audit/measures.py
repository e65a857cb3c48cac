"""How well scores tell a client's train items from all others, client by client; ties count as random order."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy


class Leak(NamedTuple):
    """Means over clients.

    Attributes:
      auc: probability that a train item scores above another; 0.5 is chance.
      precision: share of train items among the n_u best, n_u being how many the client has.
      chance: what random order has for precision, the mean of n_u over the number of items.
    """

    auc: float
    precision: float
    chance: float


def leak(score_ui: np.ndarray, has_ui: np.ndarray) -> Leak:
    """How much the scores say.

    Args:
      score_ui: [u, i], higher for what is thought to be a train item.
      has_ui: bool [u, i], the truth; each client has some of the items and not all.
    """
    size, count_u = has_ui.shape[1], has_ui.sum(axis=1)
    rank_ui = scipy.stats.rankdata(score_ui, axis=1)
    above_u = np.sum(rank_ui * has_ui, axis=1) - count_u * (count_u + 1) / 2
    auc_u = above_u / (count_u * (size - count_u))
    # Of the items tied at the border a random part is among the best.
    border_u = np.take_along_axis(np.sort(score_ui, axis=1), (size - count_u)[:, None], axis=1)
    better_ui, tied_ui = score_ui > border_u, score_ui == border_u
    part_u = (count_u - better_ui.sum(axis=1)) / tied_ui.sum(axis=1)
    hits_u = (better_ui & has_ui).sum(axis=1) + part_u * (tied_ui & has_ui).sum(axis=1)
    return Leak(float(auc_u.mean()), float((hits_u / count_u).mean()), float(has_ui.mean()))


class RouterLeak(NamedTuple):
    """What the norms of the views in an upload say about a client's weights.

    Attributes:
      correlation_j: over clients, by view; NaN where nothing varies.
      error: mean absolute difference of the share of a view and the weight.
      top: share of clients whose largest view is the one with the largest norm.
    """

    correlation_j: tuple[float, ...]
    error: float
    top: float


def router_leak(view_norm_uj: np.ndarray, weight_uj: np.ndarray) -> RouterLeak:
    """Compares each view's share of the norms [u, j] with the private weights [u, j]."""
    share_uj = view_norm_uj / np.maximum(view_norm_uj.sum(axis=1, keepdims=True), 1e-30)
    correlations = []
    for share_u, weight_u in zip(share_uj.T, weight_uj.T, strict=True):
        varies = np.ptp(share_u) > 0 and np.ptp(weight_u) > 0
        correlations.append(float(np.corrcoef(share_u, weight_u)[0, 1]) if varies else float("nan"))
    top = np.mean(share_uj.argmax(axis=1) == weight_uj.argmax(axis=1))
    return RouterLeak(tuple(correlations), float(np.abs(share_uj - weight_uj).mean()), float(top))
