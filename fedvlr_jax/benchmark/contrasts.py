"""The paired tests of the benchmark: which comparisons are made, and one correction over all of them.

Tested is `SELECTION_METRIC` on the test rows. Every fedvlr method is compared with the base and the mlp variant of
its host, every variant that is not the paper's with its base and fedvlr variants, and every method with its
shuffled-feature and random-feature controls, and those of score views where it has any; of every further host, the
method that validation prefers is compared with the centralised method that validation prefers. All these tests are
corrected at once (Holm).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fedvlr_jax.benchmark import order
from fedvlr_jax.benchmark.methods import VIEW_CONTROLS
from fedvlr_jax.benchmark.published import PAPER_HOSTS, PAPER_VARIANTS
from fedvlr_jax.benchmark.records import CENTRALISED, CONTROL, FEDERATED, MethodRuns
from fedvlr_jax.evaluation.comparison import Comparison, compare, holm
from fedvlr_jax.evaluation.metrics import SELECTION_METRIC, seed_user_values

LEVEL = 0.05
REFERENCES = (order.SHUFFLED, order.RANDOM, *VIEW_CONTROLS)
"""Controls that a method is compared with."""


class Contrast(NamedTuple):
    """One test.

    Attributes:
      method, against: names of the two methods.
      result: of ``method`` minus ``against``, in `SELECTION_METRIC` on the test rows.
      p_holm: its p-value, corrected over the whole family.
    """

    method: str
    against: str
    result: Comparison
    p_holm: float

    @property
    def verdict(self) -> str:
        """At the level 0.05 after the correction: "higher", "lower", or "not separated"."""
        if self.p_holm > LEVEL:
            return "not separated"
        return "higher" if self.result.difference > 0 else "lower"


def make_contrasts(methods: Sequence[MethodRuns]) -> list[Contrast]:
    """All tests of the benchmark; none where there is no test row.

    Args:
      methods: on one data set; those without a finished run are left out.
    """
    methods = order.in_order(filter(order.has_numbers, methods))
    value_of = {method.name: seed_user_values(method.ranks, SELECTION_METRIC) for method in methods}
    pairs = [(a.name, b.name) for a, b in _pairs(methods) if value_of[a.name].size]
    results = [compare(value_of[a], value_of[b]) for a, b in pairs]
    corrected = holm([result.p_value for result in results])
    return [Contrast(a, b, r, float(p)) for (a, b), r, p in zip(pairs, results, corrected, strict=True)]


def _pairs(methods: Sequence[MethodRuns]) -> Iterator[tuple[MethodRuns, MethodRuns]]:
    federated = [method for method in methods if method.family == FEDERATED]
    for method in federated:
        yield from ((method, other) for other in methods if _is_reference(other, method))
    strongest = order.best_on_validation(m for m in methods if m.family == CENTRALISED)
    for host in order.hosts_of(federated):
        if (
            strongest
            and host not in PAPER_HOSTS
            and (best := order.best_on_validation(m for m in federated if m.host == host))
        ):
            yield best, strongest


def _is_reference(other: MethodRuns, method: MethodRuns) -> bool:
    """Whether `other` is what a gain of the method is measured from."""
    if not method.host or other.host != method.host:
        return False
    if other.family == CONTROL:
        return other.variant == method.variant and order.control_kind(other) in REFERENCES
    if method.variant in PAPER_VARIANTS:
        references: tuple[str, ...] = ("base", "mlp") if method.variant == "fedvlr" else ()
    else:
        references = ("base", "fedvlr")
    return other.family == FEDERATED and other.variant in references
