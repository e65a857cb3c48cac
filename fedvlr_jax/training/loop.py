"""The loop: rounds -> evaluation -> recording -> progress, until the rounds or the patience are used up.

The round is chosen on validation: while training, the test items are not even handed to the evaluation. They are
ranked once, at the end, with the state of the best round.
"""

from __future__ import annotations

import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.data import fingerprint
from fedvlr_jax.errors import ConfigError, TrainingError
from fedvlr_jax.evaluation.metrics import SELECTION_METRIC, summarise
from fedvlr_jax.federated.mesh import agreed
from fedvlr_jax.io.checkpoint import Checkpoints
from fedvlr_jax.io.elapsed import elapsed
from fedvlr_jax.io.identity import require_same_run
from fedvlr_jax.io.interrupt import Interrupt, Interrupted
from fedvlr_jax.io.progress import ProgressEvent
from fedvlr_jax.io.trackers import Trackers
from fedvlr_jax.io.writers import MetricWriter
from fedvlr_jax.privacy.accounting import Guarantee, guarantee_of
from fedvlr_jax.settings import upgrade
from fedvlr_jax.training.backend import Backend
from fedvlr_jax.training.counting import count_rounds, diverged_round
from fedvlr_jax.training.device_backend import DeviceBackend
from fedvlr_jax.training.experiment import Experiment
from fedvlr_jax.training.memory import explained_memory
from fedvlr_jax.training.recording import InMemory, Recorder, RunFiles
from fedvlr_jax.training.saving import Saver
from fedvlr_jax.training.schedule import Plan, RunProgress, make_plan, read_progress
from fedvlr_jax.training.store_backend import StoreBackend
from fedvlr_jax.training.warm_start import warm_start
from fedvlr_jax.types import Bucket, FedState, PublicState, PyTree, Ranks, RoundInfo


class Trained(NamedTuple):
    """A finished run: where it stands, the state of its best round, and all held-out items ranked with it.

    `parts` yields all clients with their private states, as `Backend.parts`; `state` itself lacks private states
    that lie in a store.
    """

    progress: RunProgress
    state: PyTree
    ranks: Ranks
    parts: Callable[[], Iterator[tuple[FedState, Bucket]]]


OnProgress = Callable[[ProgressEvent], Any]
"""Called after every evaluation. The run ends there if it returns False, as if its rounds were used up; nothing else
that it returns counts."""


def train(
    experiment: Experiment,
    workdir: pathlib.Path,
    *,
    interrupt: Interrupt | None = None,
    on_progress: OnProgress | None = None,
    note: Callable[[str], Any] | None = None,
    trackers: Trackers | None = None,
) -> Trained:
    """Train one model, or go on with it where its last checkpoint in ``workdir/checkpoints`` ends.

    Args:
      experiment: what to train on what.
      workdir: a folder that exists; ``metrics.jsonl`` and checkpoints are written there.
      interrupt: where signals are noted, if they shall save and stop the run.
      on_progress: see `OnProgress`. A run that it ended goes on when it is trained again.
      note: takes one line about what happens before the first evaluation.
      trackers: take numbers on the way.

    Raises:
      ConfigError, CheckpointError: as `make_plan`, `identity.require_same_run` and `Checkpoints`.
      TrainingError: if all clients of a round had to be dropped, or memory ran out; the checkpoints stay.
      Interrupted: after a signal, when the state has been saved.
    """
    plan = make_plan(experiment.settings)
    with Checkpoints(workdir / "checkpoints") as checkpoints, explained_memory(experiment, RunFiles.kept):
        identity = identity_of(experiment)
        record = checkpoints.record()
        if record is not None:
            require_own(record, experiment)
        backend, progress = _programs(experiment, plan, workdir), read_progress(record)
        if not progress.is_finished(plan):
            if record is None:
                state, progress = warm_start(backend.init(plan.seed), experiment.settings, experiment.dataset)
            else:
                state = backend.restore(checkpoints, progress.round, read_only=False)
            saver = Saver(
                checkpoints,
                seconds=plan.save_seconds,
                identity=identity,
                commit=backend.commit,
                retain=backend.retain,
            )
            with MetricWriter(workdir, start_round=progress.round, trackers=trackers) as writer:
                recorder = RunFiles(writer, saver)
                progress = _train_rounds(
                    plan, backend, recorder, state, progress, interrupt, on_progress, note, _guarantee(experiment)
                )
        best = backend.restore(checkpoints, progress.best_round, read_only=True)
        return _finish(backend, best, progress)


def train_in_memory(experiment: Experiment, *, on_progress: OnProgress | None = None) -> Trained:
    """`train` without a workdir: nothing is read or written, and a run that ends early cannot go on.

    Args:
      experiment: what to train on what, with private states on the device (``compute.store``).
      on_progress: see `OnProgress`.

    Raises:
      ConfigError: as `make_plan`, and for private states elsewhere.
      TrainingError: if all clients of a round had to be dropped, or memory ran out.
    """
    plan, store = make_plan(experiment.settings), experiment.settings["compute"]["store"]
    if store != "device":
        raise ConfigError(f"compute.store: expected device where there is no workdir, found {store!r}")
    with explained_memory(experiment, InMemory.kept):
        backend, recorder = DeviceBackend(experiment, eval_chunk=plan.eval_chunk), InMemory()
        state, begun = warm_start(backend.init(plan.seed), experiment.settings, experiment.dataset)
        guarantee = _guarantee(experiment)
        progress = _train_rounds(plan, backend, recorder, state, begun, None, on_progress, None, guarantee)
        return _finish(backend, recorder.best, progress)


