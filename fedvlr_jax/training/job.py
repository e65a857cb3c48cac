"""The main job: one training run in one workdir, from its settings to its result."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.baselines import run_baselines
from fedvlr_jax.data import load_configured
from fedvlr_jax.data.buckets import make_buckets
from fedvlr_jax.errors import CheckpointError, ConfigError, RunWarning
from fedvlr_jax.inference.preferences import learned_preferences
from fedvlr_jax.inference.recommend import recommend, recommended_rows
from fedvlr_jax.io.checkpoint import Checkpoints, delete_folder
from fedvlr_jax.io.environment import describe_environment, write_environment
from fedvlr_jax.io.files import json_ready, read_json, write_arrays, write_json, write_rows
from fedvlr_jax.io.interrupt import Interrupt
from fedvlr_jax.settings import check_settings, upgrade
from fedvlr_jax.training.experiment import Experiment, make_experiment
from fedvlr_jax.training.loop import OnProgress, Trained, rank_best, require_own, train
from fedvlr_jax.training.results import make_result, rank_arrays
from fedvlr_jax.training.schedule import make_plan, read_progress
from fedvlr_jax.training.score_views import chosen_line, describe_views
from fedvlr_jax.training.stored import stored_baselines, stored_result
from fedvlr_jax.types import ScoreViews

OUTPUTS = (
    "config.json",
    "environment.json",
    "metrics.jsonl",
    "result.json",
    "baselines.json",
    "ranks.npz",
    "recommendations.csv",
    "recommendations.jsonl",
)


class Job(NamedTuple):
    """A job that is done.

    Attributes:
      result: the content of result.json.
      baselines: the rows of baselines.json, [] without.
      trained: the run, or None where it was finished before, so that nothing was restored.
    """

    result: dict[str, Any]
    baselines: list[dict[str, Any]]
    trained: Trained | None


def run_job(
    experiment: Experiment,
    workdir: pathlib.Path,
    *,
    command: Sequence[str],
    interrupt: Interrupt | None = None,
    on_progress: OnProgress | None = None,
    note: Callable[[str], Any] | None = None,
) -> Job:
    """Train (or go on, or find everything done) and write all files of a run.

    Args:
      experiment: what to train on what.
      workdir: a writable folder.
      command: the command line, for environment.json.
      interrupt, on_progress, note: as `loop.train`.

    Raises:
      UserError, Interrupted: as `loop.train`.
    """
    result, trained = finished_result(experiment, workdir), None
    if result is None:
        write_json(workdir / "config.json", experiment.settings)
        write_environment(workdir, describe_environment(command, workdir))
        if note is not None and isinstance(experiment.clients.prior, ScoreViews):
            note(chosen_line(experiment.clients.prior))
        trained = train(experiment, workdir, interrupt=interrupt, on_progress=on_progress, note=note)
        result = result_of(experiment, trained)
        write_arrays(workdir / "ranks.npz", rank_arrays(trained.ranks))
        write_json(workdir / "result.json", result)
    asked = experiment.settings["rounds"]
    if result["rounds"] > asked:
        message = (
            f"{workdir}: the run has {result['rounds']} rounds, more than the {asked} asked for, and this is its "
        )
        warnings.warn(f"{message}result; another --workdir trains {asked}", RunWarning, stacklevel=2)
    return Job(result, _stored_baselines(experiment, workdir), trained)


def evaluate_job(
    experiment: Experiment, workdir: pathlib.Path, *, num_best: int = 0, format: str = "csv"
) -> dict[str, Any]:
    """The result of the best checkpoint of a workdir, computed again; nothing is trained.

    Args:
      experiment: what was trained on what.
      workdir: where.
      num_best: write every user's so many best items to recommendations.csv or .jsonl; 0 = none, nothing is written.
      format: one of `io.files.ROW_FORMATS`.
    """
    trained = rank_best(experiment, workdir)
    if num_best:
        rows = recommendations(experiment, trained, k=num_best, titles=True)
        write_rows(workdir / f"recommendations.{format}", rows, format)
    return result_of(experiment, trained)


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


def stored_experiment(workdir: pathlib.Path, data_dir: str | None = None) -> Experiment:
    """What a run trained on what, loaded again.

    Args:
      workdir: of the run.
      data_dir: where the data are now, if not where the settings of the run say.

    Raises:
      CheckpointError, ConfigError: as `stored_settings`.
      DataError: the data set cannot be loaded.
    """
    settings = stored_settings(workdir)
    if data_dir is not None:
        settings["data"]["dir"] = data_dir
    return make_experiment(settings, load_configured(settings["data"], settings["seed"]))


def result_of(experiment: Experiment, trained: Trained) -> dict[str, Any]:
    """The content of result.json."""
    settings, dataset, clients, algorithm = experiment
    learned_um = None if dataset.planted is None else preferences(experiment, trained)
    result = make_result(settings, dataset, algorithm.cost, trained.progress, trained.ranks, learned_um)
    if isinstance(clients.prior, ScoreViews):
        result["score_views"] = describe_views(algorithm, trained.state.public.params, clients.prior)
    return json_ready(result)


def recommendations(experiment: Experiment, trained: Trained, **options: Any) -> np.ndarray:
    """`inference.recommend.recommended_rows` of a run, with its `options` k, users, exclude and titles."""
    settings, dataset, clients, algorithm = experiment
    return recommended_rows(algorithm, trained.parts(), clients, dataset, chunk=settings["eval"]["chunk"], **options)


def best_items(experiment: Experiment, trained: Trained, k: int) -> tuple[np.ndarray, np.ndarray]:
    """`inference.recommend.recommend` of a run: items int32 and scores float32 [u, k]."""
    settings, dataset, clients, algorithm = experiment
    sizes = {"num_users": dataset.num_users, "num_items": dataset.num_items, "chunk": settings["eval"]["chunk"]}
    return recommend(algorithm, trained.parts(), clients, k=k, **sizes)


def preferences(experiment: Experiment, trained: Trained) -> np.ndarray:
    """`inference.preferences.learned_preferences` of a run, float32 [u, 3]."""
    _, dataset, clients, algorithm = experiment
    return learned_preferences(algorithm, trained.parts(), clients, dataset.num_users)


def baselines_of(experiment: Experiment) -> list[dict[str, Any]]:
    """The rows of baselines.json; they depend on the data only."""
    buckets = experiment.clients.buckets or make_buckets(experiment.dataset)
    return json_ready([row._asdict() for row in run_baselines(experiment.dataset, buckets)])


def _stored_baselines(experiment: Experiment, workdir: pathlib.Path) -> list[dict[str, Any]]:
    """The rows of baselines.json, computed once; none where the settings want none."""
    if not experiment.settings["baselines"]:
        return []
    rows = stored_baselines(workdir)
    if rows is None:
        rows = baselines_of(experiment)
        write_json(workdir / "baselines.json", rows)
    return rows
