"""What ``import fedvlr_jax`` gives: load, fit, train, evaluate, recommend. The commands use the same objects."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedvlr_jax.data import load_configured
from fedvlr_jax.data.ids import user_numbers
from fedvlr_jax.errors import ConfigError, DataError
from fedvlr_jax.io.files import prepare_workdir, write_rows
from fedvlr_jax.io.lock import own
from fedvlr_jax.report.run_page import write_page_of
from fedvlr_jax.settings import check_settings, default_settings, override
from fedvlr_jax.training import job
from fedvlr_jax.training.experiment import Experiment, make_experiment
from fedvlr_jax.training.loop import OnProgress, Trained, rank_best, train_in_memory
from fedvlr_jax.training.stored import stored_baselines, stored_settings
from fedvlr_jax.types import Dataset, PyTree

Path = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True, repr=False)
class Fitted:
    """A trained model, at the round that validation chose.

    Attributes:
      experiment: what was trained on what: settings, data set, histories and features, and the algorithm.
      trained: progress, state and ranks of the best round; ``trained.parts()`` yields all clients' private states.
      metrics: the content of result.json; ``metrics["test"]["NDCG@50"]`` is a fraction in [0, 1].
      baselines: the rows of baselines.json, [] where none were asked for.
    """

    experiment: Experiment
    trained: Trained
    metrics: dict[str, Any]
    baselines: list[dict[str, Any]]

    @property
    def dataset(self) -> Dataset:
        """What it was trained on."""
        return self.experiment.dataset

    @property
    def settings(self) -> Mapping[str, Any]:
        """All settings, nested."""
        return self.experiment.settings

    @property
    def state(self) -> PyTree:
        """The `FedState` of the best round; private states that are in a store are not part of it."""
        return self.trained.state

    def __repr__(self) -> str:
        result = self.metrics
        test = result["test"]["NDCG@50"]
        return (
            f"<Fitted {result['host']} + {result['variant']} on {result['dataset']}, round {result['best_round']} of "
            f"{result['rounds']}, test NDCG@50 {'-' if test is None else f'{100 * test:.2f} %'}>"
        )


def load_dataset(
    name: str = "synthetic",
    root: Path | None = None,
    *,
    source: str = "folder",
    features: str = "real",
    synthetic: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Dataset:
    """A data set by its name.

    >>> dataset = load_dataset("synthetic", synthetic={"num_users": 20, "num_interactions": 200})
    >>> dataset.num_users, dataset.num_items
    (20, 560)

    Args:
      name: "synthetic" for the generated set, which needs no files, else a canonical folder below `root`.
      root: the folder that holds the data sets; by default the environment variable FEDVLR_DATA, else ``./data``.
      source: "folder", or "tfds" for a prepared tensorflow-datasets copy, which is made on first use.
      features: "real", or a control: "shuffled" permutes the rows, "random" draws others of the same shape.
      synthetic: changes of the settings ``data.synthetic``.
      seed: of the control.

    Raises:
      DataError, ConfigError: naming the file or the argument, the rule, and what was found.
    """
    asked = {"name": name, "dir": os.fspath(root or ""), "source": source, "features": features}
    settings = override(default_settings(), {"data": {**asked, "synthetic": synthetic or {}}})
    return load_configured(settings["data"], seed)


def fit(
    dataset: Dataset,
    overrides: Mapping[str, Any] | None = None,
    *,
    on_progress: OnProgress | None = None,
    baselines: bool = False,
) -> Fitted:
    """Train one federated recommender in memory: nothing is written, and a run that ends early cannot go on.

    It runs the loop of the command `fedvlr-train`, and gives its numbers to the bit.

    >>> dataset = load_dataset("synthetic", synthetic={"num_users": 20, "num_interactions": 200})
    >>> fitted = fit(dataset, {"host.name": "fcf", "variant": "base", "rounds": 4, "eval": {"every": 2}})
    >>> fitted
    <Fitted fcf + base on synthetic, round ... of 4, test NDCG@50 ... %>

    Args:
      dataset: of `load_dataset`, `from_arrays` or `from_frame`.
      overrides: changes of `default_settings`, by dotted name or nested. ``data.*`` says where a set comes from, and
        loads nothing here.
      on_progress: called with a `ProgressEvent` after every evaluation (`print` shows it as one line). The run ends
        there if it returns False, as if its rounds were used up; nothing else that it returns counts.
      baselines: also fit the simple baselines that the command prints under a result.

    Raises:
      ConfigError: a setting that does not exist, is out of range or contradicts the data or another setting.
      TrainingError: if every client of a round diverged, or memory ran out.
    """
    experiment = make_experiment(_settings(dataset, overrides, baselines), _anew(dataset))
    trained = train_in_memory(experiment, on_progress=on_progress)
    rows = job.baselines_of(experiment) if experiment.settings["baselines"] else []
    return Fitted(experiment, trained, job.result_of(experiment, trained), rows)


def train(
    dataset: Dataset,
    overrides: Mapping[str, Any] | None,
    workdir: Path,
    *,
    resume: bool = True,
    on_progress: OnProgress | None = None,
    baselines: bool = False,
) -> Fitted:
    """Train one federated recommender in a workdir, as the command `fedvlr-train`: same files, same bits.

    A run that was stopped goes on when it is trained again, and a finished run is only restored. ``on_progress`` that
    returns False stops a run for now: it has a result up to there, and goes on when it is trained again.

    Args:
      dataset, overrides, on_progress, baselines: as `fit`.
      workdir: a folder, made if need be.
      resume: False deletes what an earlier run left there.

    Raises:
      CheckpointError: if the workdir holds a run with other settings or data, or cannot be written.
      ConfigError, TrainingError: as `fit`.
    """
    experiment = make_experiment(_settings(dataset, overrides, baselines), _anew(dataset))
    folder = prepare_workdir(pathlib.Path(workdir))
    with own(folder):
        if not resume:
            job.delete_run(folder)
        done = job.run_job(experiment, folder, command=sys.argv, on_progress=on_progress)
        write_page_of(done, experiment, folder)
    return Fitted(experiment, done.trained or rank_best(experiment, folder), done.result, done.baselines)


def restore(workdir: Path, dataset: Dataset | None = None) -> Fitted:
    """The best checkpoint of a workdir, and its metrics computed again; nothing is trained or written.

    Args:
      workdir: of `train` or of the command `fedvlr-train`; the run need not be finished.
      dataset: what it was trained on; by default the set that its config.json names. One from arrays or a frame has
        no name that could be loaded.

    Raises:
      CheckpointError: if there is no checkpoint, or it belongs to other data.
      DataError: if the data set cannot be loaded.
    """
    folder = pathlib.Path(workdir)
    settings = stored_settings(folder)
    if dataset is None:
        try:
            dataset = load_configured(settings["data"], settings["seed"], leaves_users_out=True)
        except DataError as error:
            raise DataError(f"{error}\nor give the data set itself, as dataset=") from error
    return restored(make_experiment(settings, _anew(dataset)), folder)


def restored(experiment: Experiment, workdir: pathlib.Path) -> Fitted:
    """`restore` of an experiment that is made already, as `training.job.stored_experiment` makes it."""
    trained = rank_best(experiment, workdir)
    return Fitted(experiment, trained, job.result_of(experiment, trained), stored_baselines(workdir) or [])


def evaluate(workdir: Path, dataset: Dataset | None = None) -> dict[str, Any]:
    """The metrics of a workdir, computed again from its best checkpoint: the content of result.json.

    Args:
      workdir, dataset: as `restore`.

    Raises:
      CheckpointError, DataError: as `restore`.
    """
    return restore(workdir, dataset).metrics


def recommend(
    fitted: Fitted,
    k: int = 10,
    users: Sequence[Any] | np.ndarray | None = None,
    *,
    exclude: str = "train",
    titles: bool = False,
) -> np.ndarray:
    """The best items of each user that are not in the train history.

    >>> rows = recommend(fitted, k=2, users=[3, 0])
    >>> rows["user"].tolist(), rows["rank"].tolist()
    ([0, 0, 3, 3], [1, 2, 1, 2])
    >>> user, rank, item, score = rows[0]

    Args:
      fitted: of `fit`, `train` or `restore`.
      k: items for each user, fewer where there are not so many.
      users: ids of the users, None for all. One call for many users is much faster than many calls.
      exclude: "train"; "seen" leaves out validation and test items too, as one would for users who have them already.
      titles: add a field title, where the data set has titles; `write_recommendations` writes it as well.

    Returns:
      A structured array, one row for each recommendation, with the fields user, rank (from 1), item and score; users
      and items in the ids of `Dataset.user_ids` and `Dataset.item_ids` where there are some. Users come in the order
      of their numbers in the data set, their best items first.

    Raises:
      DataError: a user that the data set does not have, with the ids nearest to it.
      ConfigError: a `k` below 1, or an unknown `exclude`.
    """
    numbers = None if users is None else user_numbers(fitted.dataset, users)
    return job.recommendations(fitted.experiment, fitted.trained, k=k, users=numbers, exclude=exclude, titles=titles)


def write_recommendations(rows: np.ndarray, path: Path, format: str = "csv") -> None:
    """Write what `recommend` gave, in one step.

    Args:
      rows: of `recommend`.
      path: of the file, in a folder that is there.
      format: "csv" with a header, or "jsonl": a JSON object a line.

    Raises:
      ConfigError: an unknown format.
    """
    write_rows(pathlib.Path(path), rows, format)


def preferences(fitted: Fitted) -> np.ndarray:
    """Each user's learned preference for item identity, looks and words, as shares.

    With the operators ``id,visual,text`` it is the router's weight. With others it is the drop of the user's score
    margin (own train items against all others) when a modality is replaced by its mean over items, as a share of the
    drops of all three.

    >>> preferences(fitted).shape == (fitted.dataset.num_users, 3)
    True

    Returns:
      float32 [u, 3], in the order of `MODALITIES`; 0 for a modality that the data or the model lacks, and for item
      identity where it is in item tables of the host's own (fedncf) in place of D.
    """
    return job.preferences(fitted.experiment, fitted.trained)


def _anew(dataset: Dataset) -> Dataset:
    """A data set to train on: of what an earlier run had chosen for it nothing is left."""
    return dataset if dataset.fewer_items is None else dataclasses.replace(dataset, fewer_items=None)


def _settings(dataset: Dataset, overrides: Mapping[str, Any] | None, baselines: bool) -> dict[str, Any]:
    """The checked settings of a run on a data set that is loaded."""
    settings = override(override(default_settings(), {"baselines": baselines}), overrides or {})
    settings = override(settings, {"data.name": dataset.name})
    for field, plain, way in (("features", "real", "load_dataset(features=)"), ("split", "rows", "leave_users_out")):
        if (found := settings["data"][field]) != plain:
            raise ConfigError(
                f"data.{field}: expected {plain}, since a data set at hand is used as it is; found {found!r}, which "
                f"{way} loads"
            )
    if settings["dry_run"]:
        raise ConfigError(
            "dry_run: expected False outside of the command line; make_algorithm(...).cost has the sizes"
        )
    check_settings(settings)
    return settings
