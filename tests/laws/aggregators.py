"""Laws of AGGREGATORS, on uploads of some rows by five clients, in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from problems import planned, settings

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.federated.aggregation import AGGREGATORS, Aggregator
from fedvlr_jax.models.model import Broadcast, Upload
from fedvlr_jax.types import Array
from laws.judging import require_close, require_equal, require_form
from laws.rounds import DATASET, after, refuses, require_paths_agree

NUM_CLIENTS, NUM_ITEMS = 5, 6
TRIM, BYZANTINE = 0.25, 0.25


class Sent(NamedTuple):
    """Uploads [c, ...] of distinct items, with padding, and their weights [c]."""

    uploads: Upload
    alpha_c: Array


def make_aggregator(name: str) -> Aggregator:
    """The row of that name with the settings of ``config.aggregation``, made and compiled once for all laws."""
    return _compiled(AGGREGATORS[name])


@functools.lru_cache(maxsize=8)
def _compiled(row: Callable[..., Aggregator]) -> Aggregator:
    made = row(**(settings()["aggregation"] | {"trim": TRIM, "byzantine": BYZANTINE}))
    return made._replace(add=jax.jit(made.add), finish=jax.jit(made.finish))


def broadcast() -> Broadcast:
    """A table over six items, and a head."""
    return Broadcast({"views": jnp.zeros((NUM_ITEMS, 2, 3))}, {"w": jnp.zeros(4)})


def sent(seed: int = 0, *, equal: bool = False) -> Sent:
    """Random uploads: each client sends one to four items, no two the same number; or all of them the same."""
    rng = np.random.default_rng(seed)
    count_c = [3] * NUM_CLIENTS if equal else rng.permutation(NUM_CLIENTS)
    ids_cn = np.full((NUM_CLIENTS, 4), NUM_ITEMS)
    rows, head = rng.normal(size=(NUM_CLIENTS, 4, 2, 3)), rng.normal(size=(NUM_CLIENTS, 4))
    for c, count in enumerate(count_c):
        ids_cn[c, :count] = np.sort(rng.choice(NUM_ITEMS, count, replace=False))
    if equal:
        ids_cn, rows, head = (np.broadcast_to(x[:1], x.shape) for x in (ids_cn, rows, head))
    rows = np.where((ids_cn < NUM_ITEMS)[..., None, None], rows, 0)
    uploads = Upload(jnp.asarray(ids_cn, jnp.int32), {"views": jnp.asarray(rows)}, {"w": jnp.asarray(head)})
    return Sent(uploads, jnp.asarray(rng.uniform(0.5, 3.0, NUM_CLIENTS)))


def carried(aggregator: Aggregator, chunks: Sequence[Sent]) -> Any:
    """The carry after all chunks."""
    carry = aggregator.init(broadcast(), NUM_CLIENTS)
    for uploads, alpha_c in chunks:
        carry = aggregator.add(carry, uploads, alpha_c)
    return carry


def joined(aggregator: Aggregator, *chunks: Sent) -> Broadcast:
    """The mean of all chunks."""
    weight = sum(jnp.sum(alpha_c) for _, alpha_c in chunks)
    return aggregator.finish(carried(aggregator, chunks), weight)


def clients_at(of: Sent, index: Any) -> Sent:
    """Some of the clients, in the order of `index`."""
    return jax.tree.map(lambda x: x[index], of)


def in_float64(law: Callable[[str], None]) -> Callable[[str], None]:
    """The law with 64-bit numbers."""

    @functools.wraps(law)
    def checked(name: str) -> None:
        with jax.enable_x64(True):
            law(name)

    return checked


# ---- oracles: dense, in NumPy


def dense(of: Sent) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows [c, i, ...] and heads [c, h], zero where a client sent nothing, and bool [c, i], what it sent."""
    (ids_cn, rows, head), _ = jax.tree.map(np.asarray, of)
    table = np.zeros((len(ids_cn), NUM_ITEMS, 2, 3))
    touched = np.zeros((len(ids_cn), NUM_ITEMS), bool)
    for c, ids_n in enumerate(ids_cn):
        real = ids_n < NUM_ITEMS
        table[c, ids_n[real]], touched[c, ids_n[real]] = rows["views"][c, real], True
    return table, head["w"], touched


