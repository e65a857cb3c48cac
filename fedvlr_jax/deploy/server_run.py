"""The server of a federation in its folder: settings in, rounds, checkpoints, metrics, and a result out."""

from __future__ import annotations

import collections
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.deploy.coordinator import Coordinator, ServerState, Timing
from fedvlr_jax.deploy.export import require_no_prior
from fedvlr_jax.deploy.round_report import line_of, told
from fedvlr_jax.deploy.silo_programs import catalogue_of, sizes_of
from fedvlr_jax.deploy.silos import Transport, new_tally
from fedvlr_jax.errors import CheckpointError
from fedvlr_jax.evaluation.metrics import SELECTION_METRIC
from fedvlr_jax.io.checkpoint import Checkpoints
from fedvlr_jax.io.files import read_arrays, read_json, write_arrays, write_json
from fedvlr_jax.io.identity import require_same_run
from fedvlr_jax.io.lock import hold
from fedvlr_jax.io.trackers import Trackers
from fedvlr_jax.io.writers import MetricWriter
from fedvlr_jax.training.schedule import make_plan
from fedvlr_jax.training.stored import stored_settings
from fedvlr_jax.types import Dataset, content_of

ABOUT, CATALOGUE = "federation.json", "catalogue.npz"


def prepare_server(workdir: pathlib.Path, settings: Mapping[str, Any], timing: Timing, dataset: Dataset) -> None:
    """Writes all that `run_server` reads: config.json, federation.json and catalogue.npz. No interaction is in them.

    Args:
      workdir: a writable folder.
      settings: nested, with all fields.
      timing: how long the server waits.
      dataset: its name, sizes and features are written.

    Raises:
      CheckpointError: another federation, or another run, has its checkpoints there; nothing is written.
      ConfigError: its server runs now.
    """
    features = {name: x for name, x in (("V", dataset.V), ("C", dataset.C)) if x is not None}
    sizes = {"name": dataset.name, "num_users": dataset.num_users, "num_items": dataset.num_items}
    with hold(workdir), Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        record = checkpoints.record()
        if record is not None:
            _require_same(record, settings, dataset)
        write_arrays(workdir / CATALOGUE, features)
        write_json(workdir / ABOUT, {"catalogue": sizes, "timing": timing._asdict()})
        write_json(workdir / "config.json", settings)


def run_server(
    workdir: pathlib.Path, transport: Transport, say: Callable[[str], Any] | None = None
) -> dict[str, Any]:
    """Trains the federation that `prepare_server` described, or goes on after its last round that is saved.

    Every round is saved before the next one is opened, so no silo is ever more than one round ahead of the server.

    Args:
      workdir: its folder; metrics.jsonl, checkpoints and result.json are written there.
      transport: how silos are reached.
      say: takes a line about what happens; by default it is printed to stderr.

    Returns:
      The content of result.json.

    Raises:
      ConfigError, CheckpointError: bad settings, a folder without them, or checkpoints of another federation.
      TrainingError: too few users came, or no upload in several rounds in a row.
    """
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    settings = stored_settings(workdir)
    about = read_json(workdir / ABOUT)
    if about is None:
        raise CheckpointError(
            f"{workdir}: no {ABOUT} there; fedvlr-federation --silos=0 writes the folder of a server"
        )
    features, timing, plan = read_arrays(workdir / CATALOGUE), Timing(**about["timing"]), make_plan(settings)
    dataset = catalogue_of(**about["catalogue"], V=features.get("V"), C=features.get("C"))
    algorithm = make_algorithm(settings, dataset)
    require_no_prior(algorithm)
    coordinator = Coordinator(
        settings, algorithm, content_of(dataset), sizes_of(dataset), transport, timing=timing, say=say
    )
    with hold(workdir), Checkpoints(workdir / "checkpoints") as checkpoints:
        identity = {"settings": settings, "data": sizes_of(dataset)._asdict()}
        record, state = checkpoints.record(), coordinator.start()
        progress: dict[str, Any] = {"best_round": None, "best_value": None, "seconds": 0.0}
        totals: collections.Counter[str] = collections.Counter()
        if record is not None:
            _require_same(record, settings, dataset)
            state = checkpoints.restore(record["round"], jax.tree.map(_shape, state))
            progress = {name: record[name] for name in progress}
            totals.update(record["totals"])
            say(f"going on after round {record['round']}")
        coordinator.wait_for_users()
        with (
            Trackers(settings["writers"], workdir, settings) as trackers,
            MetricWriter(workdir, start_round=int(state.public.round), trackers=trackers) as writer,
        ):
            while (done := int(state.public.round)) < plan.rounds:
                begin = time.monotonic()
                state, report = coordinator.round(state)
                valid = None
                if (done + 1) % plan.eval_every == 0 or done + 1 == plan.rounds:
                    valid = coordinator.rank(state, test=False, tally=report.tally)["valid"]
                    if _is_better(valid, progress["best_value"]) or progress["best_round"] is None:
                        progress |= {"best_round": done + 1, "best_value": valid.get(SELECTION_METRIC)}
                totals.update({f"fault_{name}": count for name, count in report.tally.faults.items()})
                totals.update({f"bytes_{way}": count for way, count in report.tally.size.items()})
                totals.update(client_updates=report.num_counted)
                progress["seconds"] += time.monotonic() - begin
                checkpoints.save(state, {"round": report.round, **progress, "totals": dict(totals), **identity})
                writer.evaluation(line_of(report, valid))
                say(told(report, plan.rounds, valid))
        result = _result(coordinator, state, settings, dataset, progress, totals)
        write_json(workdir / "result.json", result)
    return result


def _require_same(record: Mapping[str, Any], settings: Mapping[str, Any], dataset: Dataset) -> None:
    """Refuses to go on with a federation of other settings or sizes."""
    remedy = "choose another --workdir, or delete that one to start again"
    require_same_run(record, settings, sizes_of(dataset)._asdict(), remedy=remedy)


def _result(
    coordinator: Coordinator,
    state: ServerState,
    settings: Mapping[str, Any],
    dataset: Dataset,
    progress: Mapping[str, Any],
    totals: Mapping[str, int],
) -> dict[str, Any]:
    """The content of result.json: metrics of the last round, over the users whose silos are there at the end."""
    metrics = coordinator.rank(state, test=True, tally=new_tally())
    return {
        "dataset": dataset.name,
        "host": settings["host"]["name"],
        "variant": settings["variant"],
        "seed": settings["seed"],
        "rounds": int(state.public.round),
        "num_users": len(coordinator.silos.users),
        **metrics,
        **progress,
        **totals,
    }


def _is_better(valid: Mapping[str, float | None], best: float | None) -> bool:
    """Whether validation metrics are better than the best so far, by the metric of selection."""
    value = valid.get(SELECTION_METRIC)
    return value is not None and (best is None or value > best)


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)
