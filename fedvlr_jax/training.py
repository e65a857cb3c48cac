"""The host loop: rounds -> evaluation -> writing -> checkpoint, until the rounds or the patience are used up.

The round is chosen on validation: while training, the test items are not even handed to the evaluation. They are
ranked once, at the end, with the state of the best round.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.data.buckets import make_client_data
from fedvlr_jax.errors import ConfigError, TrainingError
from fedvlr_jax.evaluation.metrics import summarise, warm_items
from fedvlr_jax.evaluation.ranking import rank_all
from fedvlr_jax.io.checkpoint import Checkpoints
from fedvlr_jax.io.identity import fingerprint, require_same_run
from fedvlr_jax.io.interrupt import Interrupt, Interrupted
from fedvlr_jax.io.progress import Progress
from fedvlr_jax.io.saving import Saver
from fedvlr_jax.io.writers import MetricWriter
from fedvlr_jax.types import Array, ClientData, Dataset, PyTree, Ranks, RoundInfo

MakeAlgorithm = Callable[[Mapping[str, Any], Dataset], Any]
SELECTION = "NDCG@50"  # on validation rows


class Plan(NamedTuple):
    """The settings of the host loop."""

    seed: int
    rounds: int
    eval_every: int  # rounds
    patience: int  # evaluations without improvement before stopping; 0 = never
    eval_chunk: int  # users scored at once
    save_seconds: float  # least time between two periodic checkpoints


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tally:
    """Where a run stands; it is part of every checkpoint, so that sums go on after a restart."""

    round: int = 0
    best_round: int | None = None
    best_value: float | None = None
    evaluations_since_best: int = 0
    client_updates: int = 0
    num_dropped: int = 0
    seconds_train: float = 0.0
    seconds_eval: float = 0.0
    seconds_compile: float = 0.0

    def is_finished(self, plan: Plan) -> bool:
        """Whether the rounds, or the patience, are used up."""
        return self.round >= plan.rounds or 0 < plan.patience <= self.evaluations_since_best


class Trained(NamedTuple):
    """A finished run: its tally, the state of the best round, the ranks of all held-out items there."""

    tally: Tally
    state: PyTree
    ranks: Ranks
    data: ClientData


def make_plan(settings: Mapping[str, Any]) -> Plan:
    """The checked settings of the host loop.

    Raises:
      ConfigError: if one of them is out of range.
    """
    bounds = {
        "rounds": (settings["rounds"], 1),
        "eval.every": (settings["eval"]["every"], 1),
        "eval.patience": (settings["eval"]["patience"], 0),
        "eval.chunk": (settings["eval"]["chunk"], 1),
        "checkpoint.seconds": (settings["checkpoint"]["seconds"], 0),
        "seed": (settings["seed"], 0),
    }
    for name, (value, least) in bounds.items():
        if not value >= least:
            raise ConfigError(f"--config.{name}: expected at least {least}, found {value}")
    return Plan(
        seed=settings["seed"],
        rounds=settings["rounds"],
        eval_every=min(settings["eval"]["every"], settings["rounds"]),
        patience=settings["eval"]["patience"],
        eval_chunk=settings["eval"]["chunk"],
        save_seconds=settings["checkpoint"]["seconds"],
    )


def train(
    settings: Mapping[str, Any],
    dataset: Dataset,
    workdir: pathlib.Path,
    *,
    algorithm: Any,
    interrupt: Interrupt | None = None,
) -> Trained:
    """Train one model, or go on with it where its last checkpoint in ``workdir/checkpoints`` ends.

    Args:
      settings: the nested settings, see configs/base.py.
      dataset: interactions, splits and features.
      workdir: a folder that exists; ``metrics.jsonl``, TensorBoard events and checkpoints are written there.
      algorithm: the learning algorithm made from the same settings and data set.
      interrupt: where signals are noted, if they shall save and stop the run.

    Returns:
      The finished run.

    Raises:
      ConfigError, CheckpointError: as `make_plan`, `identity.require_same_run` and `Checkpoints`.
      TrainingError: if all clients of a round had to be dropped; the last checkpoint stays.
      Interrupted: after a signal, when the state has been saved.
    """
    plan = make_plan(settings)
    identity = {"settings": settings, "data": fingerprint(dataset)}
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        record = checkpoints.record()
        if record is not None:
            require_same_run(record, **identity)
        loop = _Loop(plan, dataset, algorithm, checkpoints, identity, interrupt or Interrupt())
        tally = tally_of(record)
        if not tally.is_finished(plan):
            tally = loop.train(workdir, tally)
        return loop.finish(tally)


def tally_of(record: Mapping[str, Any] | None) -> Tally:
    """The tally inside a checkpoint's record; a fresh one without a record."""
    names = [field.name for field in dataclasses.fields(Tally)]
    return Tally(**{name: record[name] for name in names}) if record is not None else Tally()


