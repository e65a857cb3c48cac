"""The main job: one training run in one workdir, from its settings to its result."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedvlr_jax.baselines import run_baselines
from fedvlr_jax.data.buckets import make_buckets
from fedvlr_jax.errors import CheckpointError, ConfigError, RunWarning
from fedvlr_jax.inference.preferences import learned_preferences
from fedvlr_jax.inference.recommend import recommend
from fedvlr_jax.io.checkpoint import Checkpoints, delete_folder
from fedvlr_jax.io.environment import describe_environment, write_environment
from fedvlr_jax.io.files import json_ready, read_json, write_arrays, write_csv, write_json
from fedvlr_jax.io.interrupt import Interrupt
from fedvlr_jax.settings import check_settings, upgrade
from fedvlr_jax.training.experiment import Experiment
from fedvlr_jax.training.loop import Trained, rank_best, require_own, train
from fedvlr_jax.training.results import make_result, rank_arrays
from fedvlr_jax.training.schedule import make_plan, read_progress
from fedvlr_jax.training.stored import stored_baselines, stored_result

OUTPUTS = (
    "config.json",
    "environment.json",
    "metrics.jsonl",
    "result.json",
    "baselines.json",
    "ranks.npz",
    "recommendations.csv",
)


def run_job(
    experiment: Experiment, workdir: pathlib.Path, *, interrupt: Interrupt, command: Sequence[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Train (or go on, or find everything done) and write all files of a run.

    Args:
      experiment: what to train on what.
      workdir: a writable folder.
      interrupt: where signals are noted.
      command: the command line, for environment.json.

    Returns:
      The content of result.json, and the rows of baselines.json.

    Raises:
      UserError, Interrupted: as `loop.train`.
    """
    result = finished_result(experiment, workdir)
    if result is None:
        write_json(workdir / "config.json", experiment.settings)
        write_environment(workdir, describe_environment(command, workdir))
        trained = train(experiment, workdir, interrupt=interrupt)
        result = _result(experiment, trained)
        write_arrays(workdir / "ranks.npz", rank_arrays(trained.ranks))
        write_json(workdir / "result.json", result)
    if result["rounds"] > experiment.settings["rounds"]:
        asked = experiment.settings["rounds"]
        message = (
            f"{workdir}: the run has {result['rounds']} rounds, more than the {asked} asked for, and this is its "
        )
        warnings.warn(f"{message}result; another --workdir trains {asked}", RunWarning, stacklevel=2)
    return result, _baselines(experiment, workdir)


def evaluate_job(experiment: Experiment, workdir: pathlib.Path, *, num_best: int = 0) -> dict[str, Any]:
    """The result of the best checkpoint of a workdir, computed again; nothing is trained.

    Args:
      experiment: what was trained on what.
      workdir: where.
      num_best: write every user's so many best items to recommendations.csv; 0 = none, nothing is written.
    """
    trained = rank_best(experiment, workdir)
    if num_best:
        _write_recommendations(experiment, trained, workdir / "recommendations.csv", num_best)
    return _result(experiment, trained)


def delete_run(workdir: pathlib.Path) -> None:
    """Delete what an earlier run left in a workdir (the files this program writes, nothing else)."""
    found = [path for pattern in ("events.out.tfevents.*", "environment-*.json") for path in workdir.glob(pattern)]
    for path in [*(workdir / name for name in OUTPUTS), *found]:
        path.unlink(missing_ok=True)
    for name in ("checkpoints", "store"):
        delete_folder(workdir / name)


def finished_result(experiment: Experiment, workdir: pathlib.Path) -> dict[str, Any] | None:
    """The stored result of a run that is finished under these settings, else None.

    Raises:
      CheckpointError: if the workdir holds a run with other settings or data.
    """
    # Read only: orbax removes what a kill left behind in the background, which only one opener may do.
    with Checkpoints(workdir / "checkpoints", read_only=True) as checkpoints:
        record = checkpoints.record()
    if record is None:
        return None
    require_own(record, experiment)
    progress, result = read_progress(record), stored_result(workdir)
    is_current = result is not None and (result["rounds"], result["best_round"]) == (
        progress.round,
        progress.best_round,
    )
    return result if is_current and progress.is_finished(make_plan(experiment.settings)) else None


def stored_settings(workdir: pathlib.Path) -> dict[str, Any]:
    """The settings that a run wrote, as this version has them.

    Raises:
      CheckpointError: if there are none.
      ConfigError: if they make no sense.
    """
    file = workdir / "config.json"
    stored = read_json(file)
    if stored is None:
        raise CheckpointError(f"--workdir={workdir}: no config.json there; give the folder of a training run")
    try:
        settings = upgrade(stored)
        check_settings(settings)
    except (ConfigError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"{file}: expected the settings of a run, found other content: {error}") from error
    return settings


def _result(experiment: Experiment, trained: Trained) -> dict[str, Any]:
    settings, dataset, clients, algorithm = experiment
    learned_um = None
    if dataset.planted is not None:
        learned_um = learned_preferences(algorithm, trained.parts(), clients.content, dataset.num_users)
    return json_ready(make_result(settings, dataset, algorithm.cost, trained.progress, trained.ranks, learned_um))


def _write_recommendations(experiment: Experiment, trained: Trained, path: pathlib.Path, k: int) -> None:
    settings, dataset, clients, algorithm = experiment
    item_uk, score_uk = recommend(
        algorithm,
        trained.parts(),
        clients,
        num_users=dataset.num_users,
        num_items=dataset.num_items,
        k=min(k, dataset.num_items),
        chunk=settings["eval"]["chunk"],
    )
    user, place = np.nonzero(item_uk >= 0)
    rows = zip(user, place + 1, item_uk[user, place], score_uk[user, place], strict=True)
    write_csv(path, ("user", "rank", "item", "score"), ([x.item() for x in row] for row in rows))


def _baselines(experiment: Experiment, workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of baselines.json; they depend on the data only, so they are computed once."""
    if not experiment.settings["baselines"]:
        return []
    rows = stored_baselines(workdir)
    if rows is None:
        buckets = experiment.clients.buckets or make_buckets(experiment.dataset)
        found = run_baselines(experiment.dataset, buckets)
        rows = json_ready([row._asdict() for row in found])
        write_json(workdir / "baselines.json", rows)
    return rows
