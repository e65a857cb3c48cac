"""Audits: attacks find what is planted, measures are exact under ties, and defences do what they say."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import numpy as np
import pytest
import score_view_problem
from laws.rounds import DATASET, client, late_state
from problems import client_data, settings
from scipy import stats
from sklearn.metrics import roc_auc_score

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.audit.attacks import ATTACKS
from fedvlr_jax.audit.kinds import make_kind
from fedvlr_jax.audit.measures import leak, router_leak
from fedvlr_jax.audit.report import as_rows, strongest, table
from fedvlr_jax.audit.runner import Finding, RouterFinding, audit, defended
from fedvlr_jax.audit.uploads import Seen, clipped, make_observer, noised, summed
from fedvlr_jax.errors import ConfigError, TrainingError
from fedvlr_jax.federated import sampling
from fedvlr_jax.federated.transforms import upload_norm
from fedvlr_jax.training.experiment import make_experiment

RNG = np.random.default_rng(0)


def test_auc_is_that_of_another_implementation_and_precision_an_expectation_over_ties():
    score_ui = RNG.integers(0, 4, size=(6, 9)).astype(float)
    has_ui = RNG.random((6, 9)) < 0.3
    has_ui[:, 0], has_ui[:, 1] = True, False
    found = leak(score_ui, has_ui)
    expected = np.mean([roc_auc_score(has_i, score_i) for score_i, has_i in zip(score_ui, has_ui, strict=True)])
    assert found.auc == pytest.approx(expected)
    assert found.chance == pytest.approx(has_ui.mean())

    def precision(score_i, has_i):
        """Over all orders of four items at the top that are tied."""
        count = has_i.sum()
        orders = [
            sorted(range(5), key=lambda i: (-score_i[i], order[i])) for order in itertools.permutations(range(5))
        ]
        return np.mean([has_i[order[:count]].mean() for order in orders])

    score_ui, has_ui = score_ui[:, :5], has_ui[:, :5]
    expected = np.mean([precision(*pair) for pair in zip(score_ui, has_ui, strict=True)])
    assert leak(score_ui, has_ui).precision == pytest.approx(expected)


def planted(steps: int = 5, negatives: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Rows [i, f] of a client as bce makes them, and what it has: positives in every step, negatives now and then."""
    size, theta_f = 400, RNG.normal(size=8)
    has_i = np.arange(size) % 40 == 0
    weight_i = np.where(has_i, -0.5 * steps, 0.0)
    for _ in range(steps):
        drawn = RNG.choice(np.flatnonzero(~has_i), negatives * has_i.sum())
        np.add.at(weight_i, drawn, 0.5)
    return np.outer(weight_i, theta_f), has_i


@pytest.mark.parametrize(("name", "least"), [("touched", 0.5), ("norm", 0.9), ("svd-sign", 0.99)])
def test_attacks_find_what_a_client_has(name, least):
    rows_if, has_i = planted()
    found = leak(ATTACKS[name](rows_if)[None], has_i[None])
    assert found.auc > least
    flipped = leak(ATTACKS[name](-rows_if)[None], has_i[None])  # the server does not know the sign of theta
    assert flipped.auc == pytest.approx(found.auc)


def test_routers_are_read_from_shares_of_norms():
    weight_uj = RNG.dirichlet(np.ones(3), size=40)
    exact = router_leak(weight_uj * RNG.uniform(1, 9, size=(40, 1)), weight_uj)
    assert exact.correlation_j == pytest.approx((1.0, 1.0, 1.0))
    assert exact.top == 1
    assert exact.error == pytest.approx(0, abs=1e-12)
    assert router_leak(np.ones((40, 3)), weight_uj).top < 0.7


