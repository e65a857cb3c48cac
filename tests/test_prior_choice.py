"""Settings of the federated item-to-item prior that a run chooses itself: by what, and what it says of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import threadpoolctl
from problems import histories, settings, tiny_dataset

from fedvlr_jax.data.messages import DataWarning
from fedvlr_jax.federated import prior
from fedvlr_jax.federated.held_back import HeldBack, mean_ndcg
from fedvlr_jax.federated.prior import PriorSettings
from fedvlr_jax.federated.prior_choice import EASE_CANDIDATES, choose_prior, without_order
from fedvlr_jax.training.all_views import valid_targets
from fedvlr_jax.training.experiment import make_experiment
from fedvlr_jax.training.job import run_job
from fedvlr_jax.training.priors import configured_prior

PLAIN = tiny_dataset()
RNG = np.random.default_rng(0)
AGES = np.concatenate([RNG.integers(0, len(items), len(items)) for items in histories(PLAIN)]).astype(np.int32)
DATASET = dataclasses.replace(PLAIN, train_age=AGES)
CHOOSING = settings(host__name="fedprior", variant="base", host__choose_prior=True)


@pytest.fixture(scope="module")
def ordered():
    """Users who go round a ring of items, one after the other: what comes next is all there is to know."""
    length, size, users = 8, 30, 40
    first = np.random.default_rng(2).integers(0, size, users)
    items = (first[:, None] + np.arange(length)) % size
    order = np.argsort(items, axis=1)
    age = np.broadcast_to(np.arange(length)[::-1], items.shape)
    dataset = dataclasses.replace(
        tiny_dataset(users, size),
        train_user=np.repeat(np.arange(users), length).astype(np.int32),
        train_item=np.take_along_axis(items, order, axis=1).reshape(-1).astype(np.int32),
        train_age=np.take_along_axis(age, order, axis=1).reshape(-1).astype(np.int32),
        V=None,
        C=None,
    )
    return dataset


def test_a_run_chooses_the_order_where_it_means_something_and_switches_it_off_where_it_does_not(ordered):
    meaningless = np.random.default_rng(3).permuted(ordered.train_age.reshape(-1, 8), axis=1).reshape(-1)
    start = PriorSettings(ridge=3.0, ridge_next=5.0)
    with_order = choose_prior(ordered, (None, None), start)
    without = choose_prior(dataclasses.replace(ordered, train_age=meaningless), (None, None), start)
    assert with_order.next_weight > 0
    assert with_order.decay > 0
    assert without.next_weight < with_order.next_weight or without.decay == 0


@pytest.mark.parametrize("kind", ["true", "by id"])
def test_validation_decides_whether_a_chosen_prior_reads_the_order_of_time(ordered, kind):
    """Items of a user stand in rows by id, newest first: what is held back says nothing of what comes next."""
    age = ordered.train_age if kind == "true" else np.tile(np.arange(8, dtype=np.int32), 40)
    dataset = dataclasses.replace(ordered, train_age=age, valid_item=next_on_the_ring(ordered))
    found = configured_prior(CHOOSING, dataset).formed(dataset).settings
    assert (found.next_weight > 0) == (kind == "true")


def next_on_the_ring(dataset):
    """What follows the newest item of every user."""
    return ((dataset.train_item[dataset.train_age == 0] + 1) % dataset.num_items).astype(np.int32)


def test_a_run_says_and_keeps_what_its_prior_was_formed_with(ordered, tmp_path):
    lines = []
    tree = settings(host__name="fedprior", variant="base", host__choose_prior=True, rounds=1)
    experiment = make_experiment(tree, ordered)
    result = run_job(experiment, tmp_path, command=["train"], note=lines.append).result
    chosen = configured_prior(tree, ordered).formed(ordered).settings
    assert result["prior"] == pytest.approx(chosen._asdict(), rel=1e-5)
    assert any(line.startswith(f"prior with reach {chosen.reach:g}, decay ") for line in lines)


def test_choosing_starts_from_the_settings_and_ends_in_the_table(ordered):
    found = make_experiment(CHOOSING, ordered).clients.prior
    assert np.isfinite(found.score_ui).all()
    assert found.score_ui.shape == (40, 30)


@pytest.mark.parametrize("kind", ["features", "one modality", "no features", "no times", "no validation"])
def test_on_validation_a_chosen_prior_is_not_below_ease_with_or_without_features(kind):
    """Whatever train items say that clients hold back; FedEASE chooses its penalty by validation, too."""
    changes = {
        "features": {},
        "one modality": {"V": None},
        "no features": {"V": None, "C": None},
        "no times": {"train_age": None},
        "no validation": {"valid_item": np.full(DATASET.num_users, -1, np.int32)},
    }
    dataset = dataclasses.replace(DATASET, **changes[kind])
    found = configured_prior(CHOOSING, dataset).formed(dataset)
    assert np.isfinite(found.of(dataset).score_ui).all()
    if kind == "no validation":
        return
    held = HeldBack(dataset, valid_targets(dataset))
    history_ui = np.zeros((dataset.num_users, dataset.num_items))
    history_ui[dataset.train_user, dataset.train_item] = 1
    like_ii = np.zeros((dataset.num_items, dataset.num_items))
    for x in (dataset.V, dataset.C):
        if x is not None:
            centred = x.astype(float) - x.mean(axis=0, dtype=float)
            like_ii += centred @ centred.T
    best = 0.0
    for ridge in EASE_CANDIDATES["ridge"]:
        for content in EASE_CANDIDATES["content"]:
            inverse = np.linalg.inv(history_ui.T @ history_ui + ridge * (content * like_ii + np.eye(len(like_ii))))
            weights = np.eye(len(like_ii)) - inverse / np.diag(inverse)
            best = max(best, mean_ndcg(history_ui @ weights, held, alone=True))
    assert mean_ndcg(np.asarray(found.of(dataset).score_ui), held, alone=True) >= best - 1e-6


def test_without_times_a_run_says_that_its_prior_reads_none(recwarn):
    plain, read_none = without_order(DATASET, PriorSettings())
    found = configured_prior(CHOOSING, plain).formed(plain).settings
    assert (found.reach, found.decay, found.next_weight) == (read_none.reach, read_none.decay, read_none.next_weight)
    assert not [one for one in recwarn if issubclass(one.category, DataWarning)]


@pytest.mark.parametrize("choose", [False, True])
def test_a_prior_is_formed_by_one_thread_of_blas(choose, monkeypatch):
    threads, inverse = [], prior.inverse

    def noted(gram_ii, ridge):
        threads.extend(one["num_threads"] for one in threadpoolctl.threadpool_info() if one["user_api"] == "blas")
        return inverse(gram_ii, ridge)

    monkeypatch.setattr(prior, "inverse", noted)
    tree = settings(host__name="fedprior", variant="base", host__choose_prior=choose)
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        configured_prior(tree, DATASET).of(DATASET)
    assert set(threads) == {1}