def weighted_mean(of: Sent) -> Broadcast:
    """sum_c alpha_c upload_c / sum_c alpha_c."""
    table, head, _ = dense(of)
    share_c = np.asarray(of.alpha_c) / np.sum(of.alpha_c)
    return Broadcast({"views": np.einsum("c,cijd->ijd", share_c, table)}, {"w": share_c @ head})


def _over_senders(of: Sent, statistic: Callable[[np.ndarray], np.ndarray]) -> Broadcast:
    """A statistic [n, ...] -> [...] over the clients that sent a row, times their share of the weights."""
    table, head, touched = dense(of)
    share_c = np.asarray(of.alpha_c) / np.sum(of.alpha_c)
    rows = np.zeros(table.shape[1:])
    for i in range(NUM_ITEMS):
        if touched[:, i].any():
            rows[i] = share_c[touched[:, i]].sum() * statistic(table[touched[:, i], i])
    return Broadcast({"views": rows}, {"w": statistic(head)})


def _trimmed(x: np.ndarray) -> np.ndarray:
    cut = int(TRIM * len(x))
    return np.sort(x, axis=0)[cut : len(x) - cut].mean(axis=0)


def _krum(of: Sent, keep: int) -> Broadcast:
    """The mean of the `keep` uploads whose n - f - 2 nearest others are nearest."""
    table, head, _ = dense(of)
    flat = np.concatenate([table.reshape(len(table), -1), head], axis=1)
    squared = ((flat[:, None] - flat[None]) ** 2).sum(axis=-1)
    nearest = NUM_CLIENTS - int(BYZANTINE * NUM_CLIENTS) - 2
    kept = np.argsort(np.sort(squared, axis=1)[:, 1 : 1 + nearest].sum(axis=1))[:keep]
    return weighted_mean(clients_at(of, kept))


def _norm_bound(of: Sent) -> Broadcast:
    """The weighted mean of uploads that are cut to their median norm."""
    table, head, _ = dense(of)
    norm_c = np.sqrt((table**2).sum(axis=(1, 2, 3)) + (head**2).sum(axis=1))
    factor_c = np.minimum(1, np.median(norm_c) / norm_c)
    rows, head_c = jax.tree.map(lambda x: jax.vmap(jnp.multiply)(factor_c, x), (of.uploads.rows, of.uploads.head))
    return weighted_mean(of._replace(uploads=of.uploads._replace(rows=rows, head=head_c)))


def _fools_gold(of: Sent) -> Broadcast:
    """Every client by how little it is like the client that it is most like."""
    table, head, _ = dense(of)
    flat = np.concatenate([table.reshape(len(table), -1), head], axis=1)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    cosine = np.maximum(flat @ flat.T, 0) * (1 - np.eye(len(flat)))
    likest = cosine.max(axis=1)
    pardon = np.minimum(1, likest[:, None] / likest[None])
    factor = 1 - (cosine * pardon).max(axis=1)
    return weighted_mean(of._replace(alpha_c=of.alpha_c * factor / factor.max()))