def test_defences_bound_noise_and_sum_what_is_seen():
    seen = Seen(RNG.normal(size=(7, 5, 3)).astype(np.float32), RNG.uniform(5, 9, 7), np.zeros((7, 0)))
    bounded = clipped(seen, 6.0)
    np.testing.assert_allclose(bounded, seen.rows_uif * np.minimum(1, 6 / seen.norm_u)[:, None, None], rtol=1e-6)
    assert np.std(noised(np.zeros((50, 40, 5), np.float32), 2.0, 0)) == pytest.approx(2.0, rel=0.03)
    groups = summed(seen.rows_uif, 3, seed=1)
    distinct = np.unique(groups.reshape(7, -1), axis=0)
    assert len(distinct) == 2
    np.testing.assert_allclose(distinct.sum(axis=0), seen.rows_uif.sum(axis=0).ravel(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(summed(seen.rows_uif, 10**6, seed=1)[4], seen.rows_uif.sum(axis=0), rtol=1e-5)


@pytest.mark.slow
def test_what_is_seen_is_what_a_device_sends():
    algorithm = make_algorithm(settings(), DATASET)
    state, data = late_state(algorithm, 2), client_data(DATASET, widths=(4, 16))
    seen = make_observer(algorithm, data, DATASET.num_users, DATASET.num_items)(state)
    assert seen.rows_uif.shape == (13, 40, 3 * 8)
    assert seen.view_norm_uj.shape == (13, 3)
    bucket = data.buckets[1]
    u, history_l = int(bucket.user[2]), bucket.history[2]
    key = jax.random.fold_in(sampling.stream(state.key, sampling.CLIENT, 2), u)
    downloaded = algorithm.model.publish(state.public.params, data.content)
    sent = jax.jit(algorithm.client_round)(
        downloaded, client(state.private, u), history_l, key, key, state.public.round
    )[1]
    dense = np.zeros((40, 24), np.float32)
    real = np.asarray(sent.ids_n) < 40
    dense[np.asarray(sent.ids_n)[real]] = np.reshape(sent.rows["views"], (-1, 24))[real]
    np.testing.assert_allclose(seen.rows_uif[u], dense, rtol=1e-4, atol=1e-7)


def test_what_is_seen_has_what_a_client_learns_from_score_views():
    """A device of a host with score views learns from its evidence too, and its upload says so."""
    tree = settings(**score_view_problem.SHARED_ONLY | {"host__fusion_weight": 0.3})
    _, dataset, data, algorithm = make_experiment(tree, score_view_problem.DATASET)
    state = algorithm.init(jax.random.key(0))
    seen = make_observer(algorithm, data, dataset.num_users, dataset.num_items)(state)
    bucket = data.buckets[0]
    u, history_l = int(bucket.user[0]), bucket.history[0]
    key, own = jax.random.fold_in(sampling.stream(state.key, sampling.CLIENT, 0), u), client(state.private, u)
    evidence = jax.tree.map(lambda x: x[u], data.evidence)
    downloaded = algorithm.model.publish(state.public.params, data.content)
    sent = jax.jit(algorithm.client_round)(downloaded, own, history_l, key, key, state.public.round, evidence)[1]
    assert np.linalg.norm(sent.head["y"]) > 1e-3
    assert seen.norm_u[u] == pytest.approx(float(upload_norm(sent)), rel=1e-4)


LITTLE = {"rounds": (0,), "noises": (), "sums": (), "epsilons": (), "delta": 1e-3, "clients": 0, "seed": 0}


def test_a_client_who_has_every_item_is_not_attacked():
    """Nothing could be told of it, and the mean over clients would be no number."""
    size, more = DATASET.num_items, DATASET.num_users
    whole = dataclasses.replace(
        DATASET,
        num_users=more + 1,
        train_user=np.append(DATASET.train_user, np.full(size, more, np.int32)),
        train_item=np.append(DATASET.train_item, np.arange(size, dtype=np.int32)),
        valid_item=np.append(DATASET.valid_item, np.int32(-1)),
        test_item=np.append(DATASET.test_item, np.int32(-1)),
    )
    tree = settings(host__name="fcf", variant="base")
    found = list(audit(make_experiment(tree, whole), LITTLE))
    assert len(found) == 7
    assert all(0 <= x <= 1 for one in found for x in one.leak)
    everything = dataclasses.replace(
        whole,
        num_users=1,
        train_user=np.zeros(size, np.int32),
        train_item=np.arange(size, dtype=np.int32),
        valid_item=np.array([-1], np.int32),
        test_item=np.array([-1], np.int32),
    )
    with pytest.raises(ConfigError, match="audit: expected a client of tiny who lacks some item, found none"):
        next(audit(make_experiment(tree, everything), LITTLE))


def test_uploads_that_are_not_finite_are_no_finding():
    tree = settings(host__name="fcf", variant="base", client__init_scale=1e38, server__init_scale=1e38)
    with pytest.raises(TrainingError, match="round 0: expected uploads that are finite, found 13 of 13"):
        list(audit(make_experiment(tree, DATASET), LITTLE))


def test_an_audit_without_rows_or_of_states_elsewhere_is_refused():
    rowless = make_experiment(settings(**score_view_problem.SHARED_ONLY), score_view_problem.DATASET)
    with pytest.raises(ConfigError, match=r"audit.methods: expected .* rows of items, found one that sends none"):
        list(audit(rowless, LITTLE))
    stored = make_experiment(settings(compute__store="memory"), DATASET)
    with pytest.raises(
        ConfigError, match=r"audit: expected compute.store device and compute.devices 1, found memory"
    ):
        next(audit(stored, LITTLE))


@pytest.mark.slow
def test_an_audit_goes_through_rounds_defences_and_attacks():
    plan = {"rounds": (0, 2), "noises": (0.1,), "sums": (5, 10**6), "epsilons": (8.0,), "delta": 1e-3}
    plan |= {"budget_rounds": 30, "clients": 9, "seed": 0, "draws": 4, "masked": False}
    findings = list(audit(make_experiment(settings(), DATASET), plan))
    items = [found for found in findings if isinstance(found, Finding)]
    assert {found.defence for found in items} == {
        "no upload", "none", "clip", "clip, noise 0.1 C",
        "sum of 5", "sum of 5 less its own", "sum of 13", "sum of 13 less its own",
        "noised sum, eps 8", "noised sum, eps 8 less its own",
    }  # fmt: skip
    assert [found.round for found in findings if isinstance(found, RouterFinding)] == [0, 2]
    assert all(0 <= found.leak.auc <= 1 for found in items)
    drawn = [found for found in items if found.draws == 4]
    assert {found.defence for found in drawn} == {"noised sum, eps 8", "noised sum, eps 8 less its own"}
    assert all(found.spread > 0 for found in drawn if found.attack != "touched")
    single = next(found for found in items if (found.defence, found.attack) == ("none", "norm"))
    assert single.leak.auc > 0.7
    text = table(as_rows("fcf + fedvlr", findings))
    assert "svd-sign" in text
    assert "correlation by view" in text
    assert "strongest attack" in text


def test_a_noised_sum_and_its_control_differ_by_the_rows_of_the_client_alone():
    rows_uif = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
    norm_u = np.linalg.norm(rows_uif.reshape(6, -1), axis=1)
    seen, attacked_u = Seen(rows_uif, norm_u, np.zeros((6, 0))), np.array([4, 1])
    plan = {"noises": (), "sums": (), "epsilons": (2.0, 8.0), "delta": 1e-3, "budget_rounds": 3}
    found = dict(defended(seen, plan | {"draws": 3, "seed": 0, "masked": False}, attacked_u))
    (own_uif,) = found["clip"]
    for epsilon in ("2", "8"):
        sums, controls = (list(found[f"noised sum, eps {epsilon}{end}"]) for end in ("", " less its own"))
        assert len(sums) == 3
        for sum_1if, control_uif in zip(sums, controls, strict=True):
            np.testing.assert_allclose(control_uif + own_uif, np.repeat(sum_1if, 2, axis=0), rtol=1e-5, atol=1e-5)


def test_masked_words_say_nothing():
    pytest.importorskip("cryptography")
    from fedvlr_jax.audit.masked import BITS, masked

    rows_uif = np.zeros((12, 30, 4), np.float32)
    rows_uif[:, 3] = 0.5
    read = masked(rows_uif, 1.0, 6, [7, 2], seed=0)
    assert read.shape == (2, 30, 4)
    share = np.abs(read) / (1 << (32 - BITS))  # of the range of a word: uniform in 0 to 1 whatever was sent
    assert stats.kstest(share.ravel(), "uniform").pvalue > 1e-6
    assert not np.any(read[0] == read[1])


def test_the_strongest_attack_is_the_farthest_from_chance_on_either_side():
    rows = [
        {"method": "m", "round": 0, "defence": "none", "attack": name, "auc": auc}
        for name, auc in (("touched", 0.5), ("norm", 0.2), ("svd-sign", 0.7), ("popularity", 0.9))
    ]
    assert strongest(rows)["m", 0]["none"]["attack"] == "norm"


@pytest.mark.slow
def test_kinds_of_audits_give_rows_and_a_table():
    plan = {"noise_multipliers": (1.0,), "delta": 1e-2, "trials": 100, "confidence": 0.99, "seed": 0}
    kind = make_kind(plan | {"kind": "canaries"})
    (row,) = kind.rows({}, plan)
    assert row["noise_multiplier"] == 1.0
    assert row["lower"] < row["claimed"]
    assert "holds" in kind.table([row])
    with pytest.raises(ConfigError, match=r"audit.kind: .*canaries"):
        make_kind({"kind": "canary"})


@pytest.mark.parametrize(
    ("kind", "field", "value", "message"),
    [
        ("uploads", "draws", 0, "audit.draws: expected at least 1, found 0"),
        ("uploads", "sums", (10, 0), "audit.sums: expected at least 1, found 0"),
        ("uploads", "epsilons", (0.0,), "audit.epsilons: expected above 0, found 0.0"),
        ("uploads", "rounds", (20, 0), r"audit.rounds: expected rounds that ascend, found \(20, 0\)"),
        ("promotion", "promoters", (-0.1,), "audit.promoters: expected at least 0, found -0.1"),
        ("canaries", "noise_multipliers", (0.0,), "audit.noise_multipliers: expected above 0, found 0.0"),
        ("canaries", "trials", 2, "audit.trials: expected at least 4, found 2"),
        ("canaries", "confidence", 1.0, "audit.confidence: expected above 0 and below 1, found 1.0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_before_anything_runs(kind, field, value, message):
    with pytest.raises(ConfigError, match=message):
        make_kind({"kind": kind, field: value})
