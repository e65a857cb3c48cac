"""The benchmark's loop: every method searches its grid, then runs its seeds; what is done is never done again."""

from __future__ import annotations

import contextlib
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fedvlr_jax.assembly import parse_names
from fedvlr_jax.baselines import BASELINES
from fedvlr_jax.baselines.learner import Learner
from fedvlr_jax.benchmark.budget import whole_extent
from fedvlr_jax.benchmark.clock import Clock
from fedvlr_jax.benchmark.jobs import job_of, num_programs
from fedvlr_jax.benchmark.loop import run_whole, run_within
from fedvlr_jax.benchmark.methods import Method, list_methods
from fedvlr_jax.benchmark.records import MethodRuns
from fedvlr_jax.benchmark.task import Task
from fedvlr_jax.data import fingerprint
from fedvlr_jax.data.buckets import make_client_data
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.io.files import read_json, write_json
from fedvlr_jax.io.identity import claim_workdir
from fedvlr_jax.io.interrupt import Interrupt
from fedvlr_jax.settings import defaults
from fedvlr_jax.types import Dataset

FREE = ("methods", "hosts", "variants", "own", "controls", "seeds", "minutes", "priority")
"""What may change between two calls on one workdir: which methods and seeds there are, not what a run computes."""

LEAST = {
    "seeds": 1,
    "search_seeds": 1,
    "group": 0,
    "baseline_points": 0,
    "epochs": 1,
    "epochs_every": 1,
    "epochs_patience": 1,
}
"""The least value of every whole number of a configuration."""


class Finished(NamedTuple):
    """The records of a benchmark in the order of its table, and sentences about what was left out or cut."""

    records: list[MethodRuns]
    notes: tuple[str, ...]


def run_benchmark(
    config: Mapping[str, Any],
    dataset: Dataset,
    workdir: pathlib.Path,
    *,
    interrupt: Interrupt,
    report: Callable[[str], None],
    note: Callable[[str], Any] | None = None,
    on_start: Callable[[], None] = lambda: None,
) -> Finished:
    """Run all methods, or go on where an earlier call ended.

    A method or run that fails is recorded with its reason, and the others go on.

    Args:
      config: nested mapping with the fields of configs/benchmark/base.py.
      dataset: the data.
      workdir: a writable folder; each run gets a folder below ``workdir/runs/<method>``.
      interrupt: where signals are noted.
      report: takes one line of progress.
      note: takes what is going on, every few seconds, from another thread.
      on_start: called once nothing can be refused any more, before the first run.

    Returns:
      The records of all methods that ran, in the order of the table, and what was left out or cut.

    Raises:
      ConfigError: a configuration that makes no sense, or a workdir of another benchmark.
      Interrupted: after a signal; finished runs are kept.
    """
    _check_numbers(config)
    listed = list_methods(config, dataset)
    patterns = parse_names(config["priority"])
    _require_same_benchmark(workdir, config, dataset)
    on_start()
    worth = config["train"]["compute"]["bucket_worth"]
    clients = make_client_data(dataset, growth=config["bucket_growth"], worth=worth)
    with _budget_spent(workdir) as spent:
        clock = _clock(config, dataset, listed.methods, note, spent)
        task = Task(config, dataset, clients, workdir, interrupt, clock, whole_extent(config))
        for line in listed.notes:
            report(line)
        if config["minutes"]:
            ran = run_within(task, listed.methods, patterns, report)
        else:
            ran = run_whole(task, listed.methods, report)
    records = [ran.records[method.name] for method in listed.methods if method.name in ran.records]
    return Finished(records, (*listed.notes, *ran.cuts))


def _check_numbers(config: Mapping[str, Any]) -> None:
    """Refuses numbers of a configuration that are out of range, before anything runs."""
    if not 0 <= config["minutes"] < math.inf:
        raise ConfigError(f"minutes: expected at least 0 (0 = no limit), found {config['minutes']}")
    if not 1 < config["bucket_growth"] < math.inf:
        raise ConfigError(f"bucket_growth: expected a number above 1, found {config['bucket_growth']}")
    learners = [name for name, baseline in BASELINES.items() if isinstance(baseline, Learner)]
    for name in config["baseline_points_of"]:
        if name not in learners:
            raise ConfigError(f"baseline_points_of: expected names among {', '.join(learners)}, found {name!r}")
    points = {f"baseline_points_of.{name}": (count, 0) for name, count in config["baseline_points_of"].items()}
    whole = {name: (config[name], least) for name, least in LEAST.items()}
    for name, (number, least) in (whole | points).items():
        if type(number) is not int or number < least:
            raise ConfigError(f"{name}: expected an integer of at least {least}, found {number!r}")


@contextlib.contextmanager
def _budget_spent(workdir: pathlib.Path) -> Iterator[float]:
    """The seconds that earlier calls spent; those of this one are added at its end, however it ends."""
    file, begin = workdir / "budget.json", time.monotonic()
    spent = float((read_json(file) or {}).get("seconds", 0.0))
    try:
        yield spent
    finally:
        write_json(file, {"seconds": spent + time.monotonic() - begin})


def _clock(
    config: Mapping[str, Any],
    dataset: Dataset,
    methods: Sequence[Method],
    note: Callable[[str], Any] | None,
    spent: float,
) -> Clock:
    jobs = {method.name: job_of(method, config, dataset) for method in methods}
    programs = {method.name: num_programs(method) for method in methods}
    seconds = 60 * config["minutes"] - spent if config["minutes"] else math.inf
    return Clock(jobs, programs, seconds=seconds, note=note)


def _require_same_benchmark(workdir: pathlib.Path, config: Mapping[str, Any], dataset: Dataset) -> None:
    """Refuse a workdir of another benchmark: other data, settings or grids; note the identity of a new one."""
    train = {k: v for k, v in config["train"].items() if k != "data"} | {
        "features": config["train"]["data"]["features"]
    }
    kept = {name: value for name, value in config.items() if name not in FREE} | {"train": train}
    identity = {"config": kept, "data": fingerprint(dataset)}
    claim_workdir(workdir, "benchmark", identity, remedy="choose another --workdir", added=defaults("config.train."))
