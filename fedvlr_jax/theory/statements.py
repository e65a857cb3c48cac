"""The statements of docs/theory.md against measurements: measured value, bound and verdict for every run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy

from fedvlr_jax.theory.bounds import Bounds, Constants, stability_limit
from fedvlr_jax.theory.trajectories import GridRuns

ROUNDING = 1e-4  # relative: float32 sums on both sides
SHARE_ROUNDING = 1e-6  # of a sampling variance relative to zeta^2
LEVEL = 1e-5  # of the tests where both sides are expectations that are estimated over seeds

DRIFT, BIAS, MIXED = "Lemma 1, drift", "Lemma 2, bias", "Lemma 2, bias, mixed constant"
LOCAL = "Lemma 2, bias, constants of the state"
MOMENT = "Lemma 3, second moment"
SAMPLING, THEOREM, TELESCOPED = "sampling variance", "Theorem 1", "Theorem 1, measured gap"
STATEMENTS = {
    DRIFT: "E||p^a - p^0||^2 <= a^2 eta^2 G^2",
    BIAS: "||mean gradient of a round - gradient at its start||^2 <= L^2 eta^2 G^2 (A-1)(2A-1)/6",
    MIXED: "the same with the Lipschitz constant of the public gradient in p alone instead of L",
    LOCAL: "the same with that constant, and G^2, as they are on the round's own steps instead of the whole grid",
    MOMENT: "E||aggregate / A||^2 <= (sqrt(||grad J||^2 + f zeta^2 + sigma^2/(n_s A)) + sqrt(bias))^2",
    SAMPLING: "E||mean of the cohort - mean of all||^2 = f zeta^2, f = (n - n_s) / (n_s (n - 1))",
    THEOREM: "(1/T) sum_t E[M_t] <= bound, with J >= 0",
    TELESCOPED: "the same with the measured J(0) - E J(T) instead of J(0) - inf J",
}


class CheckGrid(NamedTuple):
    """What was run: rates eta [r], cohort sizes n_s [m], lengths T to report, n, and the rounds between probes."""

    rates: Sequence[float]
    cohorts: Sequence[int]
    rounds: Sequence[int]
    num_clients: int
    stride: int


class StatementRow(NamedTuple):
    """One statement at one setting.

    Attributes:
      statement: a key of `STATEMENTS`.
      steps, eta, cohort: A, eta, n_s.
      rounds: T for the theorem, else the number of rounds before the state where the bound is tightest.
      measured, bound: both sides there.
      ratio: bound / measured, the median over the probed states (and local steps).
      holds: verdict over all of them.
    """

    statement: str
    steps: int
    eta: float
    cohort: int
    rounds: int
    measured: float
    bound: float
    ratio: float
    holds: bool


def constants_of(runs: Sequence[GridRuns], l2: float) -> Constants:
    """The constants of the assumptions: the largest values on the grid. `l2` is the server's L2 weight."""
    largest = {
        "L_mixed": max(run.probe.quotient.max() for run in runs),
        "L": max(max(run.curvature.joint.max(), run.probe.quotient.max()) for run in runs) + l2,
        "G2": max(run.probe.moment_au.mean(axis=-1).max() for run in runs),
        "sigma2": max(run.probe.noise.max() for run in runs),
        "zeta2": max(run.probe.dissimilarity.max() for run in runs),
    }
    return Constants(**{name: float(value) for name, value in largest.items()})


def check_statements(runs: Sequence[GridRuns], grid: CheckGrid, c: Constants, bounds: Bounds) -> list[StatementRow]:
    """Every statement at every A, eta, n_s (and T); the theorem only where eta <= 1 / (L A)."""
    return [
        row
        for run in runs
        for r, eta in enumerate(grid.rates)
        for m, cohort in enumerate(grid.cohorts)
        for row in _rows(run, r, float(eta), m, int(cohort), grid, c, bounds)
    ]


