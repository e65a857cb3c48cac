"""The numbers of the benchmark's table against loops over seeds and users, and its paired tests."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from benchmark_records import HOSTS, make_method, whole_benchmark
from ranking_oracle import random_dataset

from fedvlr_jax.benchmark import order
from fedvlr_jax.benchmark.contrasts import LEVEL, make_contrasts
from fedvlr_jax.benchmark.groups import long_rows, make_groups
from fedvlr_jax.benchmark.records import CONTROL, FEDERATED
from fedvlr_jax.benchmark.table import CONSTANT_RATE, TIE_RATE, Estimate, make_rows, megabytes_of, metric_columns
from fedvlr_jax.evaluation.comparison import compare
from fedvlr_jax.evaluation.intervals import mean_intervals
from fedvlr_jax.types import Dataset

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """60 users and 90 items of a published name; some users lack a test or a validation item, some items are cold."""
    dataset = random_dataset(0, 60, 90, density=0.15)
    valid_item, test_item = dataset.valid_item.copy(), dataset.test_item.copy()
    test_item[::7], test_item[1::4], valid_item[2::7] = -1, 0, -1
    return dataclasses.replace(dataset, name="KU", valid_item=valid_item, test_item=test_item)


@pytest.fixture(scope="module")
def methods(dataset):
    return whole_benchmark(dataset, seeds=SEEDS)


@pytest.fixture(scope="module")
def rows(methods, dataset):
    return {row.method.name: row for row in make_rows(methods, dataset)}


@pytest.fixture(scope="module")
def contrasts(methods):
    return make_contrasts(methods)


def gain(greater: int, tied: int, kind: str, k: int) -> float:
    """The expected metric of one row, over the ranks that its item can have."""
    ranks = range(greater + 1, greater + tied + 1)
    return sum((1.0 if kind == "HR" else 1 / math.log2(r + 1)) for r in ranks if r <= k) / tied


def naive_values(method, dataset, name: str) -> list[list[float]]:
    """[s][rows], by loops, of a metric as the table names it."""
    prefix, _, rest = name.rpartition(" ")
    kind, k = rest.split("@")
    t = 0 if prefix == "valid" else 1
    train = set(dataset.train_item.tolist())
    users = [u for u in range(dataset.num_users) if method.ranks[0].item[t, u] >= 0]
    if prefix in ("test_warm", "test_cold"):
        users = [u for u in users if (int(dataset.test_item[u]) in train) == (prefix == "test_warm")]
    return [[gain(int(r.greater[t, u]), int(r.tied[t, u]), kind, int(k)) for u in users] for r in method.ranks]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own+fedvlr", "fcf+fedvlr, without V", "constant", "bm3"])
def test_every_number_equals_a_loop_over_seeds_and_users(rows, dataset, name):
    row = rows[name]
    assert [column.name for column in metric_columns()] == list(row.scores)[:-2]
    for column in metric_columns():
        values = naive_values(row.method, dataset, column.name)
        estimate = row.scores[column.name]
        means = [sum(seed) / len(seed) for seed in values]
        assert estimate.mean == pytest.approx(sum(means) / len(means), rel=1e-12), column.name
        if len(means) == 1:
            assert estimate.std is None
        else:
            center = sum(means) / len(means)
            assert estimate.std == pytest.approx(math.sqrt(sum((m - center) ** 2 for m in means) / (len(means) - 1)))
        (interval,) = mean_intervals(np.array(values)[None])
        assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high))  # or both None
    shares = [
        np.mean([r.tied[1, u] > 1 for u in range(dataset.num_users) if r.item[1, u] >= 0]) for r in row.method.ranks
    ]
    assert row.scores[TIE_RATE].mean == pytest.approx(np.mean(shares))
    assert row.scores[CONSTANT_RATE].mean == pytest.approx(np.mean([r.constant.mean() for r in row.method.ranks]))


def test_the_tied_method_has_ties_and_a_constant_user(rows):
    assert rows["constant"].scores[TIE_RATE].mean > 0.5
    assert rows["constant"].scores[CONSTANT_RATE].mean == pytest.approx(1 / 60)
    assert rows["ease"].scores[TIE_RATE].mean == 0


def test_flags_costs_and_published_numbers(rows):
    floor = rows["popularity"].scores["NDCG@50"].mean
    below = {name for name, row in rows.items() if row.below_popularity}
    assert below == {n for n, r in rows.items() if r.method.seeds and r.scores["NDCG@50"].mean < floor}
    assert "constant" in below
    own = rows["own+fedvlr"]
    assert own.megabytes == pytest.approx(own.method.megabytes_per_round * (100 + 105 + 110) / 3)
    before = tuple(tuple(p._replace(megabytes=p.megabytes + 7.0) for p in curve) for curve in own.method.curves)
    assert megabytes_of(own.method._replace(curves=before)) == pytest.approx(own.megabytes + 7.0)
    assert megabytes_of(own.method._replace(curves=((),) * 3)) == pytest.approx(own.megabytes)  # a single exchange
    assert rows["ease"].megabytes is None
    assert rows["fcf+fedvlr"].scores["HR@50"].published == 0.5539
    assert rows["fcf+fedvlr"].scores["HR@10"].published is None
    assert rows["fcf+fedvlr, without V"].scores["HR@50"].published is None


def test_rows_stand_in_blocks_in_the_papers_order(methods, rows):
    names = [method.name for method in order.in_order(methods[::-1])]
    assert names[:4] == ["fedavg+base", "fedavg+mlp", "fedavg+vbpr", "fedavg+fedvlr"]
    assert [n.partition("+")[0] for n in names[:21:4]] == [*HOSTS, "own"]
    assert [block for block, _ in itertools.groupby(row.block for row in rows.values())] == list(order.BLOCKS)


def test_a_method_without_a_finished_run_has_a_row_without_numbers(rows):
    failed = rows["local_mlp"]
    assert set(failed.scores.values()) == {Estimate()}
    assert (failed.below_popularity, failed.nonfinite_users, failed.megabytes) == (False, 0, None)


def test_rows_that_the_set_lacks_have_no_numbers(dataset):
    warm_only = dataclasses.replace(dataset, test_item=np.where(dataset.test_item == 0, -1, dataset.test_item))
    cold = ~np.isin(warm_only.test_item, warm_only.train_item)
    warm_only = dataclasses.replace(warm_only, test_item=np.where(cold, -1, warm_only.test_item))
    (row,) = make_rows([make_method(warm_only, "ease")], warm_only)
    assert row.scores["test_cold NDCG@50"] == Estimate()
    assert row.scores["test_warm NDCG@50"].mean == row.scores["NDCG@50"].mean
    no_test = dataclasses.replace(dataset, test_item=np.full(60, -1))
    methods = [make_method(no_test, f"fcf+{variant}", FEDERATED, seeds=SEEDS) for variant in ("base", "fedvlr")]
    for row in make_rows(methods, no_test):
        assert row.scores["NDCG@50"] == Estimate(published=row.scores["NDCG@50"].published)
        assert row.scores[TIE_RATE] == Estimate()
        assert row.scores["valid NDCG@50"].mean is not None
    assert make_contrasts(methods) == []


def test_methods_of_other_rows_or_with_one_name_are_refused(methods, dataset):
    with pytest.raises(ValueError, match=r"distinct names, found ease more than once"):
        make_rows([make_method(dataset, "ease")] * 2, dataset)
    other = dataclasses.replace(dataset, test_item=np.roll(dataset.test_item, 1))
    with pytest.raises(ValueError, match=r"ease: expected ranks of the held-out items of KU"):
        make_rows([make_method(other, "ease")], dataset)


def test_the_family_of_tests(methods, dataset, contrasts):
    expected = {
        (f"{host}+fedvlr", against)
        for host in HOSTS
        for against in (
            f"{host}+base",
            f"{host}+mlp",
            f"{host}+fedvlr, shuffled features",
            f"{host}+fedvlr, random features",
        )
    }
    best = max((m for m in methods if m.family == "centralised" and m.seeds), key=order.valid_value).name
    expected |= {("own+fedvlr", f"own+fedvlr, {kind}") for kind in ("shuffled features", "random features")}
    assert {(c.method, c.against) for c in contrasts} == expected | {("own+fedvlr", best)}
    assert len(contrasts) == len(expected) + 1

    ordered, largest = sorted(contrasts, key=lambda c: c.result.p_value), 0.0
    for k, c in enumerate(ordered):
        largest = max(largest, (len(ordered) - k) * c.result.p_value)
        assert c.p_holm == pytest.approx(min(1, largest))
    # Holm by its definition: reject while the k-th smallest p-value is at most LEVEL / (m - k).
    p_values = [c.result.p_value for c in ordered]
    passed = list(itertools.takewhile(lambda kp: kp[1] <= LEVEL / (len(p_values) - kp[0]), enumerate(p_values)))
    assert sum(c.verdict != "not separated" for c in contrasts) == len(passed) > 0
    by_name = {m.name: m for m in methods}
    for c in contrasts:
        values = [np.array(naive_values(by_name[name], dataset, "NDCG@50")) for name in (c.method, c.against)]
        again = compare(*values)
        assert (c.result.difference, c.result.effect_size) == pytest.approx((again.difference, again.effect_size))
        # The order of summation decides which users have equal differences, and with them which signs are drawn.
        assert c.result.p_value == pytest.approx(again.p_value, abs=0.02)
        assert c.verdict in ("not separated", "higher" if values[0].mean() > values[1].mean() else "lower")


def test_what_is_compared_does_not_depend_on_test_rows(methods, contrasts):
    def scrambled(method):  # the worst method by validation becomes the best by test
        factor = 0 if method.name == "constant" else 2
        ranks = [r._replace(greater=np.stack([r.greater[0], factor * r.greater[1]])) for r in method.ranks]
        return method._replace(ranks=tuple(ranks))

    few = [method for method in methods if method.host in ("own", "")]
    found = [(c.method, c.against) for c in make_contrasts(list(map(scrambled, few)))]
    assert found == [(c.method, c.against) for c in contrasts if c.method == "own+fedvlr"]
    assert len(found) == 3


def test_a_further_host_without_variants_is_tested_against_its_controls(dataset):
    own = make_method(dataset, "fusedease", FEDERATED, seeds=SEEDS, skill=0.7)
    control = make_method(dataset, "fusedease, shuffled features", CONTROL, seeds=SEEDS, skill=0.3)
    lone = make_method(dataset, "fedease", FEDERATED)._replace(host="")
    found = make_contrasts(
        [own, control, lone, make_method(dataset, "ease"), make_method(dataset, "constant", skill=0.1)]
    )
    assert [(c.method, c.against) for c in found] == [("fusedease", control.name), ("fusedease", "ease")]


def test_a_variant_that_is_not_the_papers_is_tested_against_base_and_fedvlr(dataset):
    of_host = [make_method(dataset, f"fcf+{v}", FEDERATED, seeds=SEEDS) for v in ("base", "mlp", "fedvlr", "gfmfr")]
    found = [(c.method, c.against) for c in make_contrasts(of_host) if c.method == "fcf+gfmfr"]
    assert found == [("fcf+gfmfr", "fcf+base"), ("fcf+gfmfr", "fcf+fedvlr")]


def test_a_method_with_changed_settings_is_tested_against_itself_and_what_changed_alike(dataset):
    names = ("fcf+base", "fcf+mlp", "fcf+fedvlr", "fcf+base, eps 8", "fcf+fedvlr, eps 8", "fcf+fedvlr, eps 1")
    control = make_method(dataset, "fcf+fedvlr, random features", CONTROL, seeds=SEEDS)
    runs = [make_method(dataset, name, FEDERATED, seeds=SEEDS) for name in names]
    found: dict[str, set[str]] = {}
    for c in make_contrasts([*runs, control]):
        found.setdefault(c.method, set()).add(c.against)
    assert found == {
        "fcf+fedvlr": {"fcf+base", "fcf+mlp", control.name},
        "fcf+base, eps 8": {"fcf+base"},
        "fcf+fedvlr, eps 8": {"fcf+fedvlr", "fcf+base, eps 8", "fcf+mlp"},
        "fcf+fedvlr, eps 1": {"fcf+fedvlr", "fcf+base", "fcf+mlp"},
    }


def test_group_rows_add_up_to_the_whole(methods, dataset, rows):
    groupings = make_groups(methods, dataset)
    assert [groups.grouping for groups in groupings] == ["warmth", "history", "popularity"]
    for groups in groupings:
        assert min(groups.sizes) > 0
        assert sum(groups.sizes) == (dataset.test_item >= 0).sum()
        for name, metrics in groups.means.items():
            for metric, means in metrics.items():
                assert np.dot(means, groups.sizes) / sum(groups.sizes) == pytest.approx(
                    rows[name].scores[metric].mean
                )
    cells = {(m, name, metric): mean for m, g, name, _, metric, mean in long_rows(groupings) if g == "warmth"}
    assert cells["ease", "cold", "NDCG@50"] == pytest.approx(rows["ease"].scores["test_cold NDCG@50"].mean)
