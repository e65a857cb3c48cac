"""Training of the runs that share a program: side by side, or one after the other."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from fedvlr_jax.benchmark import storage
from fedvlr_jax.benchmark.group import Outcome, Run, train_group
from fedvlr_jax.benchmark.programs import MethodPrograms
from fedvlr_jax.data import FEATURE_SOURCES
from fedvlr_jax.data.buckets import make_client_data
from fedvlr_jax.evaluation.metrics import SELECTION_METRIC
from fedvlr_jax.io.elapsed import elapsed
from fedvlr_jax.io.interrupt import Interrupt, Interrupted
from fedvlr_jax.io.lock import hold
from fedvlr_jax.sweep.layout import Program, traced
from fedvlr_jax.sweep.runs import Key, SweepStore
from fedvlr_jax.sweep.side_by_side import Choice, faster_size, group_size
from fedvlr_jax.sweep.space import SweepPoint, name_of
from fedvlr_jax.training.results import make_result
from fedvlr_jax.training.schedule import make_plan
from fedvlr_jax.types import Dataset

STOPPED = "stopped; the runs that are finished are kept"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainer:
    """What all runs of one call share.

    Attributes:
      store: where they are stored.
      vmap: one of `side_by_side.VMAP`: whether runs of one program go side by side; auto: whichever is faster.
      interrupt: where signals are noted.
      report: takes one line of progress.
      note: takes what is going on, every few seconds, from another thread.
      cache: compiled programs by their static fields: those of the latest, or all where batches come back to them.
    """

    store: SweepStore
    vmap: str
    interrupt: Interrupt
    report: Callable[[str], None]
    note: Callable[[str], Any] | None = None
    cache: dict[tuple, MethodPrograms] = dataclasses.field(default_factory=dict)

    def train(self, program: Program, points: Sequence[SweepPoint], keys: Sequence[Key]) -> None:
        """Train and keep some runs of one program.

        A run that fails is kept with its reason, and the others go on; a crash fails the runs beside it. Runs that
        another process finished meanwhile are left out.

        Raises:
          ConfigError: another process trains one of the runs.
          Interrupted: after a signal. Finished runs are kept, those under way are not.
        """
        size = self._group_size(program, points, keys)
        for start in range(0, len(keys), size):
            self.interrupt.stop_if_signalled(STOPPED)
            group = keys[start : start + size]
            with hold(*map(self.store.make_folder, group)):
                left = [key for key in group if not self.store.is_finished(key)]
                if left:
                    self._train_group(program, points, left)

    def _group_size(self, program: Program, points: Sequence[SweepPoint], keys: Sequence[Key]) -> int:
        """How many of the runs go side by side."""
        usual = group_size(self.vmap, self.store.sweep.group, jax.default_backend(), len(keys))
        most = group_size("on", self.store.sweep.group, jax.default_backend(), len(keys))
        if self.vmap != "auto" or most < 2:
            return usual
        try:
            programs = self._programs(program, points[program.points[0]])
            choice = faster_size(
                programs,
                make_plan(programs.settings),
                _runs(points, keys),
                most=most,
                usual=usual,
                datasets=_datasets(programs, keys),
            )
        except Exception as error:  # too little memory for all of them, say; what else is wrong, the runs will tell
            choice = Choice(1, f"not measured: {type(error).__name__}: {error}")
        self.report(f"{choice.size} of {len(keys)} runs side by side, {choice.why}")
        return choice.size

    def _train_group(self, program: Program, points: Sequence[SweepPoint], group: Sequence[Key]) -> None:
        begin, programs = time.perf_counter(), None
        try:
            with elapsed(self.note, "compiling and running", at_once=False):
                programs = self._programs(program, points[program.points[0]])
                outcomes = self._outcomes(programs, points, group)
        except (Interrupted, KeyboardInterrupt):
            raise
        except Exception as error:  # one broken program must not take the sweep down
            outcomes = [f"{type(error).__name__}: {error}"] * len(group)
        for key, outcome in zip(group, outcomes, strict=True):
            self._keep(programs, points[key[0]], key, outcome, len(group))
        self._report_group(points, group, outcomes, time.perf_counter() - begin)

    def _programs(self, program: Program, point: SweepPoint) -> MethodPrograms:
        key = tuple(program.static.items())
        if key not in self.cache:
            if self.store.sweep.kind != "optuna":
                self.cache.clear()
            settings = self.store.settings_of(point)  # of one of its points: the swept defaults need not make sense
            dataset = self.store.datasets.of(settings)
            clients = make_client_data(dataset, worth=settings["compute"]["bucket_worth"])
            self.cache[key] = MethodPrograms(settings, dataset, clients)
        return self.cache[key]

    def _outcomes(self, programs: MethodPrograms, points: Sequence[SweepPoint], keys: Sequence[Key]) -> list[Outcome]:
        return train_group(
            programs,
            make_plan(programs.settings),
            _runs(points, keys),
            megabytes_per_round=programs.megabytes_per_round,
            datasets=_datasets(programs, keys),
            interrupt=self.interrupt,
        )

    def _keep(
        self, programs: MethodPrograms | None, point: SweepPoint, key: Key, outcome: Outcome | str, side_by_side: int
    ) -> None:
        folder, config = self.store.folder(key), self.store.config(point, key[1])
        failure = outcome if isinstance(outcome, str) else outcome.failure
        if failure:
            storage.save_failure(folder, config, failure)
            return
        settings = self.store.settings_of({**point, "seed": key[1]})
        cost = programs.algorithm.cost
        result = make_result(settings, programs.dataset, cost, outcome.progress, outcome.ranks, None, outcome.lists)
        result |= {"best_valid": outcome.progress.best_value, "megabytes_per_round": programs.megabytes_per_round}
        result |= {"side_by_side": side_by_side}
        storage.save(folder, config, result, outcome.ranks, outcome.curve)

    def _report_group(
        self, points: Sequence[SweepPoint], keys: Sequence[Key], outcomes: Sequence, seconds: float
    ) -> None:
        together = f"{len(keys)} side by side in " if len(keys) > 1 else ""
        for (k, seed), outcome in zip(keys, outcomes, strict=True):
            failure = outcome if isinstance(outcome, str) else outcome.failure
            value = None if failure else outcome.progress.best_value
            text = f"FAILED: {failure}" if failure else "no validation rows"
            if value is not None:
                text = f"valid {SELECTION_METRIC} {100 * value:.2f} %"
            self.report(f"point {k} ({name_of(points[k])}), seed {seed}: {text}; {together}{seconds:.1f} s")


def _runs(points: Sequence[SweepPoint], keys: Sequence[Key]) -> list[Run]:
    return [Run(traced(points[k]), seed) for k, seed in keys]


def _datasets(programs: MethodPrograms, keys: Sequence[Key]) -> list[Dataset] | None:
    """The data of each run where its seed decides the features."""
    features = programs.settings["data"]["features"]
    return None if features == "real" else [FEATURE_SOURCES[features](programs.dataset, seed) for _, seed in keys]
