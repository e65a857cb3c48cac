"""Runs of the library's rounds over seeds, rates and cohorts at once, with exact stationarity in every round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.theory.probes import Curvature, Probe, make_curvature, make_probe
from fedvlr_jax.theory.problem import Problem
from fedvlr_jax.types import Array, FedState, PyTree

CHUNK_BYTES = 256 << 20  # of the gradients that the probes of one chunk of states hold
CURVATURE_ITERATIONS = 12
CURVATURE_LANES = 8  # states whose Hessians are measured at a time


class Series(NamedTuple):
    """What a run shows before each of its T rounds.

    Attributes:
      loss: [..., T + 1], J; the last entry is that of the final state.
      public2: [..., T], ||grad_public J||^2.
      private2: [..., T], (1/n) sum_u ||grad_private J_u||^2.
    """

    loss: Array
    public2: Array
    private2: Array


class GridRuns(NamedTuple):
    """All runs of one A: axes e seeds, r rates, m cohort sizes, t rounds, k probed rounds.

    Attributes:
      steps: A.
      series: of arrays [e, r, m, ...].
      probe: of arrays [e, r, m, k, ...].
      curvature: of arrays [e', r, m, k] on the first seeds.
    """

    steps: int
    series: Series
    probe: Probe
    curvature: Curvature


class Sizes(NamedTuple):
    """How much is run and probed.

    Attributes:
      rounds: T of the longest run, a multiple of `probes`.
      probes: rounds probed, evenly spaced from the first.
      cohorts: cohorts drawn at each of them.
      curvature_seeds, curvature_clients: seeds, and clients of each probed state, whose Hessians are measured.
    """

    rounds: int
    probes: int
    cohorts: int
    curvature_seeds: int
    curvature_clients: int


def initial_states(problem: Problem, seeds: int) -> FedState:
    """The states before the first round of seeds 0, 1, ..., stacked."""
    return jax.jit(jax.vmap(problem.algorithm.init))(jax.vmap(jax.random.key)(jnp.arange(seeds)))


def run_all(
    problem: Problem,
    states: FedState,
    rates: Sequence[float],
    all_steps: Sequence[int],
    cohorts: Sequence[int],
    sizes: Sizes,
    check: Callable[[float], None] = lambda L: None,
    report: Callable[[str], None] = lambda line: None,
) -> list[GridRuns]:
    """Runs and probes every combination of A, rate, n_s and seed; arrays come back as NumPy.

    Args:
      problem: what is trained.
      states: from `initial_states`.
      rates, all_steps, cohorts: eta, A and n_s.
      sizes: rounds and probes.
      check: is given L at the initial states before anything is run; it may raise.
      report: takes a line of progress.
    """
    eta_r, cohort_m = jnp.asarray(rates, float), jnp.asarray(cohorts, jnp.int32)
    curvature = _over_lanes(make_curvature(problem, sizes.curvature_clients, CURVATURE_ITERATIONS), CURVATURE_LANES)
    # Within the program: every leaf has a shape of its own, so each slice would be a program too.
    look = jax.jit(lambda *trees: curvature(*jax.tree.map(lambda x: x[: sizes.curvature_seeds], trees)))
    check(float(jnp.max(look(states, states.key).joint)))
    shape = (len(states.key), eta_r.size, cohort_m.size, sizes.probes)
    eta_ermk = jnp.broadcast_to(eta_r[None, :, None, None], shape)
    cohort_ermk = jnp.broadcast_to(cohort_m[None, None, :, None], shape)
    runs = []
    for steps in all_steps:
        visited, series = jax.jit(_over_grid(_make_run(problem, steps, sizes)))(states, eta_r, cohort_m)
        probe = make_probe(problem, steps, sizes.cohorts)
        probed = jax.jit(_over_lanes(probe, _lanes_at_once(problem)))(visited, eta_ermk, cohort_ermk)
        probed = probed._replace(aggregate_p=probed.aggregate_p[:, :, :, :0])  # large, and for tests only
        curved = look(visited, _own_keys(visited.key))
        runs.append(GridRuns(steps, *jax.tree.map(np.asarray, (series, probed, curved))))
        report(f"A = {steps}: {np.prod(shape[:3])} runs of {sizes.rounds} rounds, {np.prod(shape)} states probed")
    return runs


def _own_keys(key: Array) -> Array:
    """Distinct keys of the same shape."""
    return jax.vmap(jax.random.fold_in)(key.reshape(-1), jnp.arange(key.size)).reshape(key.shape)


def _over_grid(run: Callable) -> Callable:
    """`run` vmapped over seeds, rates and cohort sizes, in this order of axes."""
    return jax.vmap(jax.vmap(jax.vmap(run, (None, None, 0)), (None, 0, None)), (0, None, None))


def _make_run(problem: Problem, steps: int, sizes: Sizes) -> Callable:
    """``(state, eta, n_s) -> (states at the probed rounds [k], Series [t])``."""
    value = problem.total_loss(steps)
    total = jax.value_and_grad(value, (0, 1))

    def run(state: FedState, eta: Array, cohort: Array) -> tuple[FedState, Series]:
        round_ = problem.round(steps, cohort, eta)

        def one(state: FedState, _: None) -> tuple[FedState, Series]:
            loss, (public, private) = total(*_arguments(problem, state))
            # The gradient of J in p_u is 1/n of that of J_u: n^2 for the squares, 1/n for their mean.
            return round_(state), Series(loss, _square(public), problem.num_users * _square(private))

        def stretch(state: FedState, _: None) -> tuple[FedState, tuple]:
            last, seen = jax.lax.scan(one, state, length=sizes.rounds // sizes.probes)
            return last, (state, seen)

        last, (visited, seen) = jax.lax.scan(stretch, state, length=sizes.probes)
        series = jax.tree.map(lambda x: x.reshape(-1), seen)
        return visited, series._replace(loss=jnp.append(series.loss, value(*_arguments(problem, last))))

    return run


def _arguments(problem: Problem, state: FedState) -> tuple:
    """What J is a function of."""
    return state.public.params, state.private.params, problem.data, state.public.round


def _over_lanes(function: Callable, batch: int) -> Callable:
    """`function` mapped over all leading axes (those of the keys in the states), `batch` elements at a time."""

    def mapped(states: FedState, *others: PyTree) -> PyTree:
        lead = states.key.shape
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[len(lead) :]), (states, *others))
        out = jax.lax.map(lambda args: function(*args), flat, batch_size=batch)
        return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), out)

    return mapped


def _lanes_at_once(problem: Problem) -> int:
    """States probed at a time, so that their flat client gradients stay within `CHUNK_BYTES`."""
    return max(1, CHUNK_BYTES // (64 * problem.num_users * problem.algorithm.cost.num_public))


def _square(tree: PyTree) -> Array:
    return sum(jnp.sum(x**2) for x in jax.tree.leaves(tree))
