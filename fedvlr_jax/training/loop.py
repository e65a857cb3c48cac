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
from fedvlr_jax.io.elapsed import elapsed
from fedvlr_jax.io.identity import require_same_run
from fedvlr_jax.io.interrupt import Interrupt, Interrupted
from fedvlr_jax.io.progress import Progress
from fedvlr_jax.io.writers import MetricWriter
from fedvlr_jax.settings import upgrade
from fedvlr_jax.training.backend import Backend
from fedvlr_jax.training.device_backend import DeviceBackend
from fedvlr_jax.training.experiment import Experiment
from fedvlr_jax.training.memory import explained_memory
from fedvlr_jax.training.saving import Saver
from fedvlr_jax.training.schedule import Plan, RunProgress, make_plan, read_progress
from fedvlr_jax.training.store_backend import StoreBackend
from fedvlr_jax.types import Bucket, FedState, PyTree, Ranks, RoundInfo

SELECTION = "NDCG@50"  # the validation metric that chooses the round


class Trained(NamedTuple):
    """A finished run: where it stands, the state of its best round, and all held-out items ranked with it.

    `parts` yields all clients with their private states, as `Backend.parts`; `state` itself lacks private states
    that lie in a store.
    """

    progress: RunProgress
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
            require_own(record, experiment)
        backend, progress = _programs(experiment, plan, workdir), read_progress(record)
        if not progress.is_finished(plan):
            if record is None:
                state = backend.init(plan.seed)
            else:
                state = backend.restore(checkpoints, progress.round, read_only=False)
            saver = Saver(
                checkpoints,
                seconds=plan.save_seconds,
                identity=identity,
                commit=backend.commit,
                retain=backend.retain,
            )
            progress = _train_rounds(plan, backend, saver, workdir, state, progress, interrupt or Interrupt())
        return _finish(backend, checkpoints, progress)


def rank_best(experiment: Experiment, workdir: pathlib.Path) -> Trained:
    """Rank all held-out items with the best checkpoint of a run that has one; nothing is trained.

    Raises:
      CheckpointError: if there is no checkpoint, or it belongs to other settings or data.
    """
    plan = make_plan(experiment.settings)
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        record = checkpoints.require_record()
        require_own(record, experiment)
        return _finish(_programs(experiment, plan, workdir), checkpoints, read_progress(record))


def identity_of(experiment: Experiment) -> dict[str, Any]:
    """What a checkpoint must share with a run that goes on with it."""
    return {"settings": experiment.settings, "data": fingerprint(experiment.dataset)}


def require_own(record: Mapping[str, Any], experiment: Experiment) -> None:
    """Refuses the record of a checkpoint that belongs to other settings or data.

    Raises:
      CheckpointError: as `identity.require_same_run`.
    """
    require_same_run({**record, "settings": upgrade(record["settings"])}, **identity_of(experiment))


def _programs(experiment: Experiment, plan: Plan, workdir: pathlib.Path) -> Backend:
    """What holds the states of a run: the device, or a store in the workdir."""
    if experiment.settings["compute"]["store"] == "device":
        return DeviceBackend(experiment, eval_chunk=plan.eval_chunk)
    return StoreBackend(experiment, workdir / "store", eval_chunk=plan.eval_chunk)


def _train_rounds(
    plan: Plan,
    backend: Backend,
    saver: Saver,
    workdir: pathlib.Path,
    state: PyTree,
    progress: RunProgress,
    interrupt: Interrupt,
) -> RunProgress:
    """All rounds that are left. The states of the last and of the best round are saved when it returns."""
    # One length divides every stretch between evaluations, so one compiled program serves all of them.
    length = math.gcd(plan.eval_every, plan.rounds, progress.round)
    with (
        MetricWriter(workdir, start_round=progress.round) as writer,
        Progress(plan.rounds, start_round=progress.round) as bar,
    ):
        with elapsed(bar.note, f"compiling (rounds {progress.round} to {plan.rounds})"):
            backend.prepare(length)
        progress = progress.add_seconds(compile=backend.seconds)
        bar.start()
        while not progress.is_finished(plan):
            if signum := agreed(interrupt.signum or 0):
                saver.save(state, progress)
                raise Interrupted(
                    signum, f"stopped after round {progress.round} of {plan.rounds}; the state is saved"
                )
            begin = time.perf_counter()
            state, info = backend.advance(state, plan.next_evaluation(progress.round) - progress.round)
            seconds = time.perf_counter() - begin
            if dead := _dead_round(info):
                saver.flush()
                raise TrainingError(
                    f"round {progress.round + dead}: the loss or upload of every client is not finite, nothing is "
                    "left to aggregate. Lower --config.client.lr or --config.server.lr (with another --workdir); the "
                    "checkpoints up to the last evaluation are intact"
                )
            progress = _count(progress, info, seconds)
            begin = time.perf_counter()
            valid = summarise(backend.rank(state, hide_test=True), backend.warm_i)["valid"]
            progress = progress.evaluated(valid[SELECTION], time.perf_counter() - begin)
            _report(writer, bar, progress, valid, info)
            saver.offer(state, progress)
    saver.save(state, progress)
    return progress


def _finish(backend: Backend, checkpoints: Checkpoints, progress: RunProgress) -> Trained:
    """Restore the best round, and rank validation and test items with it."""
    state = backend.restore(checkpoints, progress.best_round, read_only=True)
    compiled = backend.seconds
    backend.prepare(None)
    begin = time.perf_counter()
    ranks = backend.rank(state, hide_test=False)
    progress = progress.add_seconds(compile=backend.seconds - compiled, eval=time.perf_counter() - begin)
    return Trained(progress, state, ranks, lambda: backend.parts(state))


def _dead_round(info: RoundInfo) -> int:
    """The first round (from 1) in which all clients were dropped, else 0."""
    dead = np.flatnonzero(info.num_dropped >= info.num_clients)
    return int(dead[0]) + 1 if dead.size else 0


def _count(progress: RunProgress, info: RoundInfo, seconds: float) -> RunProgress:
    """The progress after the rounds of `info`, which took `seconds`."""
    return dataclasses.replace(
        progress,
        round=progress.round + len(info.loss),
        client_updates=progress.client_updates + int(info.num_clients.sum()),
        num_dropped=progress.num_dropped + int(info.num_dropped.sum()),
        seconds_train=progress.seconds_train + seconds,
    )


def _report(
    writer: MetricWriter, bar: Progress, progress: RunProgress, valid: Mapping[str, Any], info: RoundInfo
) -> None:
    """The line of metrics.jsonl, the TensorBoard events and the bar line of one evaluation."""
    rate = progress.updates_per_second
    writer.rounds(progress.round, loss=info.loss, update_norm=info.update_norm, num_dropped=info.num_dropped)
    writer.evaluation(
        {
            "round": progress.round,
            "loss": float(info.loss[-1]),
            "update_norm": float(info.update_norm[-1]),
            "num_clients": int(info.num_clients[-1]),
            "num_dropped": int(info.num_dropped.sum()),
            "valid": valid,
            "best_round": progress.best_round,
            "seconds_train": progress.seconds_train,
            "seconds_eval": progress.seconds_eval,
            "client_updates_per_second": rate,
        }
    )
    bar.update(progress.round, loss=float(info.loss[-1]), ndcg=valid[SELECTION], updates_per_second=rate)
