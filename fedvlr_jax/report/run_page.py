"""The page of a finished training run: read back what it left, and write ``report.html``."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

from fedvlr_jax.errors import CheckpointError, ConfigError, RunWarning
from fedvlr_jax.io.files import read_json, write_bytes
from fedvlr_jax.io.writers import read_metrics
from fedvlr_jax.report.run_parts import RunFacts, run_page
from fedvlr_jax.training import job
from fedvlr_jax.training.experiment import Experiment
from fedvlr_jax.training.schedule import RunProgress
from fedvlr_jax.training.stored import stored_baselines, stored_result

PAGE = "report.html"


def write_run_page(
    experiment: Experiment,
    workdir: pathlib.Path,
    done: job.Job | None = None,
) -> pathlib.Path:
    """Writes ``report.html`` of a finished run.

    Args:
      experiment: what was trained on what.
      workdir: of the run.
      done: the run, where it was trained just now; else it is read back.

    Returns:
      The path of the page.

    Raises:
      ConfigError: a workdir without the result of a finished run, or with files that no run wrote.
      CheckpointError: as `job.stored_run`, and for a run that went on after its result and has not ended since.
    """
    result = stored_result(workdir)
    if result is None:
        raise ConfigError(f"{workdir}: expected a finished run with a result.json, found none; train it to its end")
    if done is None or done.trained is None:
        trained = job.stored_run(experiment, workdir)
        _require_of_one_run(workdir, result, trained.progress)
        weights_uj, learned_um = job.weights(experiment, trained), job.planted_preferences(experiment, trained)
    else:
        trained, weights_uj, learned_um = done.trained, done.weights_uj, done.learned_um
    found = RunFacts(
        settings=experiment.settings,
        dataset=experiment.dataset,
        result=result,
        baselines=stored_baselines(workdir) or [],
        environment=read_json(workdir / "environment.json") or {},
        curve=read_metrics(workdir / "metrics.jsonl"),
        ranks=trained.ranks,
        views=experiment.algorithm.views,
        weights_uj=weights_uj,
        learned_um=learned_um,
    )
    write_bytes(workdir / PAGE, run_page(found, workdir.name).encode())
    return workdir / PAGE


def _require_of_one_run(workdir: pathlib.Path, result: Mapping[str, Any], progress: RunProgress) -> None:
    """Refuses a page with the result of fewer rounds than its curves and weights are of."""
    told, done = (result["rounds"], result["best_round"]), (progress.round, progress.best_round)
    if told != done:
        raise CheckpointError(
            f"{workdir}: expected a finished run, found the result of {told[0]} rounds (the best is {told[1]}) "
            f"beside a checkpoint of {done[0]} (the best is {done[1]}); train it to its end"
        )


def write_page_of(done: job.Job, experiment: Experiment, workdir: pathlib.Path) -> None:
    """`write_run_page` after training, where the run is new or has no page of its result; what goes wrong is a
    `RunWarning`."""
    if done.trained is None and _is_newer(workdir / PAGE, workdir / "result.json"):
        return
    try:
        write_run_page(experiment, workdir, done)
    except Exception as error:  # nothing about a page may cost a result
        what = f"{type(error).__name__}: {error}"
        warnings.warn(f"{workdir / PAGE} was not written: {what}", RunWarning, stacklevel=2)


def _is_newer(page: pathlib.Path, result: pathlib.Path) -> bool:
    """Whether a page was written after the result that it is to show; a kill between the two leaves an older one."""
    return page.is_file() and page.stat().st_mtime_ns >= result.stat().st_mtime_ns
