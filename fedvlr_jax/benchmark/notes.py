"""The sentences under the tables: what every number and mark is, on what data and with what it was made."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedvlr_jax.benchmark import order, tables
from fedvlr_jax.benchmark.published import CONSTANT_NOTE, PAPER_METRICS, equals_constant
from fedvlr_jax.benchmark.records import CENTRALISED, CONTROL, MethodRuns, is_last
from fedvlr_jax.benchmark.table import COLD, RESAMPLES, WARM, TableRow
from fedvlr_jax.data.heldout import held_users
from fedvlr_jax.evaluation.groups import by_warmth
from fedvlr_jax.evaluation.intervals import LEAST_USERS
from fedvlr_jax.evaluation.metrics import SELECTION_METRIC
from fedvlr_jax.types import Dataset

_KINDS = {
    order.SHUFFLED: "rows permuted, so that they say nothing about the items",
    order.RANDOM: "rows drawn anew",
    "without D": "no item ids",
    "without V": "no visual features",
    "without C": "no textual features",
    "ID only": "no features",
    "swapped deviations": "a client ranks with the private weights of the next one by id, which are none where "
    "`host.deviation` is 0",
    "best view alone": "the single view that learning starts from",
}
"""What each kind of control changes."""


def make_notes(rows: Sequence[TableRow], dataset: Dataset, environment: Mapping[str, Any]) -> list[str]:
    """All notes that this table needs, plain sentences with Markdown's `code` marks.

    Args:
      rows: of the table.
      dataset: what they were run on.
      environment: as `io.environment.describe_environment` gives it; "date" (ISO) is the day of the runs, today if
        it is missing.
    """
    return [
        _data(dataset),
        "Metrics are exact expectations under uniformly random order of equal scores, over the whole catalogue "
        "without the user's train items, never rounded before averaging.",
        f"Rounds, epochs and hyper-parameters were chosen by validation {SELECTION_METRIC} alone; test rows chose "
        "nothing.",
        *_ends(rows),
        *_still_gaining(rows),
        *_several(dataset),
        *_spread(rows, dataset),
        "tied: share of test rows whose item has the score of another candidate; constant: share of users whose "
        "candidates have one score. Both in percent.",
        *_marks(rows),
        *_published(rows, dataset),
        *_controls(rows, dataset),
        *_tests(rows),
        _environment(environment),
    ]


def _data(dataset: Dataset) -> str:
    rows = len(dataset.train_item) + int((dataset.valid_item >= 0).sum() + (dataset.test_item >= 0).sum())
    group_h = by_warmth(dataset, dataset.test_item).group_h
    warm, cold = int((group_h == WARM).sum()), int((group_h == COLD).sum())
    return (
        f"{dataset.name}: {dataset.num_users:,} users, {dataset.num_items:,} items, {rows:,} interactions; "
        f"{group_h.size:,} test rows, {warm:,} with a warm item (one with train rows) and {cold:,} with a cold one."
    )


def _ends(rows: Sequence[TableRow]) -> list[str]:
    """Which methods validation took to an end of their grid."""
    found = [f"{row.method.name} ({'; '.join(row.method.ends)})" for row in rows if row.method.ends]
    if not found:
        return []
    return [
        "Chosen at an end of what was tried, of three values or more, so that another grid may do better: "
        f"{', '.join(found)}."
    ]


def _still_gaining(rows: Sequence[TableRow]) -> list[str]:
    """Which methods were best at the last round or epoch that they were given."""
    found = []
    for row in rows:
        runs = list(zip(row.method.curves, row.method.best_rounds, strict=True))
        if at_last := sum(is_last(curve, best) for curve, best in runs):
            found.append(f"{row.method.name} ({at_last} of {len(runs)} seeds)")
    if not found:
        return []
    return [f"Best at the last round or epoch, so that longer training may do better: {', '.join(found)}."]


def _several(dataset: Dataset) -> list[str]:
    if dataset.held_user is None:
        return []
    return [
        "Several held-out rows a user: HR and NDCG rank each row without the user's others of that split; Recall, "
        "Precision and MAP take them all as the relevant set of one list. Means over a user's rows, then over users."
    ]


def _spread(rows: Sequence[TableRow], dataset: Dataset) -> list[str]:
    seeds = sorted({len(row.method.seeds) for row in rows if row.method.seeds})
    found = [
        f"±: sample standard deviation over seeds (seeds a method: {' or '.join(map(str, seeds)) or 'none'}), "
        "absent with one. Methods without randomness have one seed.",
        f"Intervals: 95 %, {RESAMPLES:,} bootstrap resamples of users and seeds; with one seed they speak of users "
        "only. Where the spread between seeds dominates, five seeds cover about 92 % and three about 86 %.",
    ]
    tested = len(np.unique(held_users(dataset)[dataset.test_item >= 0]))
    if tested < LEAST_USERS:
        what = "test rows" if dataset.held_user is None else "users with test rows"
        found.append(f"No intervals: they need at least {LEAST_USERS} users, the set has {tested} {what}.")
    return found


def _marks(rows: Sequence[TableRow]) -> list[str]:
    marks = [
        (
            tables.BELOW_POPULARITY,
            any(r.below_popularity for r in rows),
            f"test {SELECTION_METRIC} below that of popularity.",
        ),
        (tables.NOT_FINITE, any(r.nonfinite_users for r in rows), "some scores were not finite; they rank last."),
        (tables.SOME_FAILED, any(r.method.failures for r in rows), "some or all runs failed, see Failures."),
    ]
    found = [f"{mark} {meaning}" for mark, holds, meaning in marks if holds]
    if not any(row.method.name == order.POPULARITY and order.has_numbers(row.method) for row in rows):
        found.append(f"{order.POPULARITY} has no numbers here, so that no method is marked as below it.")
    return found


def _published(rows: Sequence[TableRow], dataset: Dataset) -> list[str]:
    if not any(row.scores[name].published is not None for row in rows for name in PAPER_METRICS):
        return [f"The paper (arXiv 2410.08478) has no numbers for these methods on {dataset.name}."]
    found = [
        "published: table 2 of the paper (arXiv 2410.08478), as printed; other code, another treatment of ties, and "
        "another choice of rounds and settings, so differences to it are not differences between methods."
    ]
    if any(equals_constant(dataset.name, row.method.name) for row in rows):
        found.append(f"{tables.LIKE_A_CONSTANT} {CONSTANT_NOTE}")
    return found


def _controls(rows: Sequence[TableRow], dataset: Dataset) -> list[str]:
    missing = [name for name, x in (("visual", dataset.V), ("textual", dataset.C)) if x is None]
    found = [f"The set has no {' and no '.join(missing)} features."] if missing else []
    kinds = dict.fromkeys(order.control_kind(row.method) for row in rows if row.block == order.CONTROLS)
    if not kinds:
        return [*found, "No controls were run."]
    meanings = [f"{kind}: {meaning}" for kind, meaning in _KINDS.items() if kind in kinds]
    if meanings:
        found.append(f"Controls repeat a method with one thing changed. {'; '.join(meanings)}.")
    if {order.SHUFFLED, order.RANDOM} <= kinds.keys():
        found.append("A gain counts as multimodal only if it beats shuffled and random features.")
    return found


def _tests(rows: Sequence[TableRow]) -> list[str]:
    strongest = order.best_on_validation(row.method for row in rows if row.method.family == CENTRALISED)
    found = [
        "Tests: paired permutation tests over users (a user's value is the mean over seeds), two-sided. d_z: mean "
        "difference over the standard deviation of the users' differences."
    ]
    if strongest:
        found.append(
            f"The centralised method with the highest validation {SELECTION_METRIC} is {strongest.name}; of every "
            "further federated host, the method that validation prefers is tested against it."
        )
    return found + _absent_controls([row.method for row in rows])


def _absent_controls(methods: Sequence[MethodRuns]) -> list[str]:
    """Which fedvlr methods miss a test because a method they are compared with is not there."""
    controls = {
        (m.host, order.control_kind(m)) for m in methods if m.family == CONTROL and m.variant == "fedvlr" and m.seeds
    }
    hosts = [
        host for host in order.hosts_of(methods) if any(m.host == host and m.variant == "fedvlr" for m in methods)
    ]
    missing = {
        kind: [host for host in hosts if (host, kind) not in controls] for kind in (order.SHUFFLED, order.RANDOM)
    }
    return [f"No control with {kind} for {', '.join(names)}." for kind, names in missing.items() if names]


def _environment(environment: Mapping[str, Any]) -> str:
    packages = [f"{name} {version}" for name, version in (environment.get("packages") or {}).items() if version]
    known = {
        "Python": environment.get("python"),
        "packages": ", ".join(packages),
        "devices": ", ".join(environment.get("devices") or []),
        "processor": environment.get("processor"),
        "cores": environment.get("cores"),
        "platform": environment.get("platform"),
        "commit": environment.get("commit"),
        "command": f"`{' '.join(environment['command'])}`" if environment.get("command") else None,
    }
    date = environment.get("date") or datetime.date.today().isoformat()
    return f"Made on {date} with " + "; ".join(f"{name} {value}" for name, value in known.items() if value) + "."
