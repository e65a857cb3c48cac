"""Which block of the table a method is in, what it is a control of, and which rows others refer to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from fedvlr_jax.benchmark.published import PAPER_HOSTS
from fedvlr_jax.benchmark.records import CONTROL, FEDERATED, MethodRuns
from fedvlr_jax.evaluation.metrics import SELECTION_METRIC, VALID, user_values
from fedvlr_jax.models.variants import VARIANTS

SHUFFLED, RANDOM = "shuffled features", "random features"
"""Controls of a multimodal gain; a control is named ``"<host>+<variant>, <kind>"``; "without V" is a kind too."""

PAPER, FURTHER, CONTROLS, CENTRAL = "Hosts of the paper", "Further federated methods", "Controls", "Centralised"
BLOCKS = (PAPER, FURTHER, CONTROLS, CENTRAL)
POPULARITY = "popularity"


def block_of(method: MethodRuns) -> str:
    """One of `BLOCKS`."""
    if method.family == CONTROL:
        return CONTROLS
    if method.family == FEDERATED:
        return PAPER if method.host in PAPER_HOSTS else FURTHER
    return CENTRAL


def control_kind(method: MethodRuns) -> str:
    """What was done to the method that a control repeats, such as `SHUFFLED`; "" where the name has none."""
    return method.name.partition(", ")[2] if method.family == CONTROL else ""


def in_order(methods: Iterable[MethodRuns]) -> list[MethodRuns]:
    """By block; there by host and variant in the paper's order, others as given."""
    hosts, variants = list(PAPER_HOSTS), list(VARIANTS)

    def key(method: MethodRuns) -> tuple[int, int, int]:
        host = hosts.index(method.host) if method.host in hosts else len(hosts)
        variant = variants.index(method.variant) if method.variant in variants else len(variants)
        return BLOCKS.index(block_of(method)), host, variant

    return sorted(methods, key=key)


def hosts_of(methods: Sequence[MethodRuns]) -> list[str]:
    """The hosts of the federated methods, without controls: those of the paper first, in its order."""
    found = dict.fromkeys(m.host for m in in_order(methods) if m.family == FEDERATED and m.host)
    return list(found)


def has_numbers(method: MethodRuns) -> bool:
    """Whether a run of the method finished."""
    return bool(method.seeds)


def best_on_validation(methods: Iterable[MethodRuns]) -> MethodRuns | None:
    """The method with the highest validation metric (the first of equals); None where none has a validation row."""
    scored = [(valid_value(method), method) for method in methods if has_numbers(method)]
    known = [(value, method) for value, method in scored if value is not None]
    return max(known, key=lambda pair: pair[0])[1] if known else None


def valid_value(method: MethodRuns) -> float | None:
    """`SELECTION_METRIC` on validation, mean over users and seeds; what everything is chosen by."""
    values = [user_values(ranks, SELECTION_METRIC, split=VALID) for ranks in method.ranks]
    return float(np.mean(values)) if values and values[0].size else None
