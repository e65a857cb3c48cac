"""The generator: deterministic, of the shape it promises, with preferences that the data shows; and the controls."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest
import scipy.stats
from problems import histories

from fedvlr_jax.data import fingerprint, random_features, shuffle_features, synthetic
from fedvlr_jax.errors import ConfigError

SMALL = {"num_users": 40, "num_items": 60, "num_interactions": 400, "dim_visual": 9, "dim_text": 7}


def spearman(x, y):
    return scipy.stats.spearmanr(x, y).statistic


def coherence(dataset, x_iz):
    """Mean cosine over the pairs of a user's history, [u]."""
    values = []
    for history in histories(dataset):
        total, n = x_iz[history].sum(axis=0), len(history)
        values.append((total @ total - n) / (n * (n - 1)))
    return np.array(values)


def test_default_size_is_that_of_ku():
    dataset = synthetic.generate(0)
    length = np.bincount(dataset.train_user)
    assert (dataset.name, dataset.num_users, dataset.num_items) == ("synthetic", 204, 560)
    assert len(dataset.train_item) == 3488 - 2 * 204
    assert length.min() >= 3
    assert length.max() >= 60
    assert np.mean(length) > 1.25 * np.median(length)  # skewed
    assert dataset.V.shape == dataset.C.shape == (560, 64)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("overrides", [{}, {"skew": 0.0}, {"num_interactions": 200}, {"num_interactions": 1200}])
def test_the_promises_of_a_dataset(seed, overrides):
    arguments = SMALL | overrides
    dataset = synthetic.generate(seed, **arguments)
    order = np.lexsort((dataset.train_item, dataset.train_user))
    np.testing.assert_array_equal(order, np.arange(len(order)))
    rows = len(dataset.train_item) + 2 * dataset.num_users
    assert rows == arguments["num_interactions"]
    for user, history in enumerate(histories(dataset)):
        items = [*history, dataset.valid_item[user], dataset.test_item[user]]
        assert 5 <= len(set(items)) == len(items) <= dataset.num_items // 2
        assert 0 <= min(items) <= max(items) < dataset.num_items
    for x, dim in ((dataset.V, 9), (dataset.C, 7)):
        assert (x.shape, x.dtype) == ((60, dim), np.float32)
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-6)
    assert dataset.planted.dtype == np.float32
    np.testing.assert_allclose(dataset.planted.sum(axis=1), 1, rtol=1e-5)


