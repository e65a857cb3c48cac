"""Why a user is shown what he is shown: his history, his weights of the views, and what made the best items best."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.agreed import Prior, ScoreViews
from fedvlr_jax.algorithm import Algorithm, make_algorithm
from fedvlr_jax.data.ids import ids_or_numbers
from fedvlr_jax.errors import DataError, suggest
from fedvlr_jax.evaluation.top import top_items
from fedvlr_jax.federated.noisy_prior import Blend
from fedvlr_jax.federated.prior import Shrunk
from fedvlr_jax.federated.score_views import weight_names
from fedvlr_jax.federated.scoring import Snapshot, view_weights
from fedvlr_jax.inference.parts import PRIOR, Parts, score_parts, slope_of, view_history_parts
from fedvlr_jax.settings import override
from fedvlr_jax.training.experiment import Experiment, before_rounds, require_one_device
from fedvlr_jax.types import Array, BlockScore, Bucket, Dataset, FedState, given

LEAST_WIDTH = 16
MOST_LEFT_OUT = 64  # items of a history that are left out in turn, the newest

EXACT = "exact, the score is the sum of its parts"
SHAPLEY = (
    "Shapley values, since the score is not linear in the views; they sum to it, and no split of it is the only one"
)
OF_PRIOR = "exact within the prior, which is a sum over the history"
OF_VIEWS = (
    "score views are sums over the history before they are standardised and shaped; a shape is taken as its chord"
)
LEFT_OUT = (
    "by how much the score falls when one of the {most} newest is left out and the private part is learned anew by "
    "{rounds} local rounds, as that of a new user; not exact, and not a sum"
)


class Look(NamedTuple):
    """What is computed of one user and the k best items.

    Attributes:
      item_k, score_k: int32 and float32 [k], best first; -1 where there are fewer.
      parts: of the scores of all items.
      weight_v: [v], the user's weights of the views, or None.
      history_lk: [l, k], what every item of the history adds; None where that is formed of the prior.
    """

    item_k: Array
    score_k: Array
    parts: Parts
    weight_v: Array | None
    history_lk: Array | None


class Explainer(NamedTuple):
    """Everything that the explanation of any user needs.

    Attributes:
      dataset: what was trained on.
      about: dataset, host, variant and round, and how parts are to be read (``method``).
      views: names of the views that are weighed, () where none are.
      average_v: mean weights of the views over all users, or None.
      formed: the prior, where the host has one.
      look: ``(slot, newest_m) -> Look``, of one user and the places of his newest items.
    """

    dataset: Dataset
    about: dict[str, Any]
    views: tuple[str, ...]
    average_v: np.ndarray | None
    formed: Shrunk | Blend | None
    look: Callable[[Bucket, np.ndarray], Look]


def make_explainer(experiment: Experiment, state: FedState, k: int) -> Explainer:
    """Prepares explanations of the k best items of users, by the trained state of an experiment.

    Raises:
      ConfigError: for private states in a store or on several devices.
    """
    settings, dataset, clients, _ = experiment
    require_one_device(settings, "explanations")
    algorithm = make_algorithm(override(settings, {"eval.item_chunk": 0}), dataset)  # all items at once
    host, num_items = algorithm.model.host, dataset.num_items
    snapshot = jax.jit(lambda state, clients: algorithm.snapshot(state, clients.content, clients.prior))
    params = snapshot(state, clients._replace(buckets=(), newcomers=None))
    weigh, views = _weights(algorithm)
    average_v = None
    if weigh is not None:
        weights = [np.asarray(jax.jit(weigh)(params, bucket)) for bucket in clients.buckets]
        average_v = np.concatenate(weights).mean(axis=0)

    @jax.jit
    def look(params: Snapshot, slot: Bucket, newest_m: Array) -> Look:
        best = top_items(algorithm.score, params, slot, num_items=num_items, k=min(k, num_items))
        item_k, history_lk = best[0][0], None
        if isinstance(params.prior, ScoreViews):
            history_lk = view_history_parts(algorithm, params, slot, item_k)
        elif params.prior is None:
            history_lk = _left_out(algorithm, params, slot, newest_m, item_k)
        weight_v = None if weigh is None else weigh(params, slot)[0]
        return Look(item_k, best[1][0], score_parts(algorithm, params, slot), weight_v, history_lk)

    formed: Any = None
    history = LEFT_OUT.format(rounds=settings["client"]["new_rounds"], most=MOST_LEFT_OUT)
    if isinstance(params.prior, Prior):
        agreed: Any = before_rounds(settings, dataset, host)
        formed, history = agreed.formed(dataset), OF_PRIOR
    elif isinstance(params.prior, ScoreViews):
        history = OF_VIEWS
    about = {
        "dataset": dataset.name,
        "host": settings["host"]["name"],
        "variant": settings["variant"],
        "round": int(state.public.round),
        "method": {"parts": EXACT if host.linear else SHAPLEY, "history": history},
    }
    return Explainer(dataset, about, views, average_v, formed, functools.partial(look, params))


def explain(explainer: Explainer, users: Iterable[str]) -> dict[str, Any]:
    """Explanations of users by their own ids, ready for JSON.

    Raises:
      DataError: a user that the data set does not have, with the id that is spelled alike.
    """
    dataset = explainer.dataset
    number = {str(id_): k for k, id_ in enumerate(ids_or_numbers(dataset.user_ids, dataset.num_users).tolist())}
    for user in users:
        if user not in number:
            raise DataError(
                f"--user: expected an id of a user of {dataset.name}, found {user!r}{suggest(user, number)}"
            )
    return explainer.about | {"users": [{"user": user} | _one(explainer, number[user]) for user in users]}


def _one(explainer: Explainer, user: int) -> dict[str, Any]:
    dataset, mine_r = explainer.dataset, explainer.dataset.train_user == user
    history_l = dataset.train_item[mine_r]
    newest_l = np.arange(len(history_l))
    if dataset.train_age is not None:
        newest_l = np.argsort(dataset.train_age[mine_r], kind="stable")
    found = jax.device_get(explainer.look(*_slot(dataset.num_items, user, history_l, newest_l)))
    history_lk = _prior_history(explainer, found, mine_r) if found.history_lk is None else found.history_lk
    part_pk = found.parts.value_pi[:, found.item_k]
    used = {name: row_k for name, row_k in zip(found.parts.names, part_pk, strict=True) if np.any(row_k)}
    items = []
    for place in np.flatnonzero(found.item_k >= 0).tolist():
        added_l = history_lk[: len(history_l), place]
        by_size = [at for at in np.argsort(-np.abs(added_l), kind="stable").tolist() if added_l[at]]
        items.append(
            {
                "rank": place + 1,
                **named(dataset, int(found.item_k[place])),
                "score": float(found.score_k[place]),
                "parts": {name: float(row_k[place]) for name, row_k in used.items()},
                "history": [
                    named(dataset, int(history_l[at])) | {"contribution": float(added_l[at])} for at in by_size
                ],
            }
        )
    weights = []
    if found.weight_v is not None:
        rows = zip(explainer.views, found.weight_v.tolist(), given(explainer.average_v).tolist(), strict=True)
        weights = [{"view": view, "user": mine, "average": average} for view, mine, average in rows]
    history = [named(dataset, int(item)) for item in history_l[newest_l]]
    return {"history": history, "weights": weights, "parts": list(used), "items": items}


def named(dataset: Dataset, number: int) -> dict[str, Any]:
    """An item by its own id, with its title or None."""
    title = None if dataset.item_titles is None else str(dataset.item_titles[number]) or None
    return {"item": str(number if dataset.item_ids is None else dataset.item_ids[number]), "title": title}


def _slot(num_items: int, user: int, history_l: np.ndarray, newest_l: np.ndarray) -> tuple[Bucket, np.ndarray]:
    """A user alone, and the places of his newest items, in widths of which there are few: each is compiled."""
    width = max(LEAST_WIDTH, 1 << (len(history_l) - 1).bit_length())
    padded = np.pad(history_l, (0, width - len(history_l)), constant_values=num_items)
    newest = np.pad(newest_l, (0, width - len(history_l)), constant_values=width)[:MOST_LEFT_OUT]
    return Bucket(jnp.array([user], jnp.int32), jnp.asarray(padded[None], jnp.int32)), newest.astype(np.int32)


def _weights(algorithm: Algorithm) -> tuple[Callable[[Snapshot, Bucket], Array] | None, tuple[str, ...]]:
    """What weighs views for a chunk of users, [c, v], and the names of the views; None where nothing does."""
    if algorithm.model.host.view_weights is None:
        return algorithm.router_weights, algorithm.views

    def weigh(params: Snapshot, chunk: Bucket) -> Array:
        views = params.prior
        assert isinstance(views, ScoreViews)
        return view_weights(algorithm.model, params.private, params.broadcast.head, views.basis, chunk)

    return weigh, tuple(weight_names())


def _left_out(algorithm: Algorithm, params: Snapshot, slot: Bucket, newest_m: Array, item_k: Array) -> Array:
    """What the scores of some items lose without each of the newest items of the history, [l, k]; 0 for older ones.

    Every history lacks one item; all draw with the keys of one new user, so that nothing else differs between them.
    """
    history_l, num_items = slot.history[0], jax.tree.leaves(params.broadcast.rows)[0].shape[0]
    lacks_ml = jnp.arange(history_l.size)[None] == newest_m[:, None]
    all_ml = jnp.concatenate([history_l[None], jnp.where(lacks_ml, num_items, history_l[None])])
    user_m = jnp.broadcast_to(slot.user, all_ml.shape[:1])
    score = algorithm.new_score
    assert not isinstance(score, BlockScore)
    scores_mk = score(params, Bucket(user_m, jnp.sort(all_ml, axis=1)))[:, item_k]
    lost_lk = jnp.zeros((history_l.size, item_k.size), scores_mk.dtype)
    return lost_lk.at[newest_m].set(scores_mk[:1] - scores_mk[1:], mode="drop")


def _prior_history(explainer: Explainer, found: Look, mine_r: np.ndarray) -> np.ndarray:
    """What every item of the history adds to the standardised prior of the best items, [l, k]."""
    assert explainer.formed is not None
    rows_li = explainer.formed.item_scores(explainer.dataset, mine_r)
    centred_li = rows_li - rows_li.mean(axis=1, keepdims=True)
    of_prior_i = found.parts.value_pi[found.parts.names.index(PRIOR)]
    return float(slope_of(of_prior_i, centred_li.sum(axis=0))) * centred_li[:, found.item_k]


def with_pictures(explained: Mapping[str, Any], picture: Callable[[str], str | None]) -> dict[str, Any]:
    """The same with a picture of every item, by its id, as `picture` finds it (the address of an image, or None)."""

    def seen(items: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [{**item, "picture": picture(item["item"])} for item in items]

    users = [user | {"history": seen(user["history"]), "items": seen(user["items"])} for user in explained["users"]]
    return {**explained, "users": users}
