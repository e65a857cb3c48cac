"""The benchmark's loop: every method searches its grid, then runs its seeds; what is done is never done again."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fedvlr_jax.baselines import BASELINES
from fedvlr_jax.baselines.learner import Learner
from fedvlr_jax.benchmark import central, federated
from fedvlr_jax.benchmark.methods import Method, Methods, list_methods
from fedvlr_jax.benchmark.records import MethodRuns
from fedvlr_jax.benchmark.task import Task
from fedvlr_jax.data import fingerprint
from fedvlr_jax.data.buckets import make_client_data
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.evaluation.metrics import SELECTION_METRIC
from fedvlr_jax.io.identity import claim_workdir
from fedvlr_jax.io.interrupt import Interrupt, Interrupted
from fedvlr_jax.settings import defaults
from fedvlr_jax.types import Dataset

FREE = ("methods", "hosts", "variants", "own", "controls", "seeds")
"""What may change between two calls on one workdir: which methods and seeds there are, not what a run computes."""


def run_benchmark(
    config: Mapping[str, Any],
    dataset: Dataset,
    workdir: pathlib.Path,
    *,
    interrupt: Interrupt,
    report: Callable[[str], None],
    on_start: Callable[[], None] = lambda: None,
) -> list[MethodRuns]:
    """Run all methods, or go on where an earlier call ended.

    A method or run that fails is recorded with its reason, and the others go on.

    Args:
      config: nested mapping with the fields of configs/benchmark/base.py.
      dataset: the data.
      workdir: a writable folder; each run gets a folder below ``workdir/runs/<method>``.
      interrupt: where signals are noted.
      report: takes one line of progress.
      on_start: called once nothing can be refused any more, before the first run.

    Returns:
      One record a method, in the order of the table.

    Raises:
      ConfigError: a configuration that makes no sense, or a workdir of another benchmark.
      Interrupted: after a signal; finished runs are kept.
    """
    if config["seeds"] < 1 or config["search_seeds"] < 1:
        raise ConfigError("seeds, search_seeds: expected at least 1 each")
    learners = [name for name, baseline in BASELINES.items() if isinstance(baseline, Learner)]
    for name in config["baseline_points_of"]:
        if name not in learners:
            raise ConfigError(f"baseline_points_of: expected names among {', '.join(learners)}, found {name!r}")
    listed = list_methods(config, dataset)
    _require_same_benchmark(workdir, config, dataset)
    on_start()
    worth = config["train"]["compute"]["bucket_worth"]
    clients = make_client_data(dataset, growth=config["bucket_growth"], worth=worth)
    task = Task(config, dataset, clients, workdir, interrupt)
    for note in listed.notes:
        report(note)
    return _run_all(task, listed, report)


def _run_all(task: Task, listed: Methods, report: Callable[[str], None]) -> list[MethodRuns]:
    records: dict[str, MethodRuns] = {}
    cache: dict[str, Any] = {}  # the programs of the latest method and its controls
    clock = _Clock(listed.methods)
    for method in _in_running_order(listed.methods):
        task.check_interrupt()
        begin = time.perf_counter()
        try:
            if method.name in BASELINES:
                record = central.run_method(task, method)
            else:
                record = federated.run_method(task, method, records.get(method.follows), cache)
        except (Interrupted, KeyboardInterrupt):
            raise
        except Exception as error:  # one broken method must not take the table down
            record = _failed(method, f"{type(error).__name__}: {error}")
        records[method.name] = record
        report(clock.line(record, time.perf_counter() - begin))
    return [records[method.name] for method in listed.methods]


def _in_running_order(methods: Sequence[Method]) -> list[Method]:
    """Every control right behind the method that it follows, since it shares that method's programs."""
    order = []
    for method in methods:
        if not method.follows:
            order += [method, *(other for other in methods if other.follows == method.name)]
    return order


def _failed(method: Method, reason: str) -> MethodRuns:
    return MethodRuns(
        method.name, method.family, method.host, method.variant, {}, 0, (), (), (), (), 0.0, failures=(reason,)
    )


def _require_same_benchmark(workdir: pathlib.Path, config: Mapping[str, Any], dataset: Dataset) -> None:
    """Refuse a workdir of another benchmark: other data, settings or grids; note the identity of a new one."""
    train = {k: v for k, v in config["train"].items() if k != "data"} | {
        "features": config["train"]["data"]["features"]
    }
    kept = {name: value for name, value in config.items() if name not in FREE} | {"train": train}
    identity = {"config": kept, "data": fingerprint(dataset)}
    claim_workdir(workdir, "benchmark", identity, remedy="choose another --workdir", added=defaults("config.train."))


class _Clock:
    """Progress lines with the time left, from the mean time of the methods so far."""

    def __init__(self, methods: Sequence[Method]):
        self._total, self._done, self._spent = len(methods), 0, 0.0

    def line(self, record: MethodRuns, seconds: float) -> str:
        self._done, self._spent = self._done + 1, self._spent + seconds
        left = self._spent / self._done * (self._total - self._done)
        text = f"FAILED: {record.failures[0]}" if record.failures else f"{len(record.seeds)} seeds"
        valid = [max(p.valid[SELECTION_METRIC] for p in curve) for curve in record.curves if curve]
        if valid:
            text += f", valid {SELECTION_METRIC} {100 * sum(valid) / len(valid):.2f} %"
        return (
            f"[{self._done}/{self._total}] {record.name}: {text} in {seconds:.0f} s; about {left / 60:.0f} min left"
        )
