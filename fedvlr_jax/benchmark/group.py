"""Training of a group of runs of one method, from their first round to their ranks at the best one."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from fedvlr_jax.benchmark.programs import MethodPrograms, TracedPoint, UnlikeRunsError
from fedvlr_jax.benchmark.records import CurvePoint
from fedvlr_jax.evaluation.list_metrics import summarise_lists
from fedvlr_jax.evaluation.metrics import SELECTION_METRIC, main_metrics, summarise
from fedvlr_jax.io.interrupt import Interrupt
from fedvlr_jax.training.counting import count_rounds, diverged_round
from fedvlr_jax.training.schedule import Plan, RunProgress
from fedvlr_jax.types import Dataset, PyTree, Ranks, RoundInfo

T = TypeVar("T")


class Run(NamedTuple):
    """One run of a method: a point of its grid (traced settings by dotted name) and a seed."""

    point: TracedPoint
    seed: int


class Outcome(NamedTuple):
    """What became of a run; `failure` is a sentence, or "" and then `ranks` are those of the best round.

    `lists` is `evaluation.list_metrics.summarise_lists` of that round, where the settings ask for it.
    """

    progress: RunProgress
    ranks: Ranks | None
    curve: tuple[CurvePoint, ...]
    failure: str = ""
    lists: dict[str, Any] | None = None


def train_group(
    programs: MethodPrograms,
    plan: Plan,
    runs: Sequence[Run],
    *,
    megabytes_per_round: float,
    datasets: Sequence[Dataset] | None = None,
    interrupt: Interrupt | None = None,
    check: Callable[[], None] | None = None,
) -> list[Outcome]:
    """Train runs side by side until each has used up its rounds or its patience; unlike ones one after the other.

    The round of each run is chosen by its validation metric; test items are ranked once, with the states of the
    chosen rounds. A run in which every client diverges fails; the others go on.

    Args:
      programs: of the method.
      plan: rounds, evaluations and patience; its seed is not read.
      runs: points and seeds; all points have the same fields.
      megabytes_per_round: for the curves.
      datasets: the data with the features of each run, where they differ.
      interrupt: where signals are noted.
      check: called before the rounds to each evaluation; what it raises ends the group.

    Returns:
      One outcome a run, in the order of `runs`.

    Raises:
      Interrupted: after a signal. Nothing of the group is kept.
    """
    length = math.gcd(plan.eval_every, plan.rounds)
    try:
        group = programs.group([run.point for run in runs], datasets, [run.seed for run in runs])
    except UnlikeRunsError:
        same = {"megabytes_per_round": megabytes_per_round, "interrupt": interrupt, "check": check}
        data = [None] * len(runs) if datasets is None else [[dataset] for dataset in datasets]
        alone = zip(runs, data, strict=True)
        return [train_group(programs, plan, [run], datasets=own, **same)[0] for run, own in alone]
    compiled = programs.seconds
    state = best = programs.init(group, [run.seed for run in runs])
    best = jax.tree.map(lambda x: x.copy(), best)  # the state is donated to the next rounds
    track = [_Track() for _ in runs]

    def evaluate(state: PyTree, best: PyTree) -> PyTree:
        begin, before = time.perf_counter(), programs.seconds
        ranks = programs.rank(group, state, hide_test=True)
        eval_seconds = time.perf_counter() - begin - (programs.seconds - before)
        for m, t in enumerate(track):
            valid = summarise(_of_run(ranks, m), programs.warm_i)["valid"]
            moved = programs.megabytes_once + megabytes_per_round * t.progress.round
            t.evaluated(plan, valid, moved, eval_seconds / len(runs))
        improved_m = np.array([t.improved for t in track])
        return programs.keep(improved_m, state, best) if improved_m.any() else best

    if plan.from_start:
        best = evaluate(state, best)
    while any(t.is_alive(plan) for t in track):
        if interrupt is not None:
            interrupt.stop_if_signalled("stopped; the runs that are finished are kept")
        if check is not None:
            check()
        calls = (plan.next_evaluation(track[0].progress.round) - track[0].progress.round) // length
        begin, before = time.perf_counter(), programs.seconds
        infos = []
        for _ in range(calls):
            state, info = programs.run(group, state, length)
            infos.append(info)
        info = RoundInfo(*(np.concatenate(field, axis=1) for field in zip(*jax.device_get(infos), strict=True)))
        seconds = time.perf_counter() - begin - (programs.seconds - before)
        for m, t in enumerate(track):
            t.add(plan, _of_run(info, m), seconds / len(runs))
        best = evaluate(state, best)
    ranks = programs.rank(group, best, hide_test=False)
    lists: list[dict[str, Any] | None] = [None] * len(runs)
    if programs.settings["eval"]["lists"]:
        judged = programs.lists(group, best)
        lists = [summarise_lists(_of_run(judged, m), programs.dataset) for m in range(len(runs))]
    share = (programs.seconds - compiled) / len(runs)
    return [t.outcome(_of_run(ranks, m), lists[m], share) for m, t in enumerate(track)]


def _of_run(tree: T, m: int) -> T:
    return jax.tree.map(lambda x: np.asarray(x)[m], tree)


@dataclasses.dataclass
class _Track:
    """The progress of one run of a group. Past its end it is carried along, and nothing of it changes."""

    progress: RunProgress = dataclasses.field(default_factory=RunProgress)
    curve: list[CurvePoint] = dataclasses.field(default_factory=list)
    improved: bool = False
    failure: str = ""
    ended: bool = False

    def is_alive(self, plan: Plan) -> bool:
        return not (self.ended or self.failure or self.progress.is_finished(plan))

    def add(self, plan: Plan, info: RoundInfo, seconds: float) -> None:
        """Count some rounds; a round in which all clients were left out ends the run."""
        self.ended = not self.is_alive(plan)
        if self.ended:
            # The rounds of a group go on together; those of a run that is over are not counted.
            self.progress = dataclasses.replace(self.progress, round=self.progress.round + len(info.loss))
            return
        if diverged := diverged_round(info):
            self.failure = f"round {self.progress.round + diverged}: the loss or upload of every client is not finite"
        self.progress = count_rounds(self.progress, info, seconds)

    def evaluated(self, plan: Plan, valid: dict, megabytes: float, seconds: float) -> None:
        """Note one evaluation, unless the run is over."""
        self.improved = False
        if self.ended or self.failure:
            return
        before = self.progress.best_round
        self.progress = self.progress.evaluated(valid[SELECTION_METRIC], seconds)
        self.improved = self.progress.best_round != before
        shown = {metric: valid[metric] for metric in main_metrics()}
        self.curve.append(CurvePoint(self.progress.round, shown, megabytes, self.progress.seconds_train))

    def outcome(self, ranks: Ranks, lists: dict[str, Any] | None, seconds_compile: float) -> Outcome:
        progress = dataclasses.replace(
            self.progress,
            round=self.curve[-1].round if self.curve else self.progress.round,
            seconds_compile=self.progress.seconds_compile + seconds_compile,
        )
        if self.failure:
            return Outcome(progress, None, tuple(self.curve), self.failure)
        return Outcome(progress, ranks, tuple(self.curve), lists=lists)