def _trimmed_rows(of: Sent) -> Broadcast:
    """Row after row: weights cut to the median of weight times norm, and without the ends along the weighted sum."""
    table, head, touched = dense(of)
    alpha_c = np.asarray(of.alpha_c)

    def one(x: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        flat = x.reshape(len(x), -1)
        push = alpha * np.linalg.norm(flat, axis=1)
        weight = alpha * np.minimum(1, np.median(push) / push)
        cut, kept = int(TRIM * len(x)), np.arange(len(x))
        for _ in range(2):
            order = np.argsort(weight * (flat @ (weight[kept] @ flat[kept])))
            kept = order[cut : len(x) - cut]
        return np.average(x[kept], axis=0, weights=weight[kept]) * alpha.sum() / alpha_c.sum()

    rows = np.zeros(table.shape[1:])
    for i in np.flatnonzero(touched.any(axis=0)):
        rows[i] = one(table[touched[:, i], i], alpha_c[touched[:, i]])
    return Broadcast({"views": rows}, {"w": one(head, alpha_c)})


ORACLES = {
    "trimmed_rows": _trimmed_rows,
    "norm_bound": _norm_bound,
    "fools_gold": _fools_gold,
    "weighted_mean": weighted_mean,
    "median": lambda of: _over_senders(of, lambda x: np.median(x, axis=0)),
    "trimmed_mean": lambda of: _over_senders(of, _trimmed),
    "krum": lambda of: _krum(of, 1),
    "multi_krum": lambda of: _krum(of, NUM_CLIENTS - int(BYZANTINE * NUM_CLIENTS)),
}
"""Of the rows that the package brings; a row without one is judged by the other laws."""


# ---- laws


@in_float64
def it_equals_a_dense_computation(name: str) -> None:
    aggregator = make_aggregator(name)
    for seed in range(3 if name in ORACLES else 0):
        message = f"aggregator {name}: it is not its dense computation"
        require_close(message, joined(aggregator, sent(seed)), ORACLES[name](sent(seed)), rtol=1e-11, atol=1e-13)


@in_float64
def equal_uploads_and_one_client_give_the_weighted_mean(name: str) -> None:
    aggregator = make_aggregator(name)
    for of in (sent(equal=True), *(clients_at(sent(), np.array([c])) for c in range(NUM_CLIENTS))):
        message = f"aggregator {name}: equal uploads, or one, do not give the weighted mean"
        require_close(message, joined(aggregator, of), weighted_mean(of), rtol=1e-11, atol=1e-13)


@in_float64
def order_and_chunks_of_clients_are_irrelevant(name: str) -> None:
    aggregator, of = make_aggregator(name), sent()
    expected = joined(aggregator, of)
    order = np.array([3, 0, 4, 2, 1])
    for chunks in ([order], [order[:2], order[2:]], [np.array([c]) for c in range(NUM_CLIENTS)]):
        found = joined(aggregator, *(clients_at(of, index) for index in chunks))
        message = f"aggregator {name}: order or chunks of clients change the mean"
        require_close(message, found, expected, rtol=1e-11, atol=1e-13)


@in_float64
def a_client_of_weight_zero_changes_nothing(name: str) -> None:
    aggregator, of = make_aggregator(name), sent()
    expected = joined(aggregator, clients_at(of, np.array([0, 1, 3, 4])))
    alpha_c = of.alpha_c.at[2].set(0.0)
    for value in (np.nan, np.inf, 1e30):
        rows, head = jax.tree.map(lambda x, v=value: x.at[2].set(v), (of.uploads.rows, of.uploads.head))
        found = joined(aggregator, Sent(Upload(of.uploads.ids_n, rows, head), alpha_c))
        message = f"aggregator {name}: a client of weight zero that sent {value} changes the mean"
        require_close(message, found, expected, rtol=1e-11, atol=1e-13)


@in_float64
def dense_uploads_equal_those_of_all_items(name: str) -> None:
    """``ids_n`` None means all items in order."""
    aggregator, (uploads, alpha_c) = make_aggregator(name), sent()
    rows = {"views": jax.random.normal(jax.random.key(0), (NUM_CLIENTS, NUM_ITEMS, 2, 3))}
    ids_cn = jnp.broadcast_to(jnp.arange(NUM_ITEMS), (NUM_CLIENTS, NUM_ITEMS))
    found, expected = (joined(aggregator, Sent(Upload(ids, rows, uploads.head), alpha_c)) for ids in (None, ids_cn))
    message = f"aggregator {name}: uploads of all items differ from those that name all items"
    require_close(message, found, expected, rtol=1e-11, atol=1e-13)


@in_float64
def devices_merge_to_one(name: str) -> None:
    """Clients split over 2 and 4 devices, which `merge` joins: `jax.vmap` gives an axis its collectives."""
    aggregator, of = make_aggregator(name), sent()
    expected = joined(aggregator, of)
    for count in (2, 4):
        parts = np.array_split(np.arange(NUM_CLIENTS), count)
        carries = [carried(aggregator, [clients_at(of, part)]) for part in parts]
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *carries)
        merge = jax.vmap(lambda carry: aggregator.merge(carry, "devices"), axis_name="devices")
        merged = jax.jit(merge)(stacked)
        for k in range(count):
            found = aggregator.finish(jax.tree.map(lambda x, k=k: x[k], merged), jnp.sum(of.alpha_c))
            message = f"aggregator {name}: {count} devices do not merge to one"
            require_close(message, found, expected, rtol=1e-11, atol=1e-13)


