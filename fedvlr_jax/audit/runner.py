"""One audit: train, look at the uploads of a round under every defence, and say what they give away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fedvlr_jax.audit.attacks import ATTACKS
from fedvlr_jax.audit.measures import Leak, RouterLeak, leak, router_leak
from fedvlr_jax.audit.uploads import Seen, clipped, make_observer, noised, summed
from fedvlr_jax.privacy.accounting import solve_noise_multiplier
from fedvlr_jax.training.experiment import Experiment
from fedvlr_jax.types import FedState


class Finding(NamedTuple):
    """What one attack reads out of uploads of one round under one defence."""

    round: int
    defence: str
    attack: str
    leak: Leak


class RouterFinding(NamedTuple):
    """What the uploads of one round say about the weights of the views."""

    round: int
    leak: RouterLeak


def audit(experiment: Experiment, plan: Mapping[str, Any]) -> Iterator[Finding | RouterFinding]:
    """All findings on one experiment.

    Args:
      experiment: with private states on the device.
      plan: ``rounds``, numbers of rounds before which is looked, ascending; ``noises``, deviations of the noise on an
        upload in units of the bound; ``sums``, sizes of groups; ``epsilons``, budgets at ``delta`` of
        ``budget_rounds`` noised sums of all; ``clients``, how many are attacked, 0 for all; ``seed`` of noise, groups
        and clients.
    """
    settings, dataset, clients, algorithm = experiment
    has_ui = np.zeros((dataset.num_users, dataset.num_items), bool)
    has_ui[dataset.train_user, dataset.train_item] = True
    run = jax.jit(algorithm.run, static_argnames="num_rounds")
    state: FedState = jax.jit(algorithm.init)(jax.random.key(settings["seed"]))
    see = make_observer(algorithm, clients, dataset.num_users, dataset.num_items)
    attacked_u = np.random.default_rng(plan["seed"]).permutation(dataset.num_users)[: plan["clients"] or None]
    popular_ui = np.tile(has_ui.sum(axis=0), (len(attacked_u), 1))
    yield Finding(0, "no upload", "popularity", leak(popular_ui, has_ui[attacked_u]))
    for number in plan["rounds"]:
        if more := number - int(state.public.round):
            state, _ = run(state, clients, num_rounds=more)
        seen = see(state)
        for defence, rows_uif in defended(seen, plan):
            for name, attack in ATTACKS.items():
                score_ui = np.stack([attack(rows_uif[u]) for u in attacked_u])
                yield Finding(number, defence, name, leak(score_ui, has_ui[attacked_u]))
        if algorithm.router_weights is not None:
            yield RouterFinding(number, router_leak(seen.view_norm_uj, _weights(experiment, state)))


def defended(seen: Seen, plan: Mapping[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """What the server sees of every client's rows [u, i, f] under each defence; the bound is the median norm.

    A sum without the client's own rows is no defence but the control of one: what is read there is not about it,
    but about what people like. The plan is that of `audit`.
    """
    seed = plan["seed"]
    yield "none", seen.rows_uif
    bound = float(np.median(seen.norm_u))
    rows_uif = clipped(seen, bound)
    yield "clip", rows_uif
    for noise in plan["noises"]:
        yield f"clip, noise {noise:g} C", noised(rows_uif, noise * bound, seed)
    for size in plan["sums"]:
        group = min(size, len(rows_uif))
        sums_uif = summed(seen.rows_uif, group, seed)
        yield f"sum of {group}", sums_uif
        yield f"sum of {group} less its own", sums_uif - seen.rows_uif
    for epsilon in plan["epsilons"]:
        sigma = solve_noise_multiplier(epsilon, plan["delta"], 1.0, plan["budget_rounds"])
        sum_if = noised(rows_uif.sum(axis=0), sigma * bound, seed)
        yield f"noised sum, eps {epsilon:g}", np.broadcast_to(sum_if, rows_uif.shape)
        yield f"noised sum, eps {epsilon:g}, less its own", sum_if - rows_uif


def _weights(experiment: Experiment, state: FedState) -> np.ndarray:
    """The router's weights [u, j] of all clients."""
    _, dataset, clients, algorithm = experiment
    snapshot = algorithm.snapshot(state, clients.content, clients.prior)
    found = np.zeros((dataset.num_users, len(algorithm.views)))
    for bucket in clients.buckets:
        users = np.asarray(bucket.user)
        real = users < dataset.num_users
        found[users[real]] = np.asarray(jax.jit(algorithm.router_weights)(snapshot, bucket))[real]
    return found
