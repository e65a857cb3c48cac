"""Both sides of the lemmas at one state: the coming round of every client, step by step, beside exact gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from fedvlr_jax.federated import sampling
from fedvlr_jax.federated.client import ClientBatch, draw_batch, make_local_update
from fedvlr_jax.federated.private_state import gather_clients
from fedvlr_jax.federated.step_loss import make_loss
from fedvlr_jax.models.model import Broadcast, make_download
from fedvlr_jax.theory import estimators
from fedvlr_jax.theory.objective import server_term
from fedvlr_jax.theory.problem import Problem
from fedvlr_jax.types import Array, FedState, PrivateState, PyTree


class Probe(NamedTuple):
    """What one state shows; axis `a` is the local step, `u` the client (in the order of the buckets).

    Attributes:
      gradient2: [], ||grad_public J||^2, exact.
      drift_au: [a, u], ||p_u^a - p_u^0||^2 after a = 1..A steps.
      moment_au: [a, u], ||private stochastic gradient||^2 of step a, from the loss, not from how far it moved.
      bias_u: [u], ||(1/A) sum_a grad_public J_u(p^a) - grad_public J_u(p^0)||^2 with exact gradients.
      noise: [], mean over clients and steps of ||public stochastic gradient - exact one||^2.
      dissimilarity: [], zeta^2 at the state.
      aggregate2: [], mean over cohorts of ||aggregated gradient / A||^2.
      sampling: [], mean over cohorts of ||mean of the cohort's exact gradients - that of all||^2.
      quotient: [], the change of grad_public J_u over ||p^a - p^0||, both as root mean squares over clients;
        the largest over steps.
      aggregate_p: [p], the aggregated gradient / A of the round that the library would run next.
    """

    gradient2: Array
    drift_au: Array
    moment_au: Array
    bias_u: Array
    noise: Array
    dissimilarity: Array
    aggregate2: Array
    sampling: Array
    quotient: Array
    aggregate_p: Array


class ClientPath(NamedTuple):
    """One client's local steps; gradients are flat public vectors [p], exact at the start, stochastic as sent."""

    drift_a: Array
    moment_a: Array
    noise: Array
    bias: Array
    change_a: Array
    start_p: Array
    sent_p: Array


def make_probe(problem: Problem, steps: int, cohorts: int) -> Callable[[FedState, Array, Array], Probe]:
    """Builds ``(state, eta, n_s) -> Probe`` for A = `steps`; sampling is averaged over `cohorts` cohorts.

    The draws, and the first cohort, are those of the round that the library would run next from this state.
    """
    l2 = problem.settings["server"]["l2"]

    def probe(state: FedState, eta: Array, cohort: Array) -> Probe:
        public, number = state.public.params, state.public.round
        broadcast, pull_back = jax.vjp(lambda p: problem.model.publish(p, problem.data.content), public)
        follow = _make_path(problem, steps, eta, broadcast, lambda ct: _flat(pull_back(ct)[0]), number)
        path_u = _every_client(problem, state, follow)
        extra_p = _flat(jax.grad(lambda p: server_term(problem.model, p, number, steps, l2))(public))
        mean_p = jnp.mean(path_u.start_p, axis=0)
        user_u = jnp.concatenate([bucket.user for bucket in problem.data.buckets])
        weight_ku = _cohort_weights(state, problem.num_users, cohort, cohorts)[:, user_u]
        aggregate_kp = weight_ku @ path_u.sent_p + extra_p[None]
        return Probe(
            gradient2=jnp.sum((mean_p + extra_p) ** 2),
            drift_au=path_u.drift_a.T,
            moment_au=path_u.moment_a.T,
            bias_u=path_u.bias,
            noise=jnp.mean(path_u.noise),
            dissimilarity=estimators.dissimilarity(path_u.start_p),
            aggregate2=estimators.second_moment(aggregate_kp),
            sampling=estimators.second_moment(weight_ku @ (path_u.start_p - mean_p[None])),
            quotient=_quotient(jnp.mean(path_u.change_a, axis=0), jnp.mean(path_u.drift_a, axis=0)),
            aggregate_p=aggregate_kp[0],
        )

    return probe


def _every_client(problem: Problem, state: FedState, follow: Callable) -> ClientPath:
    """The paths of all clients [u, ...], in the order of the buckets, with the draws of the coming round."""
    key = sampling.stream(state.key, sampling.CLIENT, state.public.round)
    paths = []
    for bucket in problem.data.buckets:
        local_c = gather_clients(state.private, bucket.user, None)
        paths.append(jax.vmap(follow)(local_c, bucket.history, sampling.entity_keys(key, bucket.user)))
    return jax.tree.map(lambda *x: jnp.concatenate(x), *paths)