def _rows(
    run: GridRuns, r: int, eta: float, m: int, cohort: int, grid: CheckGrid, c: Constants, bounds: Bounds
) -> Iterator[StatementRow]:
    probe, steps, n = type(run.probe)(*(x[:, r, m] for x in run.probe)), run.steps, grid.num_clients
    setting = (steps, eta, cohort)
    drift_ka = probe.drift_au.mean(axis=(0, 3))
    allowed_a = np.array([bounds.drift(eta, a, c) for a in range(1, steps + 1)])
    yield _worst(DRIFT, setting, grid, drift_ka, np.broadcast_to(allowed_a, drift_ka.shape))
    bias_k = probe.bias_u.mean(axis=(0, 2))
    if steps > 1:
        for statement, bound in ((BIAS, bounds.bias), (MIXED, bounds.mixed_bias)):
            yield _worst(statement, setting, grid, bias_k, np.full_like(bias_k, bound(eta, steps, c)))
        local = c._replace(L_mixed=probe.quotient.T, G2=probe.moment_au.mean(axis=-1).max(axis=-1).T)
        bias_ke = probe.bias_u.mean(axis=-1).T
        yield _worst(LOCAL, setting, grid, bias_ke, bounds.mixed_bias(eta, steps, local))
    moment_ek = bounds.second_moment(eta, steps, n, cohort, c, probe.gradient2, bounds.sampling_factor)
    yield _worst(
        MOMENT, setting, grid, probe.aggregate2.mean(axis=0), moment_ek.mean(axis=0), probe.aggregate2 - moment_ek
    )
    yield _sampling(probe, setting, grid, bounds)
    if eta <= stability_limit(steps, c.L):
        yield from _theorem(run, r, eta, m, cohort, grid, c, bounds)


def _worst(
    statement: str,
    setting: tuple[int, float, int],
    grid: CheckGrid,
    measured_k: np.ndarray,
    bound_k: np.ndarray,
    excess_ek: np.ndarray | None = None,
) -> StatementRow:
    """The row of a bound over probed rounds (leading axis); with `excess_ek` an excess must be significant.

    A side that is no finite number, as of a run that diverged, is a violation: nothing is below it.
    """
    with np.errstate(invalid="ignore"):
        worst = np.unravel_index(np.argmax(measured_k / bound_k), measured_k.shape)
        ratio = float(np.median(bound_k / np.where(measured_k > 0, measured_k, np.nan)))
    finite_k = np.isfinite(measured_k) & np.isfinite(bound_k)
    above_k = measured_k > bound_k * (1 + ROUNDING)
    if excess_ek is not None:
        above_k &= excess_ek.mean(axis=0) > margin(excess_ek)
    above_k |= ~finite_k
    rounds = int(worst[0]) * grid.stride
    return StatementRow(
        statement, *setting, rounds, float(measured_k[worst]), float(bound_k[worst]), ratio, not above_k.any()
    )


def margin(sample_e: np.ndarray) -> np.ndarray:
    """How far the mean over seeds (leading axis) may be from its expectation, at `LEVEL`."""
    count = len(sample_e)
    return scipy.stats.t.ppf(1 - LEVEL / 2, count - 1) * sample_e.std(axis=0, ddof=1) / np.sqrt(count)


def _sampling(probe, setting: tuple[int, float, int], grid: CheckGrid, bounds: Bounds) -> StatementRow:
    """An equality: the sampling variance of a state over its zeta^2 has the mean f.

    Divided by zeta^2, states of different seeds are alike, so that a few seeds suffice; with all clients in the
    cohort nothing is left to chance, and the share is 0.
    """
    factor = bounds.sampling_factor(grid.num_clients, setting[2])
    share_e = (probe.sampling / probe.dissimilarity).mean(axis=1)
    holds = abs(share_e.mean() - factor) <= margin(share_e) + SHARE_ROUNDING
    measured, expected = float(probe.sampling.mean()), float(factor * probe.dissimilarity.mean())
    ratio = expected / measured if share_e.mean() > SHARE_ROUNDING else float("nan")
    return StatementRow(SAMPLING, *setting, 0, measured, expected, ratio, bool(holds))


def _theorem(
    run: GridRuns, r: int, eta: float, m: int, cohort: int, grid: CheckGrid, c: Constants, bounds: Bounds
) -> Iterator[StatementRow]:
    loss_et = run.series.loss[:, r, m]
    stationary_et = stationarity_of(run, r, m, cohort / grid.num_clients)
    for rounds in grid.rounds:
        measured_e = stationary_et[:, :rounds].mean(axis=1)
        for statement, gap_e in ((THEOREM, loss_et[:, 0]), (TELESCOPED, loss_et[:, 0] - loss_et[:, rounds])):
            bound_e = bounds.stationarity(
                gap_e, [eta] * rounds, run.steps, grid.num_clients, cohort, c, bounds.sampling_factor
            )
            measured, bound = float(measured_e.mean()), float(bound_e.mean())
            above = measured > bound * (1 + ROUNDING) and (measured_e - bound_e).mean() > margin(measured_e - bound_e)
            above |= not (np.isfinite(measured) and np.isfinite(bound))
            yield StatementRow(
                statement, run.steps, eta, cohort, rounds, measured, bound, bound / measured, not above
            )


def stationarity_of(run: GridRuns, r: int, m: int, share: float) -> np.ndarray:
    """M_t = ||grad_public J||^2 + (n_s/n) (1/n) sum_u ||grad_private J_u||^2, [e, t]."""
    return run.series.public2[:, r, m] + share * run.series.private2[:, r, m]
