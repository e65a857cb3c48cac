"""The diagnosis of the router of one run: what its weights are, what they are worth, and what training moved."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.analysis import routing
from fedvlr_jax.analysis.reweighing import Rerank, make_rerank, make_weigh, with_phi
from fedvlr_jax.errors import RunWarning, UserError
from fedvlr_jax.evaluation.comparison import compare
from fedvlr_jax.evaluation.groups import history_groups
from fedvlr_jax.evaluation.metrics import (
    SELECTION_METRIC,
    TEST,
    VALID,
    main_metrics,
    row_users,
    summarise,
    user_values,
    warm_items,
)
from fedvlr_jax.training.experiment import Experiment
from fedvlr_jax.training.warm_start import warm_start
from fedvlr_jax.types import FedState, PyTree, Ranks

OWN, ANOTHER, MEAN = "own", "another user's", "mean over users"
RANDOM_WEIGHTINGS = 16


def diagnose(experiment: Experiment, state: FedState) -> dict[str, Any]:
    """All there is to say of the router of a run, ready for JSON.

    Args:
      experiment: what was trained on what; the variant has a router, and all private states are on one device.
      state: of the round to look at.

    Returns:
      ``weights`` (`routing.WeightSummary`), ``views`` (see `view_norms`), ``movement`` (see `movement`; None where
      the run started from another one that cannot be read any more), ``rankings`` (see `compare_rankings`),
      ``reliability`` by view, ``oracle`` (`routing.OracleGain`), and ``history`` (see `gains_by_history`).
    """
    dataset, algorithm = experiment.dataset, experiment.algorithm
    weigh, rerank = make_weigh(experiment), make_rerank(experiment, state)
    w_uj = weigh(state, dataset)
    halves = [weigh(state, half) for half in routing.half_histories(dataset)]
    several_u = np.bincount(dataset.train_user, minlength=dataset.num_users) > 1
    ranked = {name: rerank(weights_uj) for name, weights_uj in weightings(w_uj, algorithm.views).items()}
    ranked["mean parameters"] = rerank(weigh(_with_mean_phi(state), dataset))
    both, start = both_rows({**ranked, **random_weightings(rerank, w_uj)}), first_state(experiment)
    return {
        "view_names": list(algorithm.views),
        "weights": routing.summarise_weights(w_uj)._asdict(),
        "views": view_norms(experiment, state, w_uj),
        "movement": None if start is None else movement(start, state),
        "rankings": compare_rankings(ranked, warm_items(dataset.train_item, dataset.num_items)),
        "reliability": routing.reliability(*(half_uj[several_u] for half_uj in halves)),
        "oracle": routing.oracle_gain(both.valid_ku, both.test_ku)._asdict(),
        "history": gains_by_history(both, np.bincount(dataset.train_user, minlength=dataset.num_users)),
    }


def weightings(w_uj: np.ndarray, views: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Weights [u, j] by name: own, another user's, the mean over users, equal ones, and each view alone."""
    same = np.ones((len(w_uj), 1), np.float32)
    found = {
        OWN: w_uj,
        ANOTHER: routing.of_another(w_uj),
        MEAN: same * w_uj.mean(axis=0),
        "uniform": np.full_like(w_uj, 1 / w_uj.shape[1]),
    }
    alone_jj = np.eye(w_uj.shape[1], dtype=np.float32)
    return found | {f"{view} alone": same * alone_j for view, alone_j in zip(views, alone_jj, strict=True)}


def compare_rankings(ranked: Mapping[str, Ranks], warm_i: np.ndarray) -> list[dict[str, Any]]:
    """A row for each weighting and split: means of the main metrics, on warm items too, and the test against `OWN`.

    All are means over a user's rows, then over users, as of `summarise`. `difference` is that of `SELECTION_METRIC`
    to the router's own weights, with the two-sided p-value of the paired permutation test over users, not corrected
    for the number of comparisons.
    """
    rows = []
    summaries = {weighting: summarise(ranks, warm_i) for weighting, ranks in ranked.items()}
    for split, name, key in ((VALID, "validation", "valid"), (TEST, "test", "test")):
        if not (np.asarray(ranked[OWN].item[split]) >= 0).any():
            continue
        own_u = user_values(ranked[OWN], SELECTION_METRIC, split=split)
        for weighting, ranks in ranked.items():
            summary, warm_summary = (summaries[weighting][group] for group in (key, f"{key}_warm"))
            means = {metric: summary[metric] for metric in main_metrics()}
            warm = {f"warm {metric}": warm_summary[metric] for metric in main_metrics()}
            test = compare(user_values(ranks, SELECTION_METRIC, split=split)[None], own_u[None])
            more = {"difference": test.difference, "p_value": None if weighting == OWN else test.p_value}
            rows.append({"split": name, "weighting": weighting, **means, **warm, **more})
    return rows


