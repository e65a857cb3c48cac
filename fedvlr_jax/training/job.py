"""The main job: one training run in one workdir, from its settings to its result."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.agreed import Prior, ScoreViews
from fedvlr_jax.baselines import run_baselines
from fedvlr_jax.data import load_configured
from fedvlr_jax.data.buckets import make_buckets
from fedvlr_jax.data.ids import user_numbers
from fedvlr_jax.errors import ConfigError, RunWarning
from fedvlr_jax.evaluation.list_metrics import summarise_lists
from fedvlr_jax.inference.lists import judge_lists
from fedvlr_jax.inference.preferences import learned_preferences, router_weights
from fedvlr_jax.inference.recommend import recommend, recommended_rows
from fedvlr_jax.io.checkpoint import Checkpoints, delete_folder
from fedvlr_jax.io.environment import describe_environment, write_environment
from fedvlr_jax.io.files import json_ready, read_arrays, write_arrays, write_json, write_rows
from fedvlr_jax.io.interrupt import Interrupt
from fedvlr_jax.io.trackers import Trackers
from fedvlr_jax.training.experiment import Experiment, make_experiment
from fedvlr_jax.training.loop import OnProgress, Trained, rank_best, require_own, restore_best, train
from fedvlr_jax.training.results import make_result, rank_arrays, ranks_of
from fedvlr_jax.training.schedule import make_plan, read_progress
from fedvlr_jax.training.score_views import chosen_line, describe_views
from fedvlr_jax.training.stored import stored_baselines, stored_result, stored_settings

OUTPUTS = (
    "config.json",
    "environment.json",
    "metrics.jsonl",
    "metrics.csv",
    "wandb-run.json",
    "mlflow-run.json",
    "result.json",
    "baselines.json",
    "ranks.npz",
    "recommendations.csv",
    "recommendations.jsonl",
    "report.html",
    "new_users.csv",
    "new_users.jsonl",
    "explain.json",
    "explain.html",
)


class Job(NamedTuple):
    """A job that is done.

    Attributes:
      result: the content of result.json.
      baselines: the rows of baselines.json, [] without.
      trained: the run, or None where it was finished before, so that nothing was restored.
      learned_um: float32 [u, 3], `preferences` of a run that was not finished before, where the data set has planted
        ones; else None.
      weights_uj: float32 [u, j], `weights` of a run that was not finished before, where it has a router; else None.
    """

    result: dict[str, Any]
    baselines: list[dict[str, Any]]
    trained: Trained | None
    learned_um: np.ndarray | None
    weights_uj: np.ndarray | None


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
      UserError, Interrupted: as `loop.train` and `io.trackers.require_writers`.
    """
    result, trained, learned_um, weights_uj = finished_result(experiment, workdir), None, None, None
    if result is None:
        write_json(workdir / "config.json", experiment.settings)
        write_environment(workdir, describe_environment(command, workdir))
        if note is not None and experiment.clients.prior is not None:
            note(_agreed_line(experiment.clients.prior))
        with Trackers(experiment.settings["writers"], workdir, experiment.settings) as trackers:
            trained = train(
                experiment, workdir, interrupt=interrupt, on_progress=on_progress, note=note, trackers=trackers
            )
            learned_um, weights_uj = planted_preferences(experiment, trained), weights(experiment, trained)
            result = _result(experiment, trained, learned_um)
            write_arrays(workdir / "ranks.npz", rank_arrays(trained.ranks))
            by_view = {} if weights_uj is None else dict(zip(experiment.algorithm.views, weights_uj.T, strict=True))
            trackers.finish(result["rounds"], result["test"], by_view)
            write_json(workdir / "result.json", result)
    asked = experiment.settings["rounds"]
    if result["rounds"] > asked:
        message = (
            f"{workdir}: the run has {result['rounds']} rounds, more than the {asked} asked for, and this is its "
        )
        warnings.warn(f"{message}result; another --workdir trains {asked}", RunWarning, stacklevel=2)
    return Job(result, _stored_baselines(experiment, workdir), trained, learned_um, weights_uj)


def evaluate_job(
    experiment: Experiment,
    workdir: pathlib.Path,
    *,
    num_best: int = 0,
    format: str = "csv",
    users: Sequence[Any] | None = None,
    lists: bool = False,
) -> dict[str, Any]:
    """The result of the best checkpoint of a workdir, computed again; nothing is trained.

    Args:
      experiment: what was trained on what.
      workdir: where.
      num_best: write every user's so many best items to recommendations.csv or .jsonl; 0 = none, nothing is written.
      format: one of `io.files.ROW_FORMATS`.
      users: ids of the users to write items for, as text or as the data set has them; None for all.
      lists: judge whole lists too, whatever the settings say.

    Raises:
      DataError: a user that the data set does not have.
    """
    numbers = None if users is None else user_numbers(experiment.dataset, users)
    trained = rank_best(experiment, workdir)
    if num_best:
        rows = recommendations(experiment, trained, k=num_best, users=numbers, titles=True)
        write_rows(workdir / f"recommendations.{format}", rows, format)
    return result_of(experiment, trained, lists=lists)


