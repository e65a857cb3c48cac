"""Statements about published code and numbers that this code base can show on KU; the command prints them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.baselines import BASELINES, run_baselines, select
from fedvlr_jax.benchmark.published import PAPER_METRICS
from fedvlr_jax.data.buckets import heldout_targets
from fedvlr_jax.data.heldout import held_users
from fedvlr_jax.evaluation.metrics import metric_values, summarise, user_means, warm_items
from fedvlr_jax.evaluation.ranking import rank_all
from fedvlr_jax.training.device_backend import DeviceBackend
from fedvlr_jax.training.experiment import Experiment
from fedvlr_jax.types import Array, Bucket, Dataset, PyTree, Score


def rank_by_index(dataset: Dataset, split: np.ndarray, *, without: Sequence[int] = ()) -> np.ndarray:
    """How many candidates rank above each held-out item when all scores are equal and the lowest id wins.

    Args:
      dataset: train items are no candidates.
      split: int [h], the held-out items of a split, -1 where there is none.
      without: further items that are no candidates, as in an evaluator that masks item 0.

    Returns:
      int [rows], for the held-out items there are; num_items where the item itself is masked.
    """
    seen_ui = np.zeros((dataset.num_users, dataset.num_items), bool)
    seen_ui[dataset.train_user, dataset.train_item] = True
    seen_ui[:, list(without)] = True
    above_ui = np.cumsum(~seen_ui, axis=1) - ~seen_ui
    user, item = held_users(dataset)[split >= 0], split[split >= 0]
    return np.where(seen_ui[user, item], dataset.num_items, above_ui[user, item])


def constant_by_index(dataset: Dataset, *, without: Sequence[int] = ()) -> tuple[float, float]:
    """The paper's metrics (HR@50, NDCG@50) on test, fractions, of equal scores whose ties the lowest item id wins."""
    above = rank_by_index(dataset, dataset.test_item, without=without)
    user = held_users(dataset)[dataset.test_item >= 0]
    values = (metric_values(name, above, np.ones_like(above)) for name in PAPER_METRICS)
    return tuple(float(user_means(x, user).mean()) for x in values)


def unseen_rows(dataset: Dataset) -> dict[str, int]:
    """Items without train rows, and the validation and test rows that are such items."""
    unseen_i = ~_warm(dataset)
    held_out = {"validation rows": dataset.valid_item, "test rows": dataset.test_item}
    return {"items": int(unseen_i.sum())} | {
        name: int(unseen_i[item[item >= 0]].sum()) for name, item in held_out.items()
    }


def rows_with_unseen_items_moved(dataset: Dataset, buckets: Any, name: str) -> dict[str, tuple[float, float]]:
    """Test HR@50 and NDCG@50 of a baseline as it is, and with the unseen items above or below all others."""
    found = select(dataset, buckets, name)
    params = BASELINES[name].fit(dataset, **found.hyper)
    largest = np.finfo(np.float32).max

    def moved(edge: float) -> tuple[float, float]:
        score = unseen_items_at(edge, dataset, BASELINES[name].score)
        return _test_pair(
            summarise(rank_all(score, params, buckets, heldout_targets(dataset), chunk=256), _warm(dataset))
        )

    return {
        name: _test_pair(found.summary),
        f"{name}, unseen items above all others": moved(largest),
        f"{name}, unseen items below all others": moved(-largest),
    }


def unseen_items_at(edge: float, dataset: Dataset, score: Score) -> Score:
    """`score` with that of every item without train rows replaced by `edge`, a finite number."""
    unseen_i = ~_warm(dataset)

    def moved(params: PyTree, slots: Bucket) -> Array:
        return jnp.where(unseen_i[None], jnp.float32(edge), score(params, slots))

    return moved


def _test_pair(summary: Mapping[str, Any]) -> tuple[float, float]:
    """The paper's metrics of the test rows of a summary."""
    return tuple(summary["test"][name] for name in PAPER_METRICS)


def _warm(dataset: Dataset) -> np.ndarray:
    """bool [i]: items with train rows."""
    return warm_items(dataset.train_item, dataset.num_items)


def median_ids(dataset: Dataset) -> dict[str, float]:
    """Median item id of the train rows and of the test rows."""
    return {"train": float(np.median(dataset.train_item)), "test": float(np.median(dataset.test_item))}


def normalised_twice(weights: Sequence[float]) -> np.ndarray:
    """What a second softmax makes of router weights that are normalised already."""
    return np.asarray(jax.nn.softmax(jnp.asarray(weights, jnp.float32)))


def without_private_state(experiment: Experiment, rounds: int) -> dict[str, tuple[float, float]]:
    """Test HR@50 and NDCG@50 after `rounds`, with the private state as trained and as it was at the start.

    The second is what an evaluation sees whose restored private parameters are lost.
    """
    programs = DeviceBackend(experiment, eval_chunk=256)
    start = programs.init(experiment.settings["seed"])
    private = jax.tree.map(jnp.copy, start.private)  # the state is donated
    state, _ = programs.run(rounds)(start, programs.clients)
    found = {}
    for name, chosen in (("kept", state.private), ("lost", private)):
        summary = summarise(programs.rank(state.replace(private=chosen), hide_test=False), programs.warm_i)
        found[name] = _test_pair(summary)
    return found


def simple_rows(dataset: Dataset, buckets: Any) -> Mapping[str, tuple[float, float]]:
    """Test HR@50 and NDCG@50 of popularity, cold-first and the tie-exact constant scorer."""
    rows = run_baselines(dataset, buckets, ("popularity", "cold_first", "constant"))
    return {row.name: _test_pair(row.summary) for row in rows}
