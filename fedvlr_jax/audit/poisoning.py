"""Promotion of items by clients that lie, against every aggregator: what it does to exposure, and to everybody else.

The promoters are clients beside the honest ones; `promoters.py` says what they send in every round.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedvlr_jax.algorithm import Algorithm, make_algorithm
from fedvlr_jax.assembly import OPTIMIZERS, parse_names
from fedvlr_jax.audit.promoters import FANS, PROMOTERS, Plan, send, with_fans
from fedvlr_jax.data.buckets import heldout_targets, make_client_data
from fedvlr_jax.errors import ConfigError, require_one_of
from fedvlr_jax.evaluation.metrics import TEST, VALID, row_values
from fedvlr_jax.evaluation.ranking import rank_all
from fedvlr_jax.federated.aggregation import AGGREGATORS, Aggregator
from fedvlr_jax.federated.bucket_plan import plan_buckets
from fedvlr_jax.federated.rounds import Pipeline, make_round
from fedvlr_jax.federated.transforms import upload_norm
from fedvlr_jax.models.model import Broadcast, Upload
from fedvlr_jax.settings import override
from fedvlr_jax.training.experiment import require_one_device
from fedvlr_jax.types import Array, ClientData, Dataset, FedState, PyTree

TOP = 50


class PromotionFinding(NamedTuple):
    """One aggregator under some promoters; percent.

    Attributes:
      seed: of the run and of the split.
      aggregator: its name.
      attackers: what the promoters send, a name in ``PROMOTERS``, "fans", or "none".
      promoters: clients that promote, in percent of all.
      round: the one of those looked at that ranks validation items best.
      exposure: ER@50, the mean over targets of the share of users without the item who have it in their first 50.
      ndcg: NDCG@50 of the test rows.
    """

    seed: int
    aggregator: str
    attackers: str
    promoters: float
    round: int
    exposure: float
    ndcg: float


class _Carry(NamedTuple):
    """What an aggregator under attack carries: its own carry, the broadcast, and norms of honest uploads."""

    inner: PyTree
    broadcast: Broadcast
    norm: Array
    number: Array


def promotion(
    settings: Mapping[str, Any], dataset_of: Callable[[int], Dataset], plan: Mapping[str, Any]
) -> Iterator[PromotionFinding]:
    """All findings, in the order of seeds, aggregators, attackers and shares; a run without promoters is made once.

    Args:
      settings: nested, of one training configuration.
      dataset_of: ``(seed) -> data set`` with test rows.
      plan: ``seeds``; ``aggregators``, names, empty for all; ``attackers``, names in ``PROMOTERS`` or ``fans``;
        ``promoters``, shares of the clients; ``train_rounds``, and after how many of them is looked, ``every``;
        ``targets``, how many of the least popular items that anybody has; ``popular``, how many they shall be like.

    Raises:
      ConfigError: an unknown attacker, a share of less than one client, a host that forms sums before its rounds, no
        held-out rows, or private states elsewhere than on one device.
    """
    require_one_device(settings, "audit")
    attackers = parse_names(plan["attackers"])
    for name in attackers:
        require_one_of((*PROMOTERS, FANS), "audit.attackers", name)
    for seed in plan["seeds"]:
        dataset = dataset_of(seed)
        _require_judged(dataset, plan["promoters"])
        for aggregator in parse_names(plan["aggregators"]) or tuple(AGGREGATORS):
            changes = {"aggregation.aggregator": aggregator, "compute.path": "auto", "seed": seed}
            changed = override(settings, changes)
            for name, share in _attacks(attackers, plan["promoters"]):
                agreed = _agree(dataset, plan["targets"], plan["popular"], round(share * dataset.num_users))
                found = _trained(changed, dataset, agreed, name, plan["train_rounds"], plan["every"])
                yield PromotionFinding(seed, aggregator, name, 100 * share, *found)


def _require_judged(dataset: Dataset, shares: Sequence[float]) -> None:
    """Refuses data whose rounds nobody can judge, and shares that are no client."""
    for name, item in (("validation", dataset.valid_item), ("test", dataset.test_item)):
        if not (item >= 0).any():
            raise ConfigError(f"audit: expected {name} rows, by which it judges, found none in {dataset.name}")
    for share in shares:
        if share and not round(share * dataset.num_users):
            raise ConfigError(
                f"audit.promoters: expected 0 or shares of one client or more, found {share:g} of the "
                f"{dataset.num_users} in {dataset.name}"
            )


def _attacks(attackers: Sequence[str], shares: Sequence[float]) -> Iterator[tuple[str, float]]:
    """Names and shares; nobody, whoever it would be, comes once."""
    for share in shares:
        yield from ((name, share) for name in (attackers if share else ("none",)))


def _agree(dataset: Dataset, targets: int, popular: int, number: int) -> Plan:
    """The plan of `number` promoters: the least popular items that anybody has, and the most popular ones."""
    count_i = np.bincount(dataset.train_item, minlength=dataset.num_items)
    known = np.flatnonzero(count_i > 0)
    order = known[np.argsort(count_i[known], kind="stable")]
    return Plan(np.sort(order[:targets]), np.sort(order[-popular:]), number)


def _trained(
    settings: Mapping[str, Any], dataset: Dataset, plan: Plan, attackers: str, rounds: int, every: int
) -> tuple[int, float, float]:
    """The round that ranks validation items best, and exposure of the targets and NDCG at it, in percent."""
    trained = with_fans(dataset, plan, settings["seed"]) if plan.number and attackers == FANS else dataset
    algorithm, data = make_algorithm(settings, trained), jax.device_put(make_client_data(trained))
    pipeline, host = algorithm.pipeline, algorithm.model.host
    if host.combine is not None or host.view_weights is not None:
        raise ConfigError(
            f"host.name: expected a host that learns in rounds alone, whose uploads promoters make up, found "
            f"{settings['host']['name']}, which also forms sums before them"
        )
    if plan.number and attackers != FANS:
        pipeline = pipeline._replace(aggregator=promoted(pipeline.aggregator, plan, attackers))
    run = jax.jit(_make_run(algorithm, settings["server"], trained, data, pipeline), static_argnames="rounds")
    rank = jax.jit(functools.partial(rank_all, algorithm.score, chunk=settings["eval"]["chunk"]))
    show = jax.jit(lambda snapshot, bucket: _shown(algorithm.score(snapshot, bucket), bucket.history, plan.targets))
    held_out, best = heldout_targets(dataset), (-1.0, 0, 0.0, 0.0)
    state = jax.jit(algorithm.init)(jax.random.key(settings["seed"]))
    while (more := min(every, rounds - int(state.public.round))) > 0:
        state = run(state, rounds=more)
        snapshot = algorithm.snapshot(state, data.content, data.prior)
        ranks = jax.device_get(rank(snapshot, data.buckets, held_out))
        valid, test = (float(np.mean(row_values(ranks, f"NDCG@{TOP}", split=k))) for k in (VALID, TEST))
        if valid > best[0]:
            shown = [(bucket.user, *show(snapshot, bucket)) for bucket in data.buckets]
            best = (valid, int(state.public.round), _exposure(shown, dataset.num_users), test)
    _, round_, exposure, ndcg = best
    return round_, 100 * exposure, 100 * ndcg


def _exposure(shown: Sequence[tuple[Array, Array, Array]], num_users: int) -> float:
    """The mean over targets of the share of users without one who are shown it, of ids and `_shown` by bucket."""
    user_c, shown_ct, has_ct = (np.concatenate([np.asarray(x) for x in field]) for field in zip(*shown, strict=True))
    asked_ct = ~has_ct & (user_c < num_users)[:, None]
    return float(np.mean((shown_ct & asked_ct).sum(axis=0) / asked_ct.sum(axis=0)))


def _make_run(
    algorithm: Algorithm, server: Mapping[str, Any], dataset: Dataset, data: ClientData, pipeline: Pipeline
) -> Any:
    """``(state, rounds) -> state`` with a pipeline of one's own."""
    plan = plan_buckets(
        algorithm.model, algorithm.local, data.buckets, dataset.num_items, path="auto", chunk=0, forms_uploads=True
    )
    round_ = make_round(
        algorithm.model,
        algorithm.local,
        OPTIMIZERS[server["optimizer"]](server["lr"]),
        plan,
        num_users=dataset.num_users,
        num_items=dataset.num_items,
        clients_per_round=algorithm.clients_per_round,
        poisson=server["sampling"] == "poisson",
        server_l2=server["l2"],
        pipeline=pipeline,
    )

    def run(state: FedState, rounds: int) -> FedState:
        return jax.lax.fori_loop(0, rounds, lambda _, state: round_(state, data)[0], state)

    return run


