"""The server of a federation in its folder: settings in, rounds, checkpoints, metrics, and a result out."""

from __future__ import annotations

import collections
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.data import fingerprint
from fedvlr_jax.deploy.coordinator import Coordinator, ServerState, Timing
from fedvlr_jax.deploy.export import require_no_prior
from fedvlr_jax.deploy.round_report import RoundReport, line_of, told, with_ranking
from fedvlr_jax.deploy.silo_programs import catalogue_of, sizes_of
from fedvlr_jax.deploy.silos import Tally, Transport, new_tally
from fedvlr_jax.errors import CheckpointError
from fedvlr_jax.evaluation.metrics import SELECTION_METRIC
from fedvlr_jax.io.checkpoint import Checkpoints
from fedvlr_jax.io.files import read_arrays, read_json, write_arrays, write_json
from fedvlr_jax.io.identity import require_same_run
from fedvlr_jax.io.lock import hold
from fedvlr_jax.io.trackers import Trackers
from fedvlr_jax.io.writers import MetricWriter
from fedvlr_jax.privacy.accounting import guarantee_of
from fedvlr_jax.training.schedule import Plan, make_plan
from fedvlr_jax.training.stored import stored_settings
from fedvlr_jax.types import Dataset, content_of

NOTHING: Mapping[str, Any] = MappingProxyType(
    {"round": 0, "best_round": None, "best_value": None, "seconds": 0.0, "totals": {}, "line": None}
)
"""The record before the first round; ``line`` is the last one of metrics.jsonl, written again after a start."""

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

    Every round is saved before anything of it is shown, in a ranking or in the next round: no silo is ever more than
    one round ahead of the server, and nobody sees two models with one noise. What was not ranked by then is ranked
    after a start.

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
        record, state = checkpoints.record(), coordinator.start()
        if record is not None:
            _require_same(record, settings, dataset)
            state = checkpoints.restore(record["round"], jax.tree.map(_shape, state))
            say(f"going on after round {record['round']}")
        identity = {"settings": settings, "data": _catalogue(dataset)}
        record = {**NOTHING, **(record or {}), **identity}
        coordinator.wait_for_users()
        with (
            Trackers(settings["writers"], workdir, settings) as trackers,
            MetricWriter(workdir, start_round=record["round"] - bool(record["line"]), trackers=trackers) as writer,
        ):
            state, record = _go_on(coordinator, state, record, checkpoints, plan, writer, say)
        result = _result(coordinator, state, settings, dataset, record)
        write_json(workdir / "result.json", result)
    return result


def _go_on(
    coordinator: Coordinator,
    state: ServerState,
    record: dict[str, Any],
    checkpoints: Checkpoints,
    plan: Plan,
    writer: MetricWriter,
    say: Callable[[str], Any],
) -> tuple[ServerState, dict[str, Any]]:
    """The state and the record after the last round."""
    while True:
        if record["line"]:
            record = _ranked(coordinator, state, record, checkpoints)
            writer.evaluation(record["line"])
            say(told(record["line"], plan.rounds))
        if record["round"] >= plan.rounds:
            return state, record
        state, report = coordinator.round(state)
        record = _counted(record, report, is_due=report.round % plan.eval_every == 0 or report.round == plan.rounds)
        checkpoints.save(state, record)


def _require_same(record: Mapping[str, Any], settings: Mapping[str, Any], dataset: Dataset) -> None:
    """Refuses to go on with a federation of other settings, sizes or features."""
    remedy, now = "choose another --workdir, or delete that one to start again", _catalogue(dataset)
    before = {name: now[name] for name in ("V", "C")} | record["data"]  # earlier versions noted sizes alone
    require_same_run({**record, "data": before}, settings, now, remedy=remedy)


def _catalogue(dataset: Dataset) -> dict[str, Any]:
    """What a server knows of the data: sizes, and SHA-256 sums of the features."""
    sums = fingerprint(dataset)
    return sizes_of(dataset)._asdict() | {name: sums[name] for name in ("V", "C")}


def _counted(record: Mapping[str, Any], report: RoundReport, *, is_due: bool) -> dict[str, Any]:
    """The record after a round, whose ranking is yet to come if it is due."""
    guarantee = guarantee_of(record["settings"], record["data"]["num_users"])
    line = line_of(report) | ({} if guarantee is None else {"epsilon": guarantee.epsilon(report.round)})
    new = {"round": report.round, "seconds": record["seconds"] + report.seconds, "line": line}
    return {**record, **new, "totals": _more(record, report.tally, report.num_counted), "unranked": is_due}


def _ranked(
    coordinator: Coordinator, state: ServerState, record: dict[str, Any], checkpoints: Checkpoints
) -> dict[str, Any]:
    """The record with the ranking of its round, if that is due; the state of the round is saved."""
    if not record["unranked"]:
        return record
    begin, tally = time.monotonic(), new_tally()
    valid = coordinator.rank(state, test=False, tally=tally)["valid"]
    record = {**record, "unranked": False, "line": with_ranking(record["line"], valid, tally)}
    if _is_better(valid, record["best_value"]) or record["best_round"] is None:
        record |= {"best_round": record["round"], "best_value": valid.get(SELECTION_METRIC)}
    record |= {"totals": _more(record, tally, 0), "seconds": record["seconds"] + time.monotonic() - begin}
    checkpoints.amend(record)
    return record


def _more(record: Mapping[str, Any], tally: Tally, num_counted: int) -> dict[str, int]:
    """What all rounds so far counted, with one more tally."""
    totals = collections.Counter(record["totals"])
    totals.update({f"fault_{name}": count for name, count in tally.faults.items()})
    totals.update({f"bytes_{way}": count for way, count in tally.size.items()})
    totals.update(client_updates=num_counted)
    return dict(totals)


def _result(
    coordinator: Coordinator,
    state: ServerState,
    settings: Mapping[str, Any],
    dataset: Dataset,
    record: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of result.json: metrics of the last round, over the users whose silos are there at the end."""
    metrics = coordinator.rank(state, test=True, tally=new_tally())
    guarantee = guarantee_of(settings, dataset.num_users)
    return {
        "dataset": dataset.name,
        "host": settings["host"]["name"],
        "variant": settings["variant"],
        "seed": settings["seed"],
        "rounds": int(state.public.round),
        "num_users": len(coordinator.silos.users),
        **metrics,
        **{name: record[name] for name in ("best_round", "best_value", "seconds")},
        **record["totals"],
        **({} if guarantee is None else {"privacy": guarantee.describe(record["round"])}),
    }


def _is_better(valid: Mapping[str, float | None], best: float | None) -> bool:
    """Whether validation metrics are better than the best so far, by the metric of selection."""
    value = valid.get(SELECTION_METRIC)
    return value is not None and (best is None or value > best)


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)
