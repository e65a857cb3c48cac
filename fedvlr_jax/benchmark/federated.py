"""One federated method (or control): its grid on the first seeds, then all seeds at the chosen point."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax

from fedvlr_jax.benchmark import storage
from fedvlr_jax.benchmark.budget import points_within
from fedvlr_jax.benchmark.group import Outcome, Run, train_group
from fedvlr_jax.benchmark.methods import Method, left_open, split_point
from fedvlr_jax.benchmark.programs import MethodPrograms
from fedvlr_jax.benchmark.records import MethodRuns
from fedvlr_jax.benchmark.searching import Key, Tried, choose_point, collect
from fedvlr_jax.benchmark.task import Task
from fedvlr_jax.data import FEATURE_SOURCES
from fedvlr_jax.errors import ConfigError, TrainingError
from fedvlr_jax.fields import with_fields
from fedvlr_jax.settings import defaults, traceable_fields
from fedvlr_jax.training.results import make_result
from fedvlr_jax.training.schedule import make_plan
from fedvlr_jax.types import Dataset

TRACEABLE = traceable_fields()
Points = Sequence[Mapping] | Mapping[int, Mapping]
"""Points of a grid by their index."""


def run_method(task: Task, method: Method, followed: MethodRuns | None, cache: dict[str, Any]) -> MethodRuns:
    """Run what is left of a method.

    Args:
      task: what all methods share.
      method: what to run.
      followed: the record whose point a control takes.
      cache: compiled programs by settings; without a budget, those of unrelated methods are dropped.

    Returns:
      Its record; runs that failed are left out and named.
    """
    if method.follows and (followed is None or not followed.seeds):
        raise TrainingError(f"there is no chosen point, since {method.follows} failed")
    points, within = method.grid, points_within(task.extent, len(method.grid))
    if method.follows:
        point = left_open(followed.hyper, method.fixed)
        within = [_number_of(task, method, point, points.index(followed.hyper))]
        points = {within[0]: point}
    searched = range(task.extent.search_seeds) if len(within) > 1 else ()
    tried: Tried = {}
    for _, group in _by_program(points, within):
        tried |= _run_all(task, method, points, [(k, seed) for k in group for seed in searched], cache)
    best = choose_point(within, searched, tried)
    final = _run_all(task, method, points, [(best, seed) for seed in range(task.extent.seeds)], cache)
    return collect(method, points[best], [points[k] for k in within], tried, final)


def _number_of(task: Task, method: Method, point: Mapping, chosen: int) -> int:
    """By which number the runs of a control are found: that of the chosen point, which may be another one in another
    call; or 0 where a benchmark without a budget, which once called them so, has some of this very point."""
    try:
        stored = storage.find(task.folder(method.name, "point0-seed0"), _config(method, point, 0), added=defaults())
    except ConfigError:  # of another point
        stored = None
    return chosen if stored is None else 0


def _run_all(task: Task, method: Method, points: Points, wanted: Sequence[Key], cache: dict[str, Any]) -> Tried:
    """Runs (index of point, seed) of points that share a program: read where done, else trained in groups."""
    found: Tried = {}
    left: list[Key] = []
    for k, seed in wanted:
        folder, config = task.folder(method.name, f"point{k}-seed{seed}"), _config(method, points[k], seed)
        stored = storage.find(folder, config, added=defaults())
        if stored is None:
            left.append((k, seed))
        else:
            found[k, seed] = stored
            task.clock.found(method.name, (k, seed))
    size = task.config["group"] or (1 if jax.default_backend() == "cpu" else len(left))
    for start in range(0, len(left), size):
        found |= _train(task, method, points, left[start : start + size], cache)
    return found


def _train(task: Task, method: Method, points: Points, keys: Sequence[Key], cache: dict[str, Any]) -> Tried:
    static, _ = split_point(points[keys[0][0]], TRACEABLE)
    settings = with_fields(method.settings, static)
    runs = [Run(split_point(points[k], TRACEABLE)[1], seed) for k, seed in keys]
    with task.clock.lap(method.name, keys) as compiled:
        programs, counted = _programs(task, settings, cache)
        moved, before = programs.megabytes_per_round, programs.seconds
        outcomes = train_group(
            programs,
            make_plan(settings),
            runs,
            megabytes_per_round=moved,
            datasets=_datasets(task, settings["data"]["features"], [run.seed for run in runs]),
            interrupt=task.interrupt,
            check=partial(task.clock.check, method.name),
        )
        compiled(programs.seconds - before)
    formed = (programs.seconds_before - counted) / len(runs)
    found: Tried = {}
    for (k, seed), outcome in zip(keys, outcomes, strict=True):
        folder, config = task.folder(method.name, f"point{k}-seed{seed}"), _config(method, points[k], seed)
        if outcome.failure:
            storage.save_failure(folder, config, outcome.failure)
            found[k, seed] = outcome.failure
        else:
            result = _result(
                task,
                with_fields(method.settings, {**points[k], "seed": seed}),
                programs.algorithm.cost,
                outcome,
                moved,
                formed,
            )
            storage.save(folder, config, result, outcome.ranks, outcome.curve)
            found[k, seed] = storage.find(folder, config)
    return found


def _result(
    task: Task, settings: Mapping[str, Any], cost: Any, outcome: Outcome, moved: float, formed: float
) -> dict[str, Any]:
    result = make_result(settings, task.dataset, cost, outcome.progress, outcome.ranks, None, outcome.lists)
    seconds = formed + sum(result[f"seconds_{clock}"] for clock in ("train", "eval", "compile"))
    more = {"megabytes_per_round": moved, "seconds_before": formed, "seconds": seconds}
    return result | {"best_valid": outcome.progress.best_value} | more


def _programs(task: Task, settings: Mapping[str, Any], cache: dict[str, Any]) -> tuple[MethodPrograms, float]:
    """Compiled programs for settings that differ at most in the features, see `run_method`, and their
    `seconds_before` that other runs have counted."""
    key = json.dumps(with_fields(settings, {"data.features": "", "seed": 0}), sort_keys=True, default=str)
    if key in cache:
        return cache[key], cache[key].seconds_before
    if not task.config["minutes"]:  # under a budget, methods are come back to
        cache.clear()
    cache[key] = MethodPrograms(settings, task.dataset, task.clients)
    return cache[key], 0.0


def _datasets(task: Task, features: str, seeds: Sequence[int]) -> list[Dataset] | None:
    """The data of each run of a control; every seed has its own shuffle or draw of the features."""
    return None if features == "real" else [FEATURE_SOURCES[features](task.dataset, seed) for seed in seeds]


def _by_program(points: Points, within: Sequence[int]) -> list[tuple[str, list[int]]]:
    """Some indices of points by the fields that change the program."""
    groups: dict[str, list[int]] = {}
    for k in within:
        static, _ = split_point(points[k], TRACEABLE)
        groups.setdefault(json.dumps(static, sort_keys=True), []).append(k)
    return list(groups.items())


def _config(method: Method, point: Mapping, seed: int) -> dict[str, Any]:
    settings = with_fields(method.settings, {**point, "seed": seed})
    settings.pop("checkpoint")
    settings["data"] = {name: settings["data"][name] for name in ("name", "features")}
    return settings
