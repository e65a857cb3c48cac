"""The whole check of convergence: runs over a grid, constants, every statement, and exponents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedvlr_jax.errors import ConfigError
from fedvlr_jax.theory.assumptions import outside
from fedvlr_jax.theory.bounds import Bounds, Constants, stability_limit
from fedvlr_jax.theory.exponents import Exponent, over_runs, require_runs
from fedvlr_jax.theory.problem import make_problem
from fedvlr_jax.theory.statements import CheckGrid, StatementRow, check_statements, constants_of, stationarity_of
from fedvlr_jax.theory.trajectories import GridRuns, Sizes, initial_states, run_all
from fedvlr_jax.types import Dataset


class Findings(NamedTuple):
    """What a check found.

    Attributes:
      rows: every statement at every setting.
      exponents: fitted, with what the analysis expects.
      constants: the largest values met on the grid.
      blocks: largest Hessian eigenvalues of the public and the private block alone.
      outside: reasons why the settings are outside the assumptions; empty = inside.
      unstated: settings at which the theorem states nothing, since L grew during the runs until eta > 1 / (L A).
      runs, grid: what was measured.
    """

    rows: list[StatementRow]
    exponents: list[Exponent]
    constants: Constants
    blocks: tuple[float, float]
    outside: list[str]
    unstated: list[str]
    runs: list[GridRuns]
    grid: CheckGrid

    @property
    def holds(self) -> bool:
        """Whether no statement is violated."""
        return all(row.holds for row in self.rows)


def check_convergence(
    settings: Mapping[str, Any],
    dataset: Dataset,
    *,
    bounds: Bounds | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Findings:
    """Runs the grid of ``settings["check"]`` and compares.

    Args:
      settings: the fields of configs/theory/convergence.py.
      dataset: what is trained on.
      bounds: other right-hand sides than those of `bounds.py`, to see a fault found.
      report: takes lines of progress.

    Raises:
      ConfigError: settings that are not analysed, a grid that cannot be fitted, too few seeds for an interval, or a
        rate above the limit 1 / (L A).
    """
    check = settings["check"]
    _require_grid(check, dataset.num_users)
    problem = make_problem(settings, dataset)
    rates = rates_of(check)
    grid = CheckGrid(
        rates, check["cohorts"], check["rounds"], dataset.num_users, max(check["rounds"]) // check["probes"]
    )
    sizes = Sizes(
        max(check["rounds"]), check["probes"], check["draws"], check["curvature_seeds"], check["curvature_clients"]
    )
    l2 = settings["server"]["l2"]

    def require_stable(L: float) -> None:
        limit = stability_limit(max(check["steps"]), L + l2)
        if max(rates) > limit:
            raise ConfigError(
                f"check.rate: expected at most 1 / (L A) = {limit:.4g} with L = {L + l2:.4g} measured and A = "
                f"{max(check['steps'])}, found {max(rates):g}"
            )

    states = initial_states(problem, check["seeds"])
    runs = run_all(problem, states, rates, check["steps"], check["cohorts"], sizes, require_stable, report)
    constants = constants_of(runs, l2)
    rows = check_statements(runs, grid, constants, bounds or Bounds())
    blocks = tuple(float(max(getattr(run.curvature, name).max() for run in runs)) for name in ("public", "private"))
    unstated = [
        f"A = {steps}, eta = {eta:g}"
        for steps in check["steps"]
        for eta in rates
        if eta > stability_limit(steps, constants.L)
    ]
    return Findings(rows, fit_exponents(runs, grid), constants, blocks, outside(settings), unstated, runs, grid)


def rates_of(check: Mapping[str, Any]) -> list[float]:
    """One rate for each T: ``rate`` at the shortest, then in proportion to 1 / sqrt(T)."""
    return [check["rate"] * float(np.sqrt(min(check["rounds"]) / rounds)) for rounds in check["rounds"]]


def fit_exponents(runs: Sequence[GridRuns], grid: CheckGrid) -> list[Exponent]:
    """Drift, bias, sampling variance and stationarity against what they grow with; intervals over seeds."""
    longest = max(runs, key=lambda run: run.steps)
    drift_era = longest.probe.drift_au[:, :, 0, 0].mean(axis=-1)  # before round 0 all rates start at the same state
    steps_a = np.arange(1, longest.steps + 1)
    found = [
        over_runs(f"drift against a = 1..{longest.steps}", (2, 2), steps_a, drift_era[:, 0]),
        over_runs("drift against eta", (2, 2), np.asarray(grid.rates), drift_era[:, :, -1]),
        over_runs("bias against eta", (2, 2), np.asarray(grid.rates), longest.probe.bias_u[:, :, 0, 0].mean(axis=-1)),
    ]
    sampled = [m for m, cohort in enumerate(grid.cohorts) if cohort < grid.num_clients]
    cohort_m, n = np.asarray(grid.cohorts)[sampled], grid.num_clients
    if len(sampled) > 1:
        # Relative to the dissimilarity of the same state: how far clients have moved depends on n_s as well.
        shares = [run.probe.sampling[:, :, sampled] / run.probe.dissimilarity[:, :, sampled] for run in runs]
        corrected_em = np.mean(shares, axis=(0, 2, 4)) * (n - 1) / (n - cohort_m)
        name = "sampling variance over zeta^2, times (n-1)/(n-n_s), against n_s"
        found.append(over_runs(name, (-1, -1), cohort_m, corrected_em))
    for run in runs:
        for m, cohort in enumerate(grid.cohorts):
            mean_et = np.stack(
                [
                    stationarity_of(run, r, m, cohort / n)[:, :rounds].mean(axis=1)
                    for r, rounds in enumerate(grid.rounds)
                ],
                axis=1,
            )
            name = f"stationarity against T at eta ~ 1/sqrt(T), A = {run.steps}, n_s = {cohort}"
            found.append(over_runs(name, (-0.5, -0.5), np.asarray(grid.rounds), mean_et))
    return found


def _require_grid(check: Mapping[str, Any], num_clients: int) -> None:
    """ConfigError for sizes that cannot be run, or from which nothing can be concluded."""
    for name in ("steps", "cohorts", "rounds"):
        values = check[name]
        if len(set(values)) < 2:
            raise ConfigError(
                f"check.{name}: a grid of one point cannot be fitted: expected two values, found {values}"
            )
        if list(values) != sorted(set(values)) or values[0] < 1:
            raise ConfigError(f"check.{name}: expected ascending numbers from 1 on, found {values}")
    if check["cohorts"][-1] > num_clients:
        raise ConfigError(
            f"check.cohorts: expected at most {num_clients}, the number of clients, found {check['cohorts'][-1]}"
        )
    if not check["rate"] > 0:
        raise ConfigError(f"check.rate: expected a positive rate, found {check['rate']}")
    if check["probes"] < 1 or check["rounds"][-1] % check["probes"]:
        raise ConfigError(
            f"check.probes: expected a divisor of the {check['rounds'][-1]} rounds of the longest run, "
            f"found {check['probes']}"
        )
    if not 1 <= check["curvature_seeds"] <= check["seeds"]:
        raise ConfigError(f"check.curvature_seeds: expected 1 to {check['seeds']}, found {check['curvature_seeds']}")
    require_runs(check["seeds"])
