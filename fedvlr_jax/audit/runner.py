"""One audit: train, look at the uploads of a round under every defence, and say what they give away."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from fedvlr_jax.audit.attacks import ATTACKS
from fedvlr_jax.audit.measures import Leak, RouterLeak, leak, router_leak
from fedvlr_jax.audit.uploads import Seen, clipped, make_observer, noised, summed
from fedvlr_jax.errors import ConfigError, TrainingError
from fedvlr_jax.privacy.accounting import solve_noise_multiplier
from fedvlr_jax.training.experiment import Experiment, require_one_device
from fedvlr_jax.types import FedState


class Finding(NamedTuple):
    """What one attack reads out of uploads of one round under one defence.

    Attributes:
      round: before which was looked.
      defence, attack: names.
      leak: the mean over draws of noise.
      draws: how many there are.
      spread: standard deviation of the AUC of one draw; 0 with one.
    """

    round: int
    defence: str
    attack: str
    leak: Leak
    draws: int = 1
    spread: float = 0.0


class RouterFinding(NamedTuple):
    """What the uploads of one round say about the weights of the views."""

    round: int
    leak: RouterLeak


def audit(experiment: Experiment, plan: Mapping[str, Any]) -> Iterator[Finding | RouterFinding]:
    """All findings on one experiment. Clients who have every item are not attacked: nothing could be told of them.

    Args:
      experiment: with private states on one device.
      plan: ``rounds``, numbers of rounds before which is looked, ascending; ``noises``, deviations of the noise on an
        upload in units of the bound; ``sums``, sizes of groups; ``epsilons``, budgets at ``delta`` of
        ``budget_rounds`` noised sums of all; ``draws`` of the noise on them; ``masked``, whether to look at the words
        that single clients send to the sums, which needs the extra ``secure``; ``clients``, how many are attacked, 0
        for all; ``seed`` of noise, groups and clients.

    Raises:
      ConfigError: private states elsewhere, a method without rows in its uploads, or nobody to attack.
      TrainingError: training has led to uploads that are not finite.
    """
    settings, dataset, clients, algorithm = experiment
    require_one_device(settings, "audit")
    has_ui = np.zeros((dataset.num_users, dataset.num_items), bool)
    has_ui[dataset.train_user, dataset.train_item] = True
    run = jax.jit(algorithm.run, static_argnames="num_rounds")
    state: FedState = jax.jit(algorithm.init)(jax.random.key(settings["seed"]))
    see = make_observer(algorithm, clients, dataset.num_users, dataset.num_items)
    order_u = np.random.default_rng(plan["seed"]).permutation(dataset.num_users)
    attacked_u = order_u[has_ui.sum(axis=1)[order_u] < dataset.num_items][: plan["clients"] or None]
    if not attacked_u.size:
        raise ConfigError(f"audit: expected a client of {dataset.name} who lacks some item, found none")
    popular_ui = np.tile(has_ui.sum(axis=0), (len(attacked_u), 1))
    yield Finding(0, "no upload", "popularity", leak(popular_ui, has_ui[attacked_u]))
    for number in plan["rounds"]:
        if more := number - int(state.public.round):
            state, _ = run(state, clients, num_rounds=more)
        seen = see(state)
        finite_u = np.isfinite(seen.norm_u)
        if not finite_u.all():
            raise TrainingError(
                f"round {number}: expected uploads that are finite, found {np.sum(~finite_u)} of {finite_u.size} "
                "that are not. Lower client.lr or server.lr"
            )
        for defence, draws in defended(seen, plan, attacked_u):
            yield from _findings(number, defence, draws, has_ui[attacked_u])
        if algorithm.router_weights is not None:
            yield RouterFinding(number, router_leak(seen.view_norm_uj, _weights(experiment, state)))


def _findings(number: int, defence: str, draws: Iterator[np.ndarray], has_ui: np.ndarray) -> Iterator[Finding]:
    """One finding for each attack, over draws of what is seen of the clients with these items."""
    leaks: dict[str, list[Leak]] = {name: [] for name in ATTACKS}
    for rows_uif in draws:
        for name, attack in ATTACKS.items():
            score_ui = np.stack([attack(rows_if) for rows_if in rows_uif])
            leaks[name].append(leak(np.broadcast_to(score_ui, has_ui.shape), has_ui))
    for name, found in leaks.items():
        mean = Leak(*np.mean(found, axis=0).tolist())
        yield Finding(number, defence, name, mean, len(found), float(np.std([one.auc for one in found])))


def defended(
    seen: Seen, plan: Mapping[str, Any], attacked_u: np.ndarray
) -> Iterator[tuple[str, Iterator[np.ndarray]]]:
    """What the server sees in place of the rows of the attacked clients under each defence, draw after draw:
    [u, i, f], or [1, i, f] where all of them are in the same sum. The bound is the median norm.

    A sum without the client's own rows is no defence but the control of one: what is read there is not about it,
    but about what people like. A noised sum and its control have the same noise. The plan is that of `audit`.
    """
    seed = plan["seed"]
    yield "none", iter([seen.rows_uif[attacked_u]])
    bound = float(np.median(seen.norm_u))
    rows_uif = clipped(seen, bound)
    yield "clip", iter([rows_uif[attacked_u]])
    for noise in plan["noises"]:
        yield f"clip, noise {noise:g} C", iter([noised(rows_uif, noise * bound, seed)[attacked_u]])
    for size in plan["sums"]:
        group = min(size, len(rows_uif))
        if plan["masked"]:
            from fedvlr_jax.audit.masked import masked  # it needs the extra `secure`

            yield f"words to a sum of {group}", iter([masked(rows_uif, bound, group, attacked_u.tolist(), seed)])
        sums_uif = summed(seen.rows_uif, group, seed)[attacked_u]
        yield f"sum of {group}", iter([sums_uif])
        yield f"sum of {group} less its own", iter([sums_uif - seen.rows_uif[attacked_u]])
    total_if = rows_uif.sum(axis=0)
    for epsilon in plan["epsilons"]:
        deviation = bound * solve_noise_multiplier(epsilon, plan["delta"], 1.0, plan["budget_rounds"])
        yield f"noised sum, eps {epsilon:g}", _noised_sums(total_if, deviation, seed, plan["draws"])
        less_own = (x - rows_uif[attacked_u] for x in _noised_sums(total_if, deviation, seed, plan["draws"]))
        yield f"noised sum, eps {epsilon:g} less its own", less_own


def _noised_sums(total_if: np.ndarray, deviation: float, seed: int, draws: int) -> Iterator[np.ndarray]:
    """The sum of all, [1, i, f], under one draw of noise after the other."""
    return (noised(total_if, deviation, seed, draw)[None] for draw in range(draws))


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