def _shown(score_ci: Array, history_cl: Array, targets: np.ndarray) -> tuple[Array, Array]:
    """bool [c, t] each: whether a target is among a client's first items that are not in its history, and in that."""
    user_c = jnp.arange(score_ci.shape[0])[:, None]
    open_ci = score_ci.at[user_c, history_cl].set(-jnp.inf, mode="drop")
    least_c = jnp.sort(open_ci, axis=1)[:, -min(TOP, open_ci.shape[1])]
    has_ct = (history_cl[:, :, None] == jnp.asarray(targets)[None, None]).any(axis=1)
    return open_ci[:, targets] >= least_c[:, None], has_ct


def promoted(aggregator: Aggregator, plan: Plan, attackers: str) -> Aggregator:
    """The aggregator with the uploads of promoters among those of the honest.

    Args:
      aggregator: what the server does.
      plan: of the promoters, who are beside the honest clients, with their mean weight.
      attackers: what they send, a name in ``PROMOTERS``.
    """

    def init(broadcast: Broadcast, num_slots: int) -> _Carry:
        inner = aggregator.init(broadcast, num_slots + plan.number)
        return _Carry(inner, broadcast, jnp.zeros(()), jnp.zeros(()))

    def add(carry: _Carry, uploads: Upload, alpha_c: Array) -> _Carry:
        norm_c = jnp.where(alpha_c > 0, jax.vmap(upload_norm)(uploads), 0.0)
        return carry._replace(
            inner=aggregator.add(carry.inner, uploads, alpha_c),
            norm=carry.norm + jnp.sum(norm_c),
            number=carry.number + jnp.sum(alpha_c > 0),
        )

    def finish(carry: _Carry, weight: Array) -> Broadcast:
        number = jnp.maximum(carry.number, 1)
        alpha_p = jnp.broadcast_to(weight / number, (plan.number,))
        uploads = send(carry.broadcast, plan, attackers, carry.norm / number)
        inner = aggregator.add(carry.inner, uploads, alpha_p)
        return aggregator.finish(inner, weight + jnp.sum(alpha_p))

    def merge(carry: _Carry, axis: str) -> _Carry:
        sums = jax.lax.psum((carry.norm, carry.number), axis)
        return _Carry(aggregator.merge(carry.inner, axis), carry.broadcast, *sums)

    return Aggregator(init, add, merge, finish)