def rank_best(experiment: Experiment, workdir: pathlib.Path) -> Trained:
    """Rank all held-out items with the best checkpoint of a run that has one; nothing is trained.

    Raises:
      CheckpointError: if there is no checkpoint, or it belongs to other settings or data.
    """
    return _finish(*restore_best(experiment, workdir))


def best_public(experiment: Experiment, workdir: pathlib.Path) -> PublicState:
    """What the server owns in the best checkpoint of a run.

    Raises:
      CheckpointError: as `rank_best`.
    """
    _, best, _ = restore_best(experiment, workdir)
    return best.public


def restore_best(experiment: Experiment, workdir: pathlib.Path) -> tuple[Backend, PyTree, RunProgress]:
    """The best checkpoint of a run: the holder of its private states, its state, and how far the run is.

    Raises:
      CheckpointError: as `rank_best`.
    """
    plan = make_plan(experiment.settings)
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        record = checkpoints.require_record()
        require_own(record, experiment)
        backend, progress = _programs(experiment, plan, workdir), read_progress(record)
        return backend, backend.restore(checkpoints, progress.best_round, read_only=True), progress


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


def _guarantee(experiment: Experiment) -> Guarantee | None:
    """What the rounds are worth, if anybody accounts for it."""
    return guarantee_of(experiment.settings, experiment.dataset.num_users)


def _train_rounds(
    plan: Plan,
    backend: Backend,
    recorder: Recorder,
    state: PyTree,
    progress: RunProgress,
    interrupt: Interrupt | None,
    on_progress: OnProgress | None,
    note: Callable[[str], Any] | None,
    guarantee: Guarantee | None,
) -> RunProgress:
    """All rounds that are left. The recorder has the states of the last and of the best round when it returns."""
    # One length divides every stretch between evaluations, so one compiled program serves all of them.
    with elapsed(note, f"compiling (rounds {progress.round} to {plan.rounds})"):
        backend.prepare(math.gcd(plan.eval_every, plan.rounds, progress.round))
    progress = progress.add_seconds(compile=backend.seconds)
    pace, stopped = _Pace(progress.round, time.perf_counter()), False
    if plan.from_start and progress.best_round is None:
        _, progress = _evaluated(backend, state, progress)
        recorder.offer(state, progress)
    while not (stopped or progress.is_finished(plan)):
        if signum := agreed((interrupt.signum if interrupt else None) or 0):
            recorder.save(state, progress)
            raise Interrupted(signum, f"stopped after round {progress.round} of {plan.rounds}; the state is saved")
        begin = time.perf_counter()
        state, info = backend.advance(state, plan.next_evaluation(progress.round) - progress.round)
        seconds = time.perf_counter() - begin
        if diverged := diverged_round(info):
            recorder.flush()
            raise TrainingError(
                f"round {progress.round + diverged}: the loss or upload of every client is not finite, nothing is "
                f"left to aggregate. Lower client.lr or server.lr{recorder.kept}"
            )
        progress = count_rounds(progress, info, seconds, guarantee)
        valid, progress = _evaluated(backend, state, progress)
        stopped = _report(recorder, on_progress, _event(plan, pace, progress, valid, info), progress, info)
        recorder.offer(state, progress)
    recorder.save(state, progress)
    return progress


def _evaluated(backend: Backend, state: PyTree, progress: RunProgress) -> tuple[Mapping[str, Any], RunProgress]:
    """The validation metrics of a state, and the progress with them."""
    begin = time.perf_counter()
    valid = summarise(backend.rank(state, hide_test=True), backend.warm_i)["valid"]
    return valid, progress.evaluated(valid[SELECTION_METRIC], time.perf_counter() - begin)


def _finish(backend: Backend, best: PyTree, progress: RunProgress) -> Trained:
    """Rank validation and test items with the state of the best round."""
    compiled = backend.seconds
    backend.prepare(None)
    begin = time.perf_counter()
    ranks = backend.rank(best, hide_test=False)
    progress = progress.add_seconds(compile=backend.seconds - compiled, eval=time.perf_counter() - begin)
    return Trained(progress, best, ranks, lambda: backend.parts(best))


class _Pace(NamedTuple):
    """The round and the time at which training (went on) began."""

    round: int
    begin: float

    def left(self, plan: Plan, round_: int) -> float:
        """Seconds until the last round, at the pace so far."""
        return (time.perf_counter() - self.begin) / max(round_ - self.round, 1) * (plan.rounds - round_)


def _event(
    plan: Plan, pace: _Pace, progress: RunProgress, valid: Mapping[str, Any], info: RoundInfo
) -> ProgressEvent:
    return ProgressEvent(
        round=progress.round,
        rounds=plan.rounds,
        loss=float(info.loss[-1]),
        valid=valid,
        updates_per_second=progress.updates_per_second,
        seconds_left=pace.left(plan, progress.round),
        epsilon=progress.epsilon,
    )


def _report(
    recorder: Recorder,
    on_progress: OnProgress | None,
    event: ProgressEvent,
    progress: RunProgress,
    info: RoundInfo,
) -> bool:
    """Write the line of metrics.jsonl, hand numbers to trackers, then tell; whether the run was stopped."""
    line = {
        "round": event.round,
        "loss": event.loss,
        "update_norm": float(info.update_norm[-1]),
        "num_clients": int(info.num_clients[-1]),
        "num_dropped": int(info.num_dropped.sum()),
        "valid": event.valid,
        "best_round": progress.best_round,
        "seconds_train": progress.seconds_train,
        "seconds_eval": progress.seconds_eval,
        "client_updates_per_second": event.updates_per_second,
        **({} if event.epsilon is None else {"epsilon": event.epsilon}),
    }
    recorder.write(line, info)
    answer = None if on_progress is None else on_progress(event)
    return bool(agreed(isinstance(answer, bool | np.bool_) and not answer))