@in_float64
def nobody_gives_zeros(name: str) -> None:
    aggregator = make_aggregator(name)
    nobody = sent()._replace(alpha_c=jnp.zeros(NUM_CLIENTS))
    for chunks in ([], [nobody]):
        found = aggregator.finish(carried(aggregator, chunks), jnp.zeros(()))
        require_form(f"aggregator {name}: a mean has not the form of the broadcast", found, broadcast())
        require_equal(f"aggregator {name}: a round of nobody does not give zeros", found, broadcast())


@in_float64
def a_linear_carry_is_the_weighted_sum(name: str) -> None:
    """Only then may the backward pass do the summing."""
    aggregator, of = make_aggregator(name), sent()
    if not aggregator.linear:
        return
    carry, mean = carried(aggregator, [of]), weighted_mean(of)
    expected = jax.tree.map(lambda x: np.sum(of.alpha_c) * x, mean)
    require_close(
        f"aggregator {name}: linear is set, but its carry is not the weighted sum of uploads",
        carry,
        expected,
        rtol=1e-11,
        atol=1e-13,
    )


def only_what_is_linear_takes_other_paths(name: str) -> None:
    """`auto` plans uploads where each is needed, and other paths are refused; else they agree."""
    aggregator, common = make_aggregator(name), {"aggregation__aggregator": name, "variant": "base"}
    if aggregator.linear:
        require_paths_agree(f"aggregator {name}", ["fused", "gathered"], **common)
        return
    for path in ("fused", "picked", "gathered"):
        assert refuses(path, **common), f"aggregator {name}: it is not linear, but path {path} is not refused"
    algorithm = make_algorithm(settings(**common), DATASET)
    plan = planned(algorithm, DATASET)
    assert {bucket.path for bucket in plan} == {"uploads"}, f"aggregator {name}: auto plans {plan}"


def rounds_are_finite(name: str) -> None:
    """Two rounds on a part of the clients move the public parameters."""
    state, info = after(2, aggregation__aggregator=name, variant="base", server__clients_per_round=6)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.public)), f"aggregator {name}: not finite"
    assert (np.asarray(info.update_norm) > 0).all(), f"aggregator {name}: the public parameters do not move"


LAWS = {
    it_equals_a_dense_computation: (),
    equal_uploads_and_one_client_give_the_weighted_mean: (),
    order_and_chunks_of_clients_are_irrelevant: (),
    a_client_of_weight_zero_changes_nothing: (),
    dense_uploads_equal_those_of_all_items: (),
    devices_merge_to_one: (),
    nobody_gives_zeros: (),
    a_linear_carry_is_the_weighted_sum: (),
    only_what_is_linear_takes_other_paths: ("weighted_mean",),
    rounds_are_finite: ("weighted_mean", "trimmed_mean"),
}
