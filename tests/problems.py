"""Small federated problems for tests: settings with overrides, a tiny data set, and its client data."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.base import get_config
from fedvlr_jax.benchmark.published import PAPER_VARIANTS
from fedvlr_jax.federated.bucket_plan import plan_buckets
from fedvlr_jax.models.hosts import HOSTS
from fedvlr_jax.models.variants import VARIANTS
from fedvlr_jax.types import Bucket, ClientData, Content, Dataset

HOST_NAMES = tuple(HOSTS)
VARIANT_NAMES = tuple(VARIANTS)
MODELS = (
    *((host, variant) for host in HOST_NAMES for variant in PAPER_VARIANTS),
    *(("fcf", variant) for variant in VARIANT_NAMES if variant not in PAPER_VARIANTS),
)
"""Every host in the paper's variants, and one host in the others."""

SMALL = {
    "fusion__dim": 8,
    "fusion__heads": 2,
    "client__steps": 2,
    "client__negatives": 3,
    "client__lr": 0.3,
    "client__init_scale": 0.3,
    "client__optimizer": "sgd",
    "server__init_scale": 0.3,
    "server__lr": 0.05,
    "server__optimizer": "sgd",
    "objective": "bce",
    "variant": "fedvlr",
    "fusion__operators": "sum,mlp,gate",
    "host__sparsity_weight": 0.01,
    "host__table_lr": 0.3,
    "host__fusion_weight": 0.3,
    "host__deviation": 0.1,
}


def spread(cases: Iterable[Any], fast: Iterable[Any]) -> list:
    """All cases (tuples, or values of one argument) as parameters of a test; those not in `fast` are marked slow."""
    fast = set(fast)

    def slow(case: Any) -> Any:
        return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)

    return [case if case in fast else slow(case) for case in cases]


def settings(**overrides: Any) -> dict[str, Any]:
    """The base configuration, small and with plain SGD; ``section__field=value`` overrides."""
    tree = copy.deepcopy(get_config().to_dict())
    for path, value in (SMALL | overrides).items():
        *sections, field = path.split("__")
        node = tree
        for section in sections:
            node = node[section]
        node[field] = value
    return tree


def tiny_dataset(
    num_users: int = 13, num_items: int = 40, seed: int = 0, dtype: type = np.float32, longest: int = 12
) -> Dataset:
    """Random interactions with histories of 1 to `longest` items, and random unit-norm features of widths 6 and 5."""
    rng = np.random.default_rng(seed)
    lengths = 1 + rng.permutation(num_users) % longest
    picks = [np.sort(rng.choice(num_items, n + 2, replace=False)) for n in lengths]
    held = [rng.permutation(p) for p in picks]
    train = [np.sort(h[2:]) for h in held]
    features = [rng.normal(size=(num_items, d)) for d in (6, 5)]
    V, C = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in features)
    return Dataset(
        name="tiny",
        num_users=num_users,
        num_items=num_items,
        train_user=np.repeat(np.arange(num_users), lengths).astype(np.int32),
        train_item=np.concatenate(train).astype(np.int32),
        valid_item=np.array([h[0] for h in held], np.int32),
        test_item=np.array([h[1] for h in held], np.int32),
        V=V.astype(dtype),
        C=C.astype(dtype),
    )


def histories(dataset: Dataset) -> list[np.ndarray]:
    """Train items of every user, ascending."""
    return [np.sort(dataset.train_item[dataset.train_user == u]) for u in range(dataset.num_users)]


def client_data(dataset: Dataset, widths: tuple[int, ...] = (16,), order: np.ndarray | None = None) -> ClientData:
    """Client data with buckets of the given widths, users in the given order within a bucket."""
    rows = histories(dataset)
    order = np.arange(dataset.num_users) if order is None else order
    buckets, low = [], 0
    for width in widths:
        user = np.array([u for u in order if low < len(rows[u]) <= width], np.int32)
        low = width
        if user.size:
            history = np.full((user.size, width), dataset.num_items, np.int32)
            for k, u in enumerate(user):
                history[k, : len(rows[u])] = rows[u]
            buckets.append(Bucket(jnp.asarray(user), jnp.asarray(history)))
    return ClientData(tuple(buckets), Content(jnp.asarray(dataset.V), jnp.asarray(dataset.C)))


def relative_difference(a: Any, b: Any) -> float:
    """Largest over leaves of ||a - b|| / ||b||, a leaf counting as at least 1e-2 of the whole tree."""
    pairs = [
        (np.asarray(x, np.float64), np.asarray(y, np.float64))
        for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    ]
    whole = np.sqrt(sum(np.sum(y**2) for _, y in pairs))
    return max((np.linalg.norm(x - y) / (np.linalg.norm(y) + 1e-2 * whole + 1e-30) for x, y in pairs), default=0.0)


def planned(algorithm, dataset):
    """How the library would compute every bucket of a data set where nothing is asked for."""
    return plan_buckets(
        algorithm.model,
        algorithm.local,
        client_data(dataset).buckets,
        dataset.num_items,
        path="auto",
        chunk=0,
        forms_uploads=algorithm.pipeline.forms_uploads,
        scales_uploads=algorithm.pipeline.scales_uploads,
    )