def delete_run(workdir: pathlib.Path) -> None:
    """Delete what an earlier run left in a workdir (the files this program writes, nothing else)."""
    found = [path for pattern in ("events.out.tfevents.*", "environment-*.json") for path in workdir.glob(pattern)]
    for path in [*(workdir / name for name in OUTPUTS), *found]:
        path.unlink(missing_ok=True)
    for name in ("checkpoints", "store", "wandb", "mlruns"):
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
    is_current = is_current and ("lists" in result or not experiment.settings["eval"]["lists"])
    return result if is_current and progress.is_finished(make_plan(experiment.settings)) else None


def stored_run(experiment: Experiment, workdir: pathlib.Path) -> Trained:
    """A finished run with the state of its best round, from its checkpoint and ``ranks.npz``; nothing is ranked.

    ``ranks`` does not say whose scores are constant or not finite, which the files do not have by user.

    Raises:
      CheckpointError: as `loop.rank_best`, and for a workdir without ``ranks.npz``.
    """
    arrays = read_arrays(workdir / "ranks.npz")
    of_users = {name: np.zeros(experiment.dataset.ranked.num_users, np.int32) for name in ("constant", "nonfinite")}
    backend, best, progress = restore_best(experiment, workdir)
    return Trained(progress, best, ranks_of(arrays | of_users), lambda: backend.parts(best))


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
    dataset = load_configured(settings["data"], settings["seed"], leaves_users_out=True)
    return make_experiment(settings, dataset)


def result_of(experiment: Experiment, trained: Trained, *, lists: bool = False) -> dict[str, Any]:
    """The content of result.json; with `lists`, or where the settings say so, whole lists are judged too."""
    return _result(experiment, trained, planted_preferences(experiment, trained), lists=lists)


def planted_preferences(experiment: Experiment, trained: Trained) -> np.ndarray | None:
    """`preferences` where the data set has planted ones to compare them with, else None."""
    return None if experiment.dataset.planted is None else preferences(experiment, trained)


def weights(experiment: Experiment, trained: Trained) -> np.ndarray | None:
    """`inference.preferences.router_weights` of a run, float32 [u, j], None without a router."""
    _, dataset, clients, algorithm = experiment
    return router_weights(algorithm, trained.parts(), clients.content, dataset.num_users)


def _result(
    experiment: Experiment, trained: Trained, learned_um: np.ndarray | None, *, lists: bool = False
) -> dict[str, Any]:
    settings, dataset, clients, algorithm = experiment
    judged = lists_of(experiment, trained) if lists or settings["eval"]["lists"] else None
    cost, progress = algorithm.cost, trained.progress
    result = make_result(settings, dataset, cost, progress, trained.ranks, learned_um, judged)
    if isinstance(clients.prior, ScoreViews):
        result["score_views"] = describe_views(algorithm, trained.state.public.params, clients.prior)
    elif clients.prior is not None:
        result["prior"] = _formed_with(clients.prior)
    return json_ready(result)


def _formed_with(prior: Prior) -> dict[str, float]:
    return {name: float(f"{float(x):.6g}") for name, x in prior.choice.items()}


def _agreed_line(agreed: Prior | ScoreViews) -> str:
    """What a run agreed on before its first round, in one line."""
    if isinstance(agreed, ScoreViews):
        return chosen_line(agreed)
    return "prior with " + ", ".join(f"{name} {x:g}" for name, x in _formed_with(agreed).items())


def lists_of(experiment: Experiment, trained: Trained) -> dict[str, Any]:
    """`evaluation.list_metrics.summarise_lists` of a run whose users are trained.

    Raises:
      ConfigError: users are left out.
    """
    settings, dataset, clients, algorithm = experiment
    if dataset.newcomers is not None:
        raise ConfigError("--lists: whole lists of users who are left out are not judged (data.split users)")
    lists = judge_lists(algorithm, trained.parts(), clients, dataset, chunk=settings["eval"]["chunk"])
    return summarise_lists(lists, dataset)


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
    ranked = experiment.clients.newcomers or experiment.clients
    buckets = ranked.buckets or make_buckets(experiment.dataset)
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