def random_weightings(rerank: Rerank, w_uj: np.ndarray) -> dict[str, Ranks]:
    """`RANDOM_WEIGHTINGS` weightings drawn from the simplex, each the same for all users, ranked."""
    drawn_kj = np.random.default_rng(0).dirichlet(np.ones(w_uj.shape[1]), RANDOM_WEIGHTINGS).astype(np.float32)
    return {f"random {k}": rerank(np.broadcast_to(w_j, w_uj.shape)) for k, w_j in enumerate(drawn_kj)}


class BothRows(NamedTuple):
    """`SELECTION_METRIC` of k weightings for the users who have a validation and a test row.

    Attributes:
      names: of the weightings.
      user: int [b], these users.
      valid_ku, test_ku: [k, b].
    """

    names: tuple[str, ...]
    user: np.ndarray
    valid_ku: np.ndarray
    test_ku: np.ndarray


def both_rows(ranked: Mapping[str, Ranks]) -> BothRows:
    """What every weighting is worth to every user with both kinds of rows: the means over his rows."""
    first = next(iter(ranked.values()))
    users = [np.unique(row_users(first, split=split)) for split in (VALID, TEST)]
    user = np.intersect1d(users[0], users[1])
    values = [
        np.stack([user_values(r, SELECTION_METRIC, split=split)[np.isin(whose, user)] for r in ranked.values()])
        for split, whose in zip((VALID, TEST), users, strict=True)
    ]
    return BothRows(tuple(ranked), user, *values)


def gains_by_history(both: BothRows, length_u: np.ndarray) -> list[dict[str, Any]]:
    """A row for each group of history lengths that has users: what personal weights give these users.

    Their own weights on test rows, the difference that another user's and the mean over users make with the two-sided
    p-value of the paired permutation test (not corrected), and `routing.OracleGain` within the group.
    """
    names, group_u = history_groups(length_u)
    rows: list[dict[str, Any]] = []
    for g, name in enumerate(names):
        inside = group_u[both.user] == g
        if not inside.any():
            continue
        valid_ku, test_ku = both.valid_ku[:, inside], both.test_ku[:, inside]
        row: dict[str, Any] = {"group": name, "users": int(inside.sum())}
        own_u = test_ku[both.names.index(OWN)]
        row[OWN] = float(own_u.mean())
        for other in (ANOTHER, MEAN):
            test = compare(test_ku[both.names.index(other)][None], own_u[None])
            row |= {other: test.difference, f"{other}, p": test.p_value}
        rows.append(row | routing.oracle_gain(valid_ku, test_ku)._asdict())
    return rows


def view_norms(experiment: Experiment, state: FedState, w_uj: np.ndarray) -> list[dict[str, Any]]:
    """For each view, the mean norm of its rows, its share in sum_j w_j |F_j|, and the mean cosine with each view."""
    algorithm = experiment.algorithm
    views_ijd = np.asarray(algorithm.snapshot(state, experiment.clients.content).broadcast.rows["views"])
    norm_ij = np.linalg.norm(views_ijd, axis=2)
    share_j = w_uj.mean(axis=0) * norm_ij.mean(axis=0)
    unit_ijd = views_ijd / np.maximum(norm_ij, 1e-12)[..., None]
    cosine_jj = np.einsum("ijd,ikd->jk", unit_ijd, unit_ijd) / len(unit_ijd)
    return [
        {"view": view, "norm": float(norm), "share": float(share), "cosines": cosine_j.tolist()}
        for view, norm, share, cosine_j in zip(
            algorithm.views, norm_ij.mean(axis=0), share_j / share_j.sum(), cosine_jj, strict=True
        )
    ]


def first_state(experiment: Experiment) -> FedState | None:
    """The state before the first round of a run; None where that is of another run that cannot be read any more."""
    settings = experiment.settings
    start = jax.jit(experiment.algorithm.init)(jax.random.key(settings["seed"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)  # it was said when the run began
        try:
            return warm_start(start, settings, experiment.dataset)[0]
        except UserError:
            return None


def movement(start: FedState, end: FedState) -> list[dict[str, Any]]:
    """For each block of parameters, its root mean square at the start and at the end, and that of the difference."""
    rows = []
    for side, before, after in (
        ("private", start.private.params, end.private.params),
        ("public", start.public.params, end.public.params),
    ):
        for (path, old), new in zip(jax.tree.leaves_with_path(before), jax.tree.leaves(after), strict=True):
            size = {"start": _rms(old), "end": _rms(new), "moved": _rms(new - old)}
            rows.append({"block": f"{side}{jax.tree_util.keystr(path)}", **size})
    return rows


def _rms(x: PyTree) -> float:
    return float(jnp.sqrt(jnp.mean(jnp.square(x)))) if x.size else 0.0


def _with_mean_phi(state: FedState) -> FedState:
    """The state in which every client has the mean of all clients' router parameters."""
    phi = state.private.params["variant"]["phi"]
    return with_phi(state, jax.tree.map(lambda x: jnp.broadcast_to(x.mean(axis=0, keepdims=True), x.shape), phi))
