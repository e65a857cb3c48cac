"""One centralised baseline: closed forms once, gradient-trained ones at every point of their grid and over seeds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from fedvlr_jax.baselines import BASELINES, select
from fedvlr_jax.baselines.content import allowed_points
from fedvlr_jax.baselines.learner import Learner
from fedvlr_jax.baselines.learning import Fitted, fit_learner
from fedvlr_jax.benchmark import storage
from fedvlr_jax.benchmark.budget import points_within
from fedvlr_jax.benchmark.methods import Method
from fedvlr_jax.benchmark.records import CurvePoint, MethodRuns
from fedvlr_jax.benchmark.searching import Key, Tried, choose_point, collect
from fedvlr_jax.benchmark.task import Task
from fedvlr_jax.evaluation.metrics import summarise, warm_items


def run_method(task: Task, method: Method) -> MethodRuns:
    """Fit a baseline where that has not been done."""
    baseline = BASELINES[method.name]
    return _learned(task, method, baseline) if isinstance(baseline, Learner) else _closed_form(task, method)


def _closed_form(task: Task, method: Method) -> MethodRuns:
    baseline = BASELINES[method.name]
    grid = baseline.grid
    folder, config = task.folder(method.name, "all"), {"baseline": method.name, "grid": list(grid), **_judged(task)}
    stored = storage.find(folder, config)
    if stored is None:
        begin = time.perf_counter()
        with task.clock.lap(method.name, [(0, 0)]):
            found = select(task.dataset, task.clients.buckets, method.name, lists=bool(_judged(task)))
        result = {**found.summary, "hyper": found.hyper, "best_round": 0, "seconds": time.perf_counter() - begin}
        if baseline.megabytes is not None:
            result |= {"best_round": 1, "megabytes_per_round": baseline.megabytes(task.dataset)}
        storage.save(folder, config, result, found.ranks, ())
        stored = storage.find(folder, config)
    task.clock.found(method.name, (0, 0))
    return collect(
        method, stored.result["hyper"], allowed_points(task.dataset, grid), {(0, 0): stored}, {(0, 0): stored}
    )


def _learned(task: Task, method: Method, learner: Learner) -> MethodRuns:
    count = task.config["baseline_points_of"].get(method.name, task.config["baseline_points"])
    points = _spread(learner.grid, count)
    within = points_within(task.extent, len(points))
    searched = range(task.extent.search_seeds) if len(within) > 1 else ()
    tried: Tried = {}
    for seed in searched:
        tried |= _fit(task, method, learner, points, [(k, seed) for k in within])
    best = choose_point(within, searched, tried)
    final = _fit(task, method, learner, points, [(best, seed) for seed in range(task.extent.seeds)])
    return collect(method, points[best], [points[k] for k in within], tried, final)


def _fit(
    task: Task, method: Method, learner: Learner, points: Sequence[dict[str, Any]], wanted: Sequence[Key]
) -> Tried:
    """Runs (index of point, seed) of a gradient-trained baseline: read where done, else trained."""
    found: Tried = {}
    budget = {name: task.config[field] for name, field in _BUDGET.items()}
    for k, seed in wanted:
        folder = task.folder(method.name, f"point{k}-seed{seed}")
        config = {"baseline": method.name, "hyper": points[k], "seed": seed, **budget, **_judged(task)}
        stored = storage.find(folder, config)
        if stored is None:
            task.check_interrupt()
            with task.clock.lap(method.name, [(k, seed)]):
                options = {**budget, "lists": bool(_judged(task))}
                (fitted,) = fit_learner(learner, task.dataset, task.clients.buckets, [points[k]], [seed], **options)
            if fitted.failure:
                storage.save_failure(folder, config, fitted.failure)
                found[k, seed] = fitted.failure
                continue
            storage.save(folder, config, _result(task, fitted), fitted.ranks, _curve(fitted))
            stored = storage.find(folder, config)
        task.clock.found(method.name, (k, seed))
        found[k, seed] = stored
    return found


def _judged(task: Task) -> dict[str, bool]:
    """What the configuration of a run has to say of whole lists: nothing where they are not judged."""
    return {"lists": True} if task.config["train"]["eval"]["lists"] else {}


def _spread(grid: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """`count` points in the middles of equal stretches of a grid; all of them for 0, or where it is no larger."""
    if not 0 < count < len(grid):
        return list(grid)
    return [grid[int((k + 0.5) * len(grid) / count)] for k in range(count)]


_BUDGET = {"epochs": "epochs", "eval_every": "epochs_every", "patience": "epochs_patience"}


def _result(task: Task, fitted: Fitted) -> dict[str, Any]:
    return {
        **summarise(fitted.ranks, warm_items(task.dataset.train_item, task.dataset.num_items)),
        "best_valid": fitted.valid,
        "best_round": fitted.best_epoch,
        "seconds": fitted.seconds + fitted.seconds_compile,
        "num_public": fitted.num_params,
        **({} if fitted.lists is None else {"lists": fitted.lists}),
    }


def _curve(fitted: Fitted) -> tuple[CurvePoint, ...]:
    return tuple(CurvePoint(point.epoch, point.valid, None, point.seconds) for point in fitted.curve)
