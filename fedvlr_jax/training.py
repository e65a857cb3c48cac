"""The host loop: rounds -> evaluation -> writing -> checkpoint, until the rounds or the patience are used up.

The round is chosen on validation: while training, the test items are not even handed to the evaluation. They are
ranked once, at the end, with the state of the best round.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.data import fingerprint
from fedvlr_jax.errors import TrainingError
from fedvlr_jax.evaluation.metrics import summarise
from fedvlr_jax.federated.mesh import agreed
from fedvlr_jax.io.checkpoint import Checkpoints
from fedvlr_jax.io.identity import require_same_run
from fedvlr_jax.io.interrupt import Interrupt, Interrupted
from fedvlr_jax.io.progress import Progress
from fedvlr_jax.io.saving import Saver
from fedvlr_jax.io.writers import MetricWriter
from fedvlr_jax.memory import explained_memory
from fedvlr_jax.programs import Experiment, Programs, StateHolder
from fedvlr_jax.schedule import Plan, Tally, make_plan, read_tally
from fedvlr_jax.stored import StoredPrograms
from fedvlr_jax.types import Bucket, FedState, PyTree, Ranks, RoundInfo

SELECTION = "NDCG@50"  # the validation metric that chooses the round


class Trained(NamedTuple):
    """A finished run: where it stands, the state of its best round, and all held-out items ranked with it.

    `parts` yields all clients with their private states, as `StateHolder.parts`; `state` itself lacks private states
    that lie in a store.
    """

    tally: Tally
    state: PyTree
    ranks: Ranks
    parts: Callable[[], Iterator[tuple[FedState, Bucket]]]


def train(experiment: Experiment, workdir: pathlib.Path, *, interrupt: Interrupt | None = None) -> Trained:
    """Train one model, or go on with it where its last checkpoint in ``workdir/checkpoints`` ends.

    Args:
      experiment: what to train on what.
      workdir: a folder that exists; ``metrics.jsonl``, TensorBoard events and checkpoints are written there.
      interrupt: where signals are noted, if they shall save and stop the run.

    Raises:
      ConfigError, CheckpointError: as `make_plan`, `identity.require_same_run` and `Checkpoints`.
      TrainingError: if all clients of a round had to be dropped, or memory ran out; the checkpoints stay.
      Interrupted: after a signal, when the state has been saved.
    """
    plan = make_plan(experiment.settings)
    with Checkpoints(workdir / "checkpoints") as checkpoints, explained_memory(experiment):
        identity = identity_of(experiment)
        record = checkpoints.record()
        if record is not None:
            require_same_run(record, **identity)
        programs, tally = _programs(experiment, plan, workdir), read_tally(record)
        if not tally.is_finished(plan):
            if record is None:
                state = programs.init(plan.seed)
            else:
                state = programs.restore(checkpoints, tally.round, read_only=False)
            saver = Saver(
                checkpoints,
                seconds=plan.save_seconds,
                identity=identity,
                commit=programs.commit,
                retain=programs.retain,
            )
            tally = _train_rounds(plan, programs, saver, workdir, state, tally, interrupt or Interrupt())
        return _finish(programs, checkpoints, tally)


def rank_best(experiment: Experiment, workdir: pathlib.Path) -> Trained:
    """Rank all held-out items with the best checkpoint of a run that has one; nothing is trained.

    Raises:
      CheckpointError: if there is no checkpoint, or it belongs to other settings or data.
    """
    plan = make_plan(experiment.settings)
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        record = checkpoints.require_record()
        require_same_run(record, **identity_of(experiment))
        return _finish(_programs(experiment, plan, workdir), checkpoints, read_tally(record))


def identity_of(experiment: Experiment) -> dict[str, Any]:
    """What a checkpoint must share with a run that goes on with it."""
    return {"settings": experiment.settings, "data": fingerprint(experiment.dataset)}


def _programs(experiment: Experiment, plan: Plan, workdir: pathlib.Path) -> StateHolder:
    """What holds the states of a run: the device, or a store in the workdir."""
    if experiment.settings["compute"]["store"] == "device":
        return Programs(experiment, eval_chunk=plan.eval_chunk)
    return StoredPrograms(experiment, workdir / "store", eval_chunk=plan.eval_chunk)


def _train_rounds(
    plan: Plan,
    programs: StateHolder,
    saver: Saver,
    workdir: pathlib.Path,
    state: PyTree,
    tally: Tally,
    interrupt: Interrupt,
) -> Tally:
    """All rounds that are left. The states of the last and of the best round are saved when it returns."""
    # One length divides every stretch between evaluations, so one compiled program serves all of them.
    length = math.gcd(plan.eval_every, plan.rounds, tally.round)
    with (
        MetricWriter(workdir, start_round=tally.round) as writer,
        Progress(plan.rounds, start_round=tally.round) as progress,
    ):
        progress.note(f"compiling (rounds {tally.round} to {plan.rounds})")
        programs.prepare(length)
        tally = tally.add_seconds(compile=programs.seconds)
        progress.start()
        while not tally.is_finished(plan):
            if signum := agreed(interrupt.signum or 0):
                saver.save(state, tally)
                raise Interrupted(signum, f"stopped after round {tally.round} of {plan.rounds}; the state is saved")
            begin = time.perf_counter()
            state, info = programs.advance(state, plan.next_evaluation(tally.round) - tally.round)
            seconds = time.perf_counter() - begin
            if dead := _dead_round(info):
                saver.flush()
                raise TrainingError(
                    f"round {tally.round + dead}: the loss or upload of every client is not finite, nothing is left "
                    "to aggregate. Lower --config.client.lr or --config.server.lr (with another --workdir); the "
                    "checkpoints up to the last evaluation are intact"
                )
            tally = _count(tally, info, seconds)
            begin = time.perf_counter()
            valid = summarise(programs.rank(state, hide_test=True), programs.warm_i)["valid"]
            tally = tally.evaluated(valid[SELECTION], time.perf_counter() - begin)
            _report(writer, progress, tally, valid, info)
            saver.offer(state, tally)
    saver.save(state, tally)
    return tally


def _finish(programs: StateHolder, checkpoints: Checkpoints, tally: Tally) -> Trained:
    """Restore the best round, and rank validation and test items with it."""
    state = programs.restore(checkpoints, tally.best_round, read_only=True)
    compiled = programs.seconds
    programs.prepare(None)
    begin = time.perf_counter()
    ranks = programs.rank(state, hide_test=False)
    tally = tally.add_seconds(compile=programs.seconds - compiled, eval=time.perf_counter() - begin)
    return Trained(tally, state, ranks, lambda: programs.parts(state))


def _dead_round(info: RoundInfo) -> int:
    """The first round (from 1) in which all clients were dropped, else 0."""
    dead = np.flatnonzero(info.num_dropped >= info.num_clients)
    return int(dead[0]) + 1 if dead.size else 0


def _count(tally: Tally, info: RoundInfo, seconds: float) -> Tally:
    """The tally after the rounds of `info`, which took `seconds`."""
    return dataclasses.replace(
        tally,
        round=tally.round + len(info.loss),
        client_updates=tally.client_updates + int(info.num_clients.sum()),
        num_dropped=tally.num_dropped + int(info.num_dropped.sum()),
        seconds_train=tally.seconds_train + seconds,
    )


def _report(
    writer: MetricWriter, progress: Progress, tally: Tally, valid: Mapping[str, Any], info: RoundInfo
) -> None:
    """The line of metrics.jsonl, the TensorBoard events and the progress line of one evaluation."""
    rate = tally.updates_per_second
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
    progress.update(tally.round, loss=float(info.loss[-1]), ndcg=valid[SELECTION], updates_per_second=rate)