class _Loop:
    """One run in one process. It owns no state: every method takes and returns it."""

    def __init__(
        self,
        plan: Plan,
        dataset: Dataset,
        algorithm: Any,
        checkpoints: Checkpoints,
        identity: Mapping[str, Any],
        interrupt: Interrupt,
    ):
        self.plan, self.algorithm, self.checkpoints = plan, algorithm, checkpoints
        self.identity, self.interrupt = identity, interrupt
        self.data = make_client_data(dataset)
        self.target_tu = np.stack([dataset.valid_item, dataset.test_item]).astype(np.int32)
        self.warm_i = warm_items(dataset.train_item, dataset.num_items)
        self.abstract_state = jax.eval_shape(algorithm.init, jax.random.key(plan.seed))
        self._rank: Any = None

    def train(self, workdir: pathlib.Path, tally: Tally) -> Tally:
        """All rounds that are left; the state of the last and of the best round are saved when it returns."""
        state, seconds = self._initial_state(tally)
        # One length divides every stretch between evaluations, so one compiled program serves all of them.
        length = math.gcd(self.plan.eval_every, self.plan.rounds, tally.round)
        run, seconds_run = compile_timed(
            jax.jit(self.algorithm.run, static_argnames="num_rounds", donate_argnames="state"),
            self.abstract_state,
            self.data,
            num_rounds=length,
        )
        seconds += seconds_run + self._prepare_ranking()
        tally = dataclasses.replace(tally, seconds_compile=tally.seconds_compile + seconds)

        saver = Saver(self.checkpoints, seconds=self.plan.save_seconds)
        with (
            MetricWriter(workdir, start_round=tally.round) as writer,
            Progress(self.plan.rounds, start_round=tally.round) as progress,
        ):
            while not tally.is_finished(self.plan):
                if self.interrupt.signum is not None:
                    self._stop(saver, state, tally)
                state, info, seconds = self._run_to_evaluation(run, length, state, tally.round)
                tally = self._count(saver, tally, info, seconds)
                tally, valid = self._evaluate(state, tally)
                self._report(writer, progress, tally, valid, info)
                saver.offer(state, self._record(tally))
        saver.save(state, self._record(tally))
        return tally

    def finish(self, tally: Tally) -> Trained:
        """Restore the best round, and rank validation and test items with it."""
        state = self.checkpoints.restore(tally.best_round, self.abstract_state)
        seconds = self._prepare_ranking()
        tally = dataclasses.replace(tally, seconds_compile=tally.seconds_compile + seconds)
        begin = time.perf_counter()
        ranks = jax.device_get(self._rank(state, self.data, jnp.asarray(self.target_tu)))
        tally = dataclasses.replace(tally, seconds_eval=tally.seconds_eval + time.perf_counter() - begin)
        return Trained(tally, state, ranks, self.data)

    def _initial_state(self, tally: Tally) -> tuple[PyTree, float]:
        """The state to start from, and the seconds it took to compile its initialisation."""
        if tally.round or self.checkpoints.record() is not None:
            return self.checkpoints.restore(tally.round, self.abstract_state), 0.0
        key = jax.random.key(self.plan.seed)
        init, seconds = compile_timed(jax.jit(self.algorithm.init), key)
        return init(key), seconds

    def _prepare_ranking(self) -> float:
        """Compile the evaluation once; the seconds that took."""
        if self._rank is not None:
            return 0.0

        def rank(state: PyTree, data: ClientData, target_tu: Array) -> Ranks:
            params = (state, data.content)
            return rank_all(self.algorithm.score, params, data.buckets, target_tu, chunk=self.plan.eval_chunk)

        self._rank, seconds = compile_timed(
            jax.jit(rank), self.abstract_state, self.data, jnp.asarray(self.target_tu)
        )
        return seconds

    def _run_to_evaluation(
        self, run: Callable[..., Any], length: int, state: PyTree, start: int
    ) -> tuple[PyTree, RoundInfo, float]:
        """Rounds up to the next evaluation: the new state, the info of each round, and the seconds."""
        every = self.plan.eval_every
        end = min((start // every + 1) * every, self.plan.rounds)
        begin = time.perf_counter()
        infos = []
        for _ in range(start, end, length):
            state, info = run(state, self.data)
            infos.append(info)
        infos = jax.device_get(infos)
        jax.block_until_ready(state)
        seconds = time.perf_counter() - begin
        return state, RoundInfo(*(np.concatenate(field) for field in zip(*infos, strict=True))), seconds

    def _count(self, saver: Saver, tally: Tally, info: RoundInfo, seconds: float) -> Tally:
        """Add the rounds of one stretch; stop if one of them trained nobody."""
        lost = np.flatnonzero((info.num_dropped >= info.num_clients) & (info.num_clients > 0))
        if lost.size:
            saver.flush()
            raise TrainingError(
                f"round {tally.round + int(lost[0]) + 1}: the loss or upload of all {int(info.num_clients[lost[0]])} "
                "clients is not finite, nothing is left to aggregate; lower --config.client.lr or --config.server.lr "
                "(with another --workdir). Checkpoints up to the last evaluation are intact"
            )
        return dataclasses.replace(
            tally,
            round=tally.round + len(info.loss),
            client_updates=tally.client_updates + int(info.num_clients.sum()),
            num_dropped=tally.num_dropped + int(info.num_dropped.sum()),
            seconds_train=tally.seconds_train + seconds,
        )

    def _evaluate(self, state: PyTree, tally: Tally) -> tuple[Tally, dict[str, float | None]]:
        """Validation metrics, and the tally with the best round so far; test items are hidden (-1)."""
        begin = time.perf_counter()
        hidden_tu = np.stack([self.target_tu[0], np.full_like(self.target_tu[1], -1)])
        ranks = jax.device_get(self._rank(state, self.data, jnp.asarray(hidden_tu)))
        valid = summarise(ranks, self.warm_i)["valid"]
        seconds = tally.seconds_eval + time.perf_counter() - begin
        value = valid[SELECTION]
        # Without validation rows nothing can be chosen: the latest round counts as the best.
        if tally.best_value is None or value is None or value > tally.best_value:
            best = {"best_round": tally.round, "best_value": value, "evaluations_since_best": 0}
        else:
            best = {"evaluations_since_best": tally.evaluations_since_best + 1}
        return dataclasses.replace(tally, seconds_eval=seconds, **best), valid

    def _report(
        self,
        writer: MetricWriter,
        progress: Progress,
        tally: Tally,
        valid: Mapping[str, Any],
        info: RoundInfo,
    ) -> None:
        """The line of metrics.jsonl, TensorBoard events and the progress line of one evaluation."""
        rate = tally.client_updates / tally.seconds_train
        writer.rounds(tally.round, loss=info.loss, update_norm=info.update_norm, num_dropped=info.num_dropped)
        writer.evaluation(
            {
                "round": tally.round,
                "loss": float(info.loss[-1]),
                "update_norm": float(info.update_norm[-1]),
                "num_clients": int(info.num_clients[-1]),
                "num_dropped": int(info.num_dropped.sum()),
                "valid": valid,
                "best_round": tally.best_round,
                "seconds_train": tally.seconds_train,
                "seconds_eval": tally.seconds_eval,
                "client_updates_per_second": rate,
            }
        )
        progress.update(
            tally.round, loss=float(info.loss[-1]), ndcg=valid[SELECTION], updates_per_second=rate
        )

    def _record(self, tally: Tally) -> dict[str, Any]:
        return {**dataclasses.asdict(tally), **self.identity}

    def _stop(self, saver: Saver, state: PyTree, tally: Tally) -> None:
        saver.save(state, self._record(tally))
        raise Interrupted(
            self.interrupt.signum,
            f"stopped after round {tally.round} of {self.plan.rounds}; the state is saved",
        )


def compile_timed(jitted: Any, *args: Any, **static: Any) -> tuple[Any, float]:
    """Compile ahead of time; the compiled function (without static arguments) and the seconds it took."""
    begin = time.perf_counter()
    compiled = jitted.lower(*args, **static).compile()
    return compiled, time.perf_counter() - begin