def test_the_seed_decides():
    first, again, other = (fingerprint(synthetic.generate(seed, **SMALL)) for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_histories_show_the_planted_preferences(seed):
    """An oracle that knows the item latents orders the users by the coherence of their histories.

    Visual and textual coherence are also visible in the features, which is all that a model sees.
    """
    dataset = synthetic.generate(seed)
    truth = planted_truth(seed)
    np.testing.assert_allclose(truth.preference, dataset.planted, rtol=1e-6)
    for m in range(3):
        assert spearman(coherence(dataset, truth.item[m]), dataset.planted[:, m]) > 0.6, m
    for m, x in ((1, dataset.V), (2, dataset.C)):
        assert spearman(coherence(dataset, x), dataset.planted[:, m]) > 0.55, m


def planted_truth(seed):
    """The latents behind `synthetic.generate(seed)`."""
    rng = np.random.default_rng(np.random.SeedSequence(seed).spawn(4)[0])
    defaults = synthetic.generate.__kwdefaults__
    names = ("num_users", "num_items", "latent_dim", "groups", "concentration")
    return synthetic.plant(rng, *(defaults[name] for name in names))


def test_modalities_are_independent():
    dataset = synthetic.generate(0)
    similarity = [x @ x.T for x in (dataset.V, dataset.C)]
    upper = np.triu_indices(dataset.num_items, 1)
    assert abs(np.corrcoef(similarity[0][upper], similarity[1][upper])[0, 1]) < 0.02


def test_draws_follow_the_softmax_without_replacement():
    """First and second draw of a one-modality user against the exact probabilities of four items."""
    latents = synthetic.Latents(
        user=np.ones((3, 1, 1)),
        item=np.array([[[0.0], [0.5], [1.0], [1.5]]] * 3),
        preference=np.array([[0.2, 0.3, 0.5]]),
    )
    rng, draws, sharpness = np.random.default_rng(0), 8_000, 1.4
    drawn = np.array([synthetic._draw_user(rng, latents, 0, 2, sharpness) for _ in range(draws)])
    weight = np.exp(sharpness * latents.item[0][:, 0])
    expected = weight[:, None] * weight / (weight.sum() - weight[:, None]) / weight.sum()
    np.fill_diagonal(expected, 0)
    found = np.zeros((4, 4))
    np.add.at(found, (drawn[:, 0], drawn[:, 1]), 1 / draws)
    np.testing.assert_allclose(found, expected, atol=5 * np.sqrt(0.25 / draws))
    assert scipy.stats.chisquare(found[expected > 0] * draws, expected[expected > 0] * draws).pvalue > 1e-3


@pytest.mark.parametrize(("concentration", "low", "high"), [(0.05, 0.9, 1.0), (100.0, 1 / 3, 0.4)])
def test_concentration_sets_how_mixed_preferences_are(concentration, low, high):
    planted = synthetic.generate(0, concentration=concentration, **SMALL).planted
    assert low < planted.max(axis=1).mean() < high


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("num_users", 1, "num_users: expected a finite number >= 2, found 1"),
        ("num_items", 9, "num_items: expected a finite number >= 10, found 9"),
        ("num_interactions", 199, r"num_interactions: expected 200 to 1200 for 40 users .*, found 199"),
        ("num_interactions", 1201, r"num_interactions: expected 200 to 1200 for 40 users .*, found 1201"),
        ("concentration", 0, "concentration: expected a number > 0, found 0"),
        ("sharpness", float("nan"), "sharpness: expected a finite number >= 0, found nan"),
        ("noise", -0.1, "noise: expected a finite number >= 0, found -0.1"),
        ("latent_dim", 0, "latent_dim: expected a finite number >= 1, found 0"),
        ("seed", -1, "seed: expected a finite number >= 0, found -1"),
    ],
)
def test_bad_parameters(name, value, message):
    with pytest.raises(ConfigError, match=rf"data\.synthetic\.{message}"):
        synthetic.generate(**{"seed": 0, **SMALL, name: value})


def test_generation_is_fast():
    start = time.process_time()
    synthetic.generate(0)
    assert time.process_time() - start < 1


@pytest.mark.slow
def test_generation_at_the_size_of_movie():
    start = time.process_time()
    dataset = synthetic.generate(0, num_users=15908, num_items=2528, num_interactions=111091)
    assert len(dataset.train_item) == 111091 - 2 * 15908
    assert time.process_time() - start < 60


# --- controls -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("control", [shuffle_features, random_features])
def test_controls_change_features_only(control):
    dataset = synthetic.generate(0, **SMALL)
    before = fingerprint(dataset)
    changed, again, other = control(dataset, 0), control(dataset, 0), control(dataset, 1)
    assert fingerprint(dataset) == before
    assert fingerprint(changed) == fingerprint(again) != fingerprint(other)
    for name in ("train_user", "train_item", "valid_item", "test_item", "planted"):
        np.testing.assert_array_equal(getattr(changed, name), getattr(dataset, name))
    for name in "VC":
        x, old = getattr(changed, name), getattr(dataset, name)
        assert (x.shape, x.dtype) == (old.shape, old.dtype)
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-6)
        assert not np.allclose(x, old)


def test_shuffling_permutes_rows_independently():
    dataset = synthetic.generate(0, **SMALL)
    changed = shuffle_features(dataset, 0)
    position = []
    for name in "VC":
        x, old = getattr(changed, name), getattr(dataset, name)
        position.append([int(np.flatnonzero((x == row).all(axis=1))[0]) for row in old])
        assert sorted(position[-1]) == list(range(60))
    assert position[0] != position[1]


def test_random_features_are_independent_of_each_other_and_centred():
    changed = random_features(synthetic.generate(0, **(SMALL | {"dim_text": 9})), 0)
    assert abs(np.sum(changed.V * changed.C)) / 60 < 0.2  # mean cosine between the modalities
    assert np.abs(changed.V.mean(axis=0)).max() < 0.25


@pytest.mark.parametrize("control", [shuffle_features, random_features])
def test_controls_accept_a_missing_modality(control):
    dataset = dataclasses.replace(synthetic.generate(0, **SMALL), V=None)
    changed = control(dataset, 0)
    assert changed.V is None
    np.testing.assert_array_equal(changed.C, control(synthetic.generate(0, **SMALL), 0).C)
