"""The training loop of the centralised baselines: epochs -> validation -> the best state -> test.

The points of a grid and the seeds differ in the values of traced arguments only, so one compiled program serves them
all, one call after the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedvlr_jax.baselines.batches import TrainRows, make_rows
from fedvlr_jax.baselines.compiling import compiled
from fedvlr_jax.baselines.judging import judged_lists
from fedvlr_jax.baselines.learner import Learner
from fedvlr_jax.data.buckets import heldout_targets, merge_buckets
from fedvlr_jax.data.heldout import WAY_OUT
from fedvlr_jax.errors import ConfigError, DataError
from fedvlr_jax.evaluation.metrics import SELECTION_METRIC, VALID, main_metrics, user_values
from fedvlr_jax.evaluation.ranking import rank_all, without_test
from fedvlr_jax.evaluation.selection import Selection, next_evaluation
from fedvlr_jax.types import Array, Bucket, Dataset, PyTree, Ranks, Targets

DIM = 64
BATCH = 2048
_CHUNK = 256  # users scored at once
_INIT, _EPOCH = range(2)  # purposes of the keys of a run
_adam = optax.scale_by_adam()


class Evaluated(NamedTuple):
    """One evaluation: the main metrics on validation, fractions, after so many epochs and seconds."""

    epoch: int
    valid: dict[str, float]
    seconds: float


class Fitted(NamedTuple):
    """One trained model.

    Attributes:
      hyper: the point of the grid.
      seed: of everything random.
      ranks: all held-out items, ranked with the state of the best epoch; None if the run failed.
      best_epoch: the first one with the best value of `SELECTION_METRIC` on validation.
      curve: every evaluation.
      seconds: training and evaluation; compilation is not part of it.
      seconds_compile: what this run had to compile; 0 where an earlier one did it.
      num_params: trained numbers.
      failure: why there is no result, a sentence; "" if there is one.
      lists: `evaluation.list_metrics.summarise_lists` at the best epoch, where it was asked for.
    """

    hyper: dict[str, Any]
    seed: int
    ranks: Ranks | None
    best_epoch: int
    curve: tuple[Evaluated, ...]
    seconds: float
    seconds_compile: float
    num_params: int
    failure: str = ""
    lists: dict[str, Any] | None = None

    @property
    def valid(self) -> float:
        """`SELECTION_METRIC` on validation at the best epoch, the number to choose by; -inf if the run failed."""
        best = [point.valid[SELECTION_METRIC] for point in self.curve if point.epoch == self.best_epoch]
        return best[0] if best and not self.failure else -np.inf


class FitPlan(NamedTuple):
    """How long to train: at most `epochs`, evaluated every `eval_every` of them and after the last one, and given
    up after `patience` evaluations without a better one."""

    epochs: int
    eval_every: int
    patience: int


class _State(NamedTuple):
    params: PyTree
    moments: PyTree
    epoch: Array  # int32 [], epochs done


def fit_learner(
    learner: Learner,
    dataset: Dataset,
    buckets: Sequence[Bucket],
    points: Sequence[Mapping[str, Any]],
    seeds: Sequence[int],
    *,
    epochs: int = 200,
    eval_every: int = 5,
    patience: int = 10,
    negatives: str = "catalogue",
    lists: bool = False,
) -> list[Fitted]:
    """Train a model at every point with every seed, each to its best epoch on validation.

    The test items are ranked once for each model, at the end; while it trains they are not handed over.

    Args:
      learner: the model.
      dataset: trained on its train rows.
      buckets: all users of `dataset` with their train histories.
      points: hyper-parameters, all with the same names, such as ``learner.grid``.
      seeds: of initial values, order of rows, negatives and dropout, each >= 0.
      epochs, eval_every, patience: see `FitPlan`; epochs in passes over all train rows.
      negatives: what negatives are drawn from, see `batches.make_rows`.
      lists: judge whole lists at the best epoch too.

    Returns:
      One entry for each pair, points first: (point 0, seed 0), (point 0, seed 1), ... A run whose loss is not finite
      has no ranks but a `failure`; the others go on.

    Raises:
      ConfigError: for a budget out of range, or unknown `negatives`.
      DataError: without validation rows, or without the features that the model needs.
    """
    plan = _check(FitPlan(epochs, eval_every, patience), dataset)
    rows = make_rows(dataset, negatives)
    buckets = jax.device_put(merge_buckets(buckets, dataset.num_items))
    prepared: dict[tuple, PyTree] = {}
    fitted = []
    for point in points:
        static = tuple((name, point[name]) for name in learner.static)
        if static not in prepared:
            prepared[static] = jax.device_put(learner.prepare(dataset, **dict(static)))
        run = _Run(learner, dataset, buckets, rows, prepared[static], dict(point))
        fitted += [_fit(run, seed, plan, lists=lists) for seed in seeds]
    return fitted


def _check(plan: FitPlan, dataset: Dataset) -> FitPlan:
    for name, value in plan._asdict().items():
        if value < 1:
            raise ConfigError(f"{name}: expected at least 1, found {value}")
    if not (dataset.valid_item >= 0).any():
        raise DataError(
            f"{dataset.name} has no validation row, but the epoch is chosen by validation {SELECTION_METRIC}; "
            f"{WAY_OUT}"
        )
    return plan


class _Run:
    """The programs of one point of the grid, and the seconds they took to compile."""

    def __init__(
        self, learner: Learner, dataset: Dataset, buckets: Any, rows: TrainRows, inputs: PyTree, hyper: dict
    ):
        self.hyper, self.seconds_compile = hyper, 0.0
        self._learner, self._rows, self._inputs, self._buckets = learner, rows, inputs, buckets
        self._dataset, self._targets = dataset, heldout_targets(dataset)
        traced = {name: value for name, value in hyper.items() if name not in learner.static}
        self._hyper = {name: jnp.asarray(value, float) for name, value in traced.items()}

    def init(self, seed: int) -> tuple[Array, _State]:
        """The key of the run, and the state before the first epoch."""
        key = jax.random.key(seed)
        return key, self._call(_init, key, self._inputs, runs_once=True, init=self._learner.init)

    def train(self, key: Array, state: _State, num_epochs: int) -> tuple[_State, float]:
        """Some epochs further, and the mean loss of their steps."""
        functions = {name: getattr(self._learner, name) for name in ("draw", "start_epoch", "loss")}
        args = (state, key, jnp.asarray(num_epochs, jnp.int32), self._inputs, self._rows, self._hyper)
        state, loss = self._call(_train, *args, **functions, batch=BATCH)
        return state, float(loss)

    def rank(self, state: _State, *, hide_test: bool) -> Ranks:
        """Ranks of the held-out items; with `hide_test` the test items are not handed over at all."""
        targets = without_test(self._targets) if hide_test else self._targets
        params = self._call(_represent, state.params, self._inputs, represent=self._learner.represent)
        args = (params, self._buckets, jax.tree.map(jnp.asarray, targets))
        return jax.device_get(self._call(_rank, *args, chunk=_CHUNK))

    def lists(self, state: _State) -> dict[str, Any]:
        """What the lists of all users are worth."""
        params = self._call(_represent, state.params, self._inputs, represent=self._learner.represent)
        return judged_lists(_score, params, self._buckets, self._dataset)

    def _call(self, jitted: Callable, *args: Any, **static: Any) -> Any:
        program, seconds = compiled(jitted, *args, **static)
        self.seconds_compile += seconds
        return program(*args)


def _fit(run: _Run, seed: int, plan: FitPlan, *, lists: bool) -> Fitted:
    """Train one model until its epochs or its patience are used up."""
    begin, compiled_before = time.perf_counter(), run.seconds_compile

    def seconds() -> float:
        return time.perf_counter() - begin - (run.seconds_compile - compiled_before)

    key, state = run.init(seed)
    best, selection, epoch, curve, failure = state, Selection(), 0, [], ""
    while epoch < plan.epochs and not selection.is_exhausted(plan.patience):
        until = next_evaluation(epoch, plan.eval_every, plan.epochs)
        state, loss = run.train(key, state, until - epoch)
        epoch = until
        if not np.isfinite(loss):
            failure = f"the loss is not finite after {epoch} epochs at {run.hyper} with seed {seed}"
            break
        ranks = run.rank(state, hide_test=True)
        valid = {metric: float(user_values(ranks, metric, split=VALID).mean()) for metric in main_metrics()}
        curve.append(Evaluated(epoch, valid, seconds()))
        selection = selection.evaluated(epoch, valid[SELECTION_METRIC])
        best = state if selection.best_round == epoch else best
    ranks = None if failure else run.rank(best, hide_test=False)
    num_params = sum(x.size for x in jax.tree.leaves(state.params))
    return Fitted(
        run.hyper,
        seed,
        ranks,
        selection.best_round or 0,
        tuple(curve),
        seconds(),
        run.seconds_compile - compiled_before,
        num_params,
        failure,
        run.lists(best) if lists and not failure else None,
    )


@jax.jit(static_argnames=("init",))
def _init(key: Array, inputs: PyTree, *, init: Callable) -> _State:
    params = init(jax.random.fold_in(key, _INIT), inputs, DIM)
    return _State(params, _adam.init(params), jnp.zeros((), jnp.int32))


@jax.jit(static_argnames=("draw", "start_epoch", "loss", "batch"))
def _train(
    state: _State,
    key: Array,
    num_epochs: Array,
    inputs: PyTree,
    rows: TrainRows,
    hyper: dict[str, Array],
    *,
    draw: Callable,
    start_epoch: Callable,
    loss: Callable,
    batch: int,
) -> tuple[_State, Array]:
    """`num_epochs` epochs of Adam, which may be traced; the mean loss over their steps."""

    def run_epoch(_: int, carry: tuple[_State, Array]) -> tuple[_State, Array]:
        state, total = carry
        key_epoch = jax.random.fold_in(jax.random.fold_in(key, _EPOCH), state.epoch)
        key_rows, key_start, key_steps = jax.random.split(key_epoch, 3)
        batches = draw(key_rows, rows, batch)
        epoch = start_epoch(key_start, inputs, hyper)

        def step(carry, x):
            params, moments = carry
            value, grads = jax.value_and_grad(loss)(params, inputs, epoch, x[0], x[1], hyper)
            updates, moments = _adam.update(grads, moments)
            return (jax.tree.map(lambda p, g: p - hyper["lr"] * g, params, updates), moments), value

        keys = jax.random.split(key_steps, len(batches.weight))
        (params, moments), losses = jax.lax.scan(step, (state.params, state.moments), (batches, keys))
        return _State(params, moments, state.epoch + 1), total + jnp.mean(losses)

    state, total = jax.lax.fori_loop(0, num_epochs, run_epoch, (state, jnp.zeros(())))
    return state, total / num_epochs


@jax.jit(static_argnames=("represent",))
def _represent(params: PyTree, inputs: PyTree, *, represent: Callable) -> tuple[Array, Array]:
    return represent(params, inputs)


@jax.jit(static_argnames=("chunk",))
def _rank(represented: tuple[Array, Array], buckets: tuple[Bucket, ...], targets: Targets, *, chunk: int) -> Ranks:
    return rank_all(_score, represented, buckets, targets, chunk=chunk)


def _score(represented: tuple[Array, Array], chunk: Bucket) -> Array:
    """s_ui = p_u . q_i, float32 [c, i]."""
    p_ud, q_id = represented
    p_cd = p_ud.at[chunk.user].get(mode="fill", fill_value=0)
    return jnp.matmul(p_cd, q_id.T, precision=jax.lax.Precision.HIGHEST)
