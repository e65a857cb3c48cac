"""Users held out as a whole: who they are, what the server knows of them (nothing), and how they are scored."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest
from problems import HOST_NAMES, settings, spread, tiny_dataset

import fedvlr_jax
from fedvlr_jax.baselines import run_baselines
from fedvlr_jax.data import load_configured
from fedvlr_jax.data.facts import fingerprint
from fedvlr_jax.data.user_split import all_rows, join_newcomers, leave_users_out
from fedvlr_jax.errors import ConfigError, DataError
from fedvlr_jax.training.experiment import make_experiment
from fedvlr_jax.training.job import evaluate_job, run_job
from fedvlr_jax.types import Bucket

TINY = tiny_dataset()


def timed(seed: int = 0) -> tuple[fedvlr_jax.Dataset, list[tuple[int, int, int]]]:
    """Rows (user, item, time) of nine users, of whom one has too few to be tested, and the data set of them."""
    rng, rows = np.random.default_rng(seed), []
    for user in range(9):
        items = rng.choice(20, 2 if user == 4 else 4 + user, replace=False)
        rows += [(user, int(item), int(time)) for time, item in enumerate(items)]
    users, items, times = zip(*rows, strict=True)
    with pytest.warns(fedvlr_jax.DataWarning, match="fewer than 3"):
        return fedvlr_jax.from_arrays(users, items, times), rows


def test_the_split_is_that_of_the_rows_written_out():
    dataset, rows = timed()
    split = leave_users_out(dataset, share=0.5, seed=3)
    new = split.newcomers
    assert sorted([*split.user_ids, *new.user_ids]) == list(range(9))
    assert 4 in split.user_ids  # nothing of that user could be the target
    for part, is_new in ((split, False), (new, True)):
        for number, user in enumerate(part.user_ids.tolist()):
            mine = sorted((time, item) for u, item, time in rows if u == user)
            kept = mine[:-1] if is_new else mine
            ages = {item: sum(later > time for later, _ in kept) for time, item in kept}
            at = part.train_user == number
            assert dict(zip(part.train_item[at].tolist(), part.train_age[at].tolist(), strict=True)) == ages
            held = {part.valid_item[number], part.test_item[number]}
            assert held == ({-1, mine[-1][1]} if is_new else {-1})
    assert ((new.valid_item >= 0) != (new.test_item >= 0)).all()
    assert abs(int((new.valid_item >= 0).sum()) - int((new.test_item >= 0).sum())) <= 1


def test_the_split_depends_on_its_own_seed_alone():
    found = [leave_users_out(TINY, seed=seed).newcomers.user_ids.tolist() for seed in (0, 0, 1, 2, 3)]
    assert found[0] == found[1]
    assert len(set(map(tuple, found))) > 1
    assert fingerprint(leave_users_out(TINY)) != fingerprint(leave_users_out(TINY).newcomers)


def test_the_control_trains_the_same_histories_and_ranks_the_same_rows():
    split = leave_users_out(TINY)
    joined, new, first = join_newcomers(split), split.newcomers, split.num_users
    assert joined.newcomers is None
    assert joined.num_users == TINY.num_users
    for name in ("valid_item", "test_item"):
        assert getattr(joined, name)[first:].tolist() == getattr(new, name).tolist()
        assert set(getattr(joined, name)[:first].tolist()) == {-1}
    pairs = set(zip(joined.user_ids[joined.train_user].tolist(), joined.train_item.tolist(), strict=True))
    held = set(zip(new.user_ids.tolist(), np.maximum(new.valid_item, new.test_item).tolist(), strict=True))
    rows = all_rows(TINY)
    assert pairs == set(zip(rows.user.tolist(), rows.item.tolist(), strict=True)) - held


def test_several_test_rows_of_a_user_stay_together():
    dataset = dataclasses.replace(
        TINY,
        held_user=np.repeat(np.arange(13, dtype=np.int32), 2),
        valid_item=np.column_stack([TINY.valid_item, np.full(13, -1)]).reshape(-1).astype(np.int32),
        test_item=np.column_stack([TINY.test_item, (TINY.test_item + 1) % 40]).reshape(-1).astype(np.int32),
    )
    new = leave_users_out(dataset).newcomers
    for user, number in enumerate(new.user_ids.tolist()):
        at = new.held_user == user
        found = {*new.valid_item[at].tolist(), *new.test_item[at].tolist()} - {-1}
        assert found == {TINY.test_item[number], (TINY.test_item[number] + 1) % 40}


@pytest.mark.parametrize("share", [0.05, 0.99])
def test_a_share_that_leaves_nobody_in_or_out_is_refused(share):
    with pytest.raises(DataError, match=r"data\.newcomers\.share: expected a share of the users that is 2 to 12"):
        leave_users_out(TINY, share=share)


# ---- the server knows nothing of them


def altered(dataset):
    """The data set with other histories and targets of its newcomers."""
    new = dataset.newcomers
    item = (new.train_item + 7) % 40
    changed = dataclasses.replace(
        new,
        train_item=item[np.lexsort((item, new.train_user))],
        valid_item=np.where(new.valid_item < 0, -1, (new.valid_item + 3) % 40),
        test_item=np.where(new.test_item < 0, -1, (new.test_item + 3) % 40),
    )
    return dataclasses.replace(dataset, newcomers=changed)


def bits(tree):
    """Every leaf as bytes."""
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


@pytest.mark.parametrize(
    "case",
    [
        {"host__name": "fedprior"},
        {"host__name": "fedblend", "variant": "base"},
        pytest.param({"host__name": "fedprior", "host__choose_prior": True}, marks=pytest.mark.slow),
    ],
)
def test_other_newcomers_leave_what_is_agreed_on_before_the_rounds_to_the_bit(case):
    ages = np.zeros(len(TINY.train_item), np.int32)
    split = leave_users_out(dataclasses.replace(TINY, train_age=ages))
    one, other = (make_experiment(settings(**case), x).clients for x in (split, altered(split)))
    assert bits(one._replace(newcomers=None)) == bits(other._replace(newcomers=None))
    assert bits(one.newcomers) != bits(other.newcomers)
    assert len(one.prior.score_ui if case["host__name"] == "fedprior" else one.prior.start_u) == split.num_users


def test_other_newcomers_leave_the_trained_state_to_the_bit():
    split = leave_users_out(TINY)
    tree, found = settings(variant="base", rounds=2, eval__every=1, server__clients_per_round=4, baselines=False), []
    for dataset in (split, altered(split)):
        experiment = make_experiment(tree, dataset)
        run = jax.jit(experiment.algorithm.run, static_argnums=2)
        state, _ = run(experiment.algorithm.init(jax.random.key(0)), experiment.clients, 2)
        found.append(bits((state.public.params, state.private)))
    assert found[0] == found[1]


# ---- their private part and their scores


@pytest.mark.slow
@pytest.mark.parametrize("host", spread(HOST_NAMES, ["fcf"]))
def test_newcomers_are_scored_after_local_rounds_of_their_own(host):
    """Against one client after the other, through the function that runs on a device."""
    dataset = leave_users_out(TINY)
    experiment = make_experiment(settings(host__name=host, client__new_rounds=3), dataset)
    algorithm, clients = experiment.algorithm, experiment.clients
    state = algorithm.init(jax.random.key(1))
    params = algorithm.snapshot(state, clients.content, clients.newcomers.prior)
    step = jax.jit(algorithm.client_round)
    for bucket in clients.newcomers.buckets:
        scores_ci = np.asarray(jax.jit(algorithm.new_score)(params._replace(private=None), bucket))
        for k in range(bucket.user.shape[0]):
            slot = Bucket(bucket.user[k : k + 1], bucket.history[k : k + 1], np.zeros(1, np.int32))
            user, evidence = int(slot.user[0]), None
            if clients.newcomers.evidence is not None:
                evidence = jax.tree.map(lambda x, u=user: x[u], clients.newcomers.evidence)
            id_ = dataset.num_users + user
            own = jax.tree.map(lambda x: x[0], algorithm.init_clients(state.key, np.array([id_])))
            for number in range(3):
                base = jax.random.fold_in(jax.random.fold_in(state.key, 7), number)
                key = jax.random.fold_in(base, id_)
                own, _, _ = step(params.broadcast, own, slot.history[0], key, key, params.round, evidence)
            private = jax.tree.map(lambda x: x[None], own)
            expected_i = np.asarray(algorithm.score(params._replace(private=private), slot))[0]
            np.testing.assert_allclose(scores_ci[k], expected_i, rtol=2e-4, atol=2e-5)


@pytest.mark.slow
def test_a_run_chooses_by_some_newcomers_and_reports_the_others(tmp_path):
    dataset = leave_users_out(TINY, share=0.5)
    tree = settings(variant="base", rounds=4, eval__every=2, eval__patience=0, baselines=False)
    experiment = make_experiment(tree, dataset)
    done = run_job(experiment, tmp_path, command=[])
    new, ranks = dataset.newcomers, done.trained.ranks
    assert np.asarray(ranks.item).tolist() == [new.valid_item.tolist(), new.test_item.tolist()]
    params = experiment.algorithm.snapshot(done.trained.state, experiment.clients.content)
    for bucket in experiment.clients.newcomers.buckets:
        scores_ci = np.array(experiment.algorithm.new_score(params, bucket))
        for user, score_i in zip(bucket.user.tolist(), scores_ci, strict=True):
            own = new.train_item[new.train_user == user]
            t = int(new.test_item[user] >= 0)
            target = score_i[(new.valid_item, new.test_item)[t][user]]
            score_i[own] = -np.inf
            assert abs(int(ranks.greater[t, user]) - int((score_i > target).sum())) <= 1  # another order of summation
    assert done.result["newcomers"] == {"trained": 7, "rows": {"valid": 3, "test": 3}, "local_rounds": 20}
    stored = json.loads((tmp_path / "result.json").read_text())
    assert evaluate_job(experiment, tmp_path)["test"] == stored["test"]


def test_baselines_are_fitted_to_the_trained_and_rank_the_newcomers():
    dataset = leave_users_out(TINY)
    new = dataset.newcomers
    buckets = make_experiment(settings(variant="base"), dataset).clients.newcomers.buckets
    row, _ = run_baselines(dataset, buckets, ["ease", "item_knn"])
    matrix_ui = np.zeros((dataset.num_users, 40))
    matrix_ui[dataset.train_user, dataset.train_item] = 1
    inverse_ii = np.linalg.inv(matrix_ui.T @ matrix_ui + row.hyper["l2"] * np.eye(40))
    weight_ii = -inverse_ii / np.diag(inverse_ii)
    np.fill_diagonal(weight_ii, 0)
    history_ui = np.zeros((new.num_users, 40))
    history_ui[new.train_user, new.train_item] = 1
    score_ui = np.where(history_ui > 0, -np.inf, np.round(history_ui @ weight_ii, 9))
    hits = []
    for user in np.flatnonzero(new.test_item >= 0):
        target = score_ui[user, new.test_item[user]]
        greater, tied = (score_ui[user] > target).sum(), (score_ui[user] == target).sum()
        hits.append(np.clip(10 - greater, 0, tied) / tied)
    assert row.summary["test"]["HR@10"] == pytest.approx(np.mean(hits))


def test_states_elsewhere_are_refused():
    with pytest.raises(ConfigError, match=r"data\.split users: expected compute\.store device"):
        make_experiment(settings(compute__store="memory"), leave_users_out(TINY))


def test_commands_that_rank_nobody_new_refuse_to_leave_users_out():
    data = settings(data__split="users")["data"]
    with pytest.raises(ConfigError, match=r"data\.split: expected rows or joined, found users"):
        load_configured(data)
    assert load_configured(data, leaves_users_out=True).newcomers.num_users == 41
    assert load_configured(data | {"split": "joined"}).num_users == 204
    with pytest.raises(ConfigError, match=r"data\.split: expected rows, since a data set at hand is used as it is"):
        fedvlr_jax.fit(TINY, {"data.split": "users"})