def _cohort_weights(state: FedState, num_users: int, cohort: Array, cohorts: int) -> Array:
    """[k, u], 1/n_s on the members of each cohort, u by client id; the first cohort is the coming round's."""
    key = sampling.stream(state.key, sampling.COHORT, state.public.round)
    keys = [key, *(jax.random.fold_in(key, k) for k in range(1, cohorts))]
    return jnp.stack([sampling.cohort_mask(k, num_users, cohort) for k in keys]).astype(float) / cohort


def _make_path(
    problem: Problem, steps: int, eta: Array, broadcast: Broadcast, flat_pull: Callable, number: Array
) -> Callable[[PrivateState, Array, Array], ClientPath]:
    """``(local, history_l, key) -> ClientPath`` through the library's local update, one step at a time."""
    settings = problem.local(steps, eta)
    one_step = make_local_update(problem.model, settings._replace(steps=1))
    exact = jax.grad(problem.client_loss)
    stochastic = jax.grad(make_loss(problem.model, settings, number, all_items=False), 1)

    def follow(local: PrivateState, history_l: Array, key: Array) -> ClientPath:
        work = draw_batch(settings, problem.num_items, history_l, key, touched_rows=False)
        draw = work.draw
        download = make_download(problem.model, broadcast.rows, broadcast.head, draw.positive_l, draw.input_l)
        start_p, origin = flat_pull(exact(broadcast, local.params, history_l, number)), _flat(local.params)

        def step(local: PrivateState, negative_ln: Array) -> tuple[PrivateState, tuple]:
            draw = work.draw._replace(negative_aln=negative_ln[None])
            moved, upload, _ = one_step(broadcast, local, ClientBatch(None, draw), number)
            sent_p = flat_pull(Broadcast(upload.rows, upload.head))
            at_p = flat_pull(exact(broadcast, local.params, history_l, number))
            gradient = _flat(stochastic(download, local.params, work.draw._replace(negative_aln=negative_ln)))
            drift, change = jnp.sum((_flat(moved.params) - origin) ** 2), jnp.sum((at_p - start_p) ** 2)
            return moved, (drift, jnp.sum(gradient**2), change, sent_p, at_p)

        _, (drift_a, moment_a, change_a, sent_ap, at_ap) = jax.lax.scan(step, local, work.draw.negative_aln)
        noise = estimators.noise(sent_ap, at_ap)
        bias = jnp.sum((jnp.mean(at_ap, axis=0) - start_p) ** 2)
        sent_p = jnp.mean(sent_ap, axis=0)
        return ClientPath(drift_a, moment_a, noise, bias, change_a, start_p, sent_p)

    return follow


def _quotient(change_a: Array, drift_a: Array) -> Array:
    """Largest root of the change of the gradient before a step over the drift so far; 0 where nothing has moved."""
    before_a = jnp.append(0.0, drift_a[:-1])
    return jnp.sqrt(jnp.max(jnp.where(before_a > 0, change_a / jnp.where(before_a > 0, before_a, 1.0), 0.0)))


class Curvature(NamedTuple):
    """Largest absolute Hessian eigenvalues of J_u over some clients: all parameters, and the diagonal blocks."""

    joint: Array
    public: Array
    private: Array


def make_curvature(problem: Problem, clients: int, iterations: int) -> Callable[[FedState, Array], Curvature]:
    """Builds ``(state, key) -> Curvature``, the largest over `clients` clients drawn with `key`."""
    buckets = problem.data.buckets
    user_u = jnp.concatenate([bucket.user for bucket in buckets])
    width = max(bucket.history.shape[1] for bucket in buckets)
    padding = [((0, 0), (0, width - bucket.history.shape[1])) for bucket in buckets]
    history_ul = jnp.concatenate(
        [jnp.pad(b.history, p, constant_values=problem.num_items) for b, p in zip(buckets, padding, strict=True)]
    )

    def curvature(state: FedState, key: Array) -> Curvature:
        picked = jax.random.permutation(key, problem.num_users)[:clients]

        def of_client(private: PyTree, history_l: Array, key: Array) -> Curvature:
            at, unravel = ravel_pytree((state.public.params, private))

            def loss(flat: Array) -> Array:
                public, private = unravel(flat)
                broadcast = problem.model.publish(public, problem.data.content)
                return problem.client_loss(broadcast, private, history_l, state.public.round)

            is_public = (jnp.arange(at.size) < at.size - _flat(private).size).astype(at.dtype)
            operators = [estimators.hessian_operator(loss, at, keep) for keep in (None, is_public, 1 - is_public)]
            return Curvature(*(estimators.spectral_norm(o, at.size, key, iterations) for o in operators))

        private_c = jax.tree.map(lambda x: x[user_u[picked]], state.private.params)
        found = jax.vmap(of_client)(private_c, history_ul[picked], sampling.entity_keys(key, picked))
        return jax.tree.map(jnp.max, found)

    return curvature


def _flat(tree: PyTree) -> Array:
    return ravel_pytree(tree)[0]
