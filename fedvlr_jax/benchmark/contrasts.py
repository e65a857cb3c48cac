"""The paired tests of the benchmark: which comparisons are made, and one correction over all of them.

Tested is `SELECTION_METRIC` on the test rows. Every fedvlr method is compared with the base and the mlp variant of
its host, every variant that is not the paper's with its base and fedvlr variants, and every method with its
shuffled-feature and random-feature controls, and those of score views where it has any. A method that comes again
with changed settings ("fcf+fedvlr, eps 8") has no controls; it is compared with itself unchanged, and with the
variants above under the same change or, where they do not come again, unchanged. Of every further host, the method
that validation prefers is compared with the centralised method that validation prefers. All these tests are corrected
at once (Holm).
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import NamedTuple

from fedvlr_jax.benchmark import order
from fedvlr_jax.benchmark.methods import VIEW_CONTROLS
from fedvlr_jax.benchmark.published import PAPER_HOSTS, PAPER_VARIANTS
from fedvlr_jax.benchmark.records import CENTRALISED, FEDERATED, MethodRuns
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
    names = {method.name for method in federated}
    for method in federated:
        wanted = set(_references(method, names)) - {method.name}
        yield from ((method, other) for other in methods if other.name in wanted)
    strongest = order.best_on_validation(m for m in methods if m.family == CENTRALISED)
    for host in order.hosts_of(federated):
        if (
            strongest
            and host not in PAPER_HOSTS
            and (best := order.best_on_validation(m for m in federated if m.host == host))
        ):
            yield best, strongest


def _references(method: MethodRuns, names: Container[str]) -> Iterator[str]:
    """Names that the method's gain is measured from, whether they ran or not; `names` are the federated methods."""
    if not method.host:
        return
    yield from (f"{method.name}, {kind}" for kind in REFERENCES)
    plain, comma, change = method.name.partition(", ")
    if comma:
        yield plain
    if method.variant in PAPER_VARIANTS:
        variants: tuple[str, ...] = ("base", "mlp") if method.variant == "fedvlr" else ()
    else:
        variants = ("base", "fedvlr")
    for variant in variants:
        name = f"{method.host}+{variant}"
        changed = f"{name}, {change}"
        yield changed if comma and changed in names else name
