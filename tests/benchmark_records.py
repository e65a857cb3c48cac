"""Made-up finished runs of a benchmark, deterministic: what the table and the report are tested on."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from fedvlr_jax.benchmark.records import CENTRALISED, CONTROL, FEDERATED, CurvePoint, MethodRuns
from fedvlr_jax.types import Dataset, Ranks

HOSTS = ("fedavg", "fcf", "fedncf", "pfedrec", "fedrap")
VARIANTS = ("base", "mlp", "vbpr", "fedvlr")
CONTROL_KINDS = ("shuffled features", "random features", "without V", "without C", "without D")
BASELINES = ("popularity", "item_knn", "content_knn", "ease", "content_ease", "constant", "cold_first", "local_only")
LEARNERS = ("bpr_mf", "vbpr", "bm3", "mgcn", "pgl")


def make_ranks(dataset: Dataset, seed: int, *, skill: float = 0.5, tied: int = 1) -> Ranks:
    """Ranks that are better for a higher skill in (0, 1), ties of up to `tied` items, a user with constant scores."""
    rng = np.random.default_rng(seed)
    item_tu = np.stack([dataset.valid_item, dataset.test_item])
    # A user is as hard under every method and seed; what is added differs.
    hard_tu = np.random.default_rng(0).random(item_tu.shape)
    place_tu = np.clip(0.6 * hard_tu + 0.4 * rng.random(item_tu.shape), 0, 1) ** (1 / (1 - skill))
    return Ranks(
        item=item_tu,
        greater=(place_tu * (dataset.num_items - tied)).astype(np.int32),
        tied=rng.integers(1, tied + 1, item_tu.shape).astype(np.int32),
        constant=np.arange(dataset.num_users) < (tied > 1),
        nonfinite=np.zeros(dataset.num_users, np.int32),
        user=dataset.held_user,
    )


def make_curve(seed: int, *, points: int = 30, megabytes: float | None = 0.3, height: float = 0.3):
    """A rising validation curve with noise, evaluated every 5 rounds."""
    rng = np.random.default_rng(seed)
    found = []
    for p in range(1, points + 1):
        ndcg = height * (1 - np.exp(-p / 6)) + 0.01 * rng.normal()
        valid = {"NDCG@50": float(ndcg), "HR@50": float(2.4 * ndcg)}
        found.append(CurvePoint(5 * p, valid, None if megabytes is None else 5 * p * megabytes, 0.1 * p))
    return tuple(found)


def make_method(
    dataset: Dataset,
    name: str,
    family: str = CENTRALISED,
    *,
    seeds: Sequence[int] = (0,),
    skill: float = 0.5,
    tied: int = 1,
    trained: bool | None = None,
    failures: Sequence[str] = (),
) -> MethodRuns:
    """One method; host and variant are read from its name."""
    federated = family in (FEDERATED, CONTROL)
    host, _, variant = name.partition(", ")[0].partition("+") if federated else ("", "", "")
    start = zlib.crc32(name.encode())  # str.__hash__ differs from process to process
    megabytes = 0.1 + start % 100 / 50 if federated else None
    trained = federated if trained is None else trained
    return MethodRuns(
        name=name,
        family=family,
        host=host,
        variant=variant,
        hyper={"client.lr": 0.1, "server.lr": 0.01} if trained else {},
        points=6 if trained else 1,
        seeds=tuple(seeds),
        ranks=tuple(make_ranks(dataset, start + s, skill=skill, tied=tied) for s in seeds),
        best_rounds=tuple(100 + 5 * s for s in seeds),
        curves=tuple(make_curve(start + s, megabytes=megabytes, height=skill / 2) if trained else () for s in seeds),
        seconds=12.5,
        megabytes_per_round=megabytes,
        num_public=35_840 if federated else None,
        num_private_per_client=12_612 if federated else None,
        failures=tuple(failures),
    )


def whole_benchmark(dataset: Dataset, seeds: Sequence[int] = (0, 1, 2, 3, 4)) -> list[MethodRuns]:
    """As many methods as the real benchmark has: 21 federated, 30 controls, 14 centralised, one of them failed."""
    skill = {"base": 0.55, "mlp": 0.5, "vbpr": 0.57, "fedvlr": 0.65}
    found = [
        make_method(dataset, f"{host}+{variant}", FEDERATED, seeds=seeds, skill=skill[variant] - 0.02 * h)
        for h, host in enumerate(HOSTS)
        for variant in VARIANTS
    ]
    found.append(make_method(dataset, "own+fedvlr", FEDERATED, seeds=seeds, skill=0.72))
    found += [
        make_method(dataset, f"{host}+fedvlr, {kind}", CONTROL, seeds=seeds, skill=0.45)
        for host in (*HOSTS, "own")
        for kind in CONTROL_KINDS
    ]
    skills = dict(zip(BASELINES, (0.35, 0.55, 0.4, 0.6, 0.62, 0.05, 0.5, 0.45), strict=True))
    found += [
        make_method(dataset, name, skill=skills[name], tied=9 if name == "constant" else 1) for name in BASELINES
    ]
    found += [make_method(dataset, name, seeds=seeds, skill=0.55, trained=True) for name in LEARNERS]
    failed = make_method(dataset, "local_mlp", seeds=(), failures=["seed 0: the loss was not finite at round 3"])
    return [*found, failed]
