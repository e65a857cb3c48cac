"""Comparisons of two methods: level under the null, power, effect size; Holm's correction by its definition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fedvlr_jax.evaluation.comparison import compare, holm


def two_methods(rng: np.random.Generator, gain: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Values [3 seeds, 40 users] of two methods; users differ, and react to each method in their own way."""
    user_1u, taste_mu = rng.gamma(0.5, size=(1, 40)), rng.gamma(1.0, 0.3, size=(2, 40))
    return tuple(
        user_1u + taste_u[None] + 0.1 * rng.normal(size=(3, 40)) + gain * m for m, taste_u in enumerate(taste_mu)
    )


def rejections(gain: float, tests: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.array([compare(*two_methods(rng, gain), resamples=399, seed=n).p_value for n in range(tests)])


def test_the_paired_test_holds_its_level_under_the_null():
    p_n = rejections(0.0, 1000)
    for level in (0.05, 0.2):
        assert abs(np.mean(p_n <= level) - level) < 3 * np.sqrt(level * (1 - level) / 1000)


def test_the_paired_test_finds_a_true_difference():
    assert np.mean(rejections(0.3, 100) <= 0.05) > 0.9


def test_a_comparison_describes_users_after_averaging_their_seeds():
    a_su = np.array([[0.2, 0.9, 0.5, 0.0], [0.4, 0.7, 0.5, 0.0]])
    b_su = np.array([[0.1, 0.9, 0.1, 0.1], [0.1, 0.9, 0.1, 0.1], [0.1, 0.9, 1.3, 0.1]])
    found = compare(a_su, b_su)
    gain_u = np.array([0.2, -0.1, 0.0, -0.1])
    assert found.difference == pytest.approx(0.0, abs=1e-12)
    assert (found.better, found.worse, found.p_value) == (0.25, 0.5, 1.0)
    found = compare(a_su + 0.3, b_su)
    assert found.difference == pytest.approx(0.3)
    assert found.effect_size == pytest.approx(0.3 / np.sqrt(np.sum(gain_u**2) / 3))
    assert compare(b_su, a_su + 0.3).effect_size == pytest.approx(-found.effect_size)


def test_seeds_in_another_order_are_no_difference():
    """Their mean differs in the last bit for some users; a test on signs would take that for a difference."""
    a_su = np.random.default_rng(0).random((7, 500))
    assert np.any(a_su.mean(axis=0) != a_su[::-1].mean(axis=0))
    assert compare(a_su, a_su[::-1]) == (0.0, 1.0, 0.0, 0.0, 0.0)


def test_differences_without_spread_have_no_effect_size():
    assert compare(np.ones((1, 30)), np.zeros((2, 30))).effect_size is None
    assert compare(np.ones((1, 1)), np.zeros((1, 1))).effect_size is None


def test_values_that_do_not_pair_are_refused():
    with pytest.raises(ValueError, match="same users for both methods, found 1 and 30"):
        compare(np.ones((1, 1)), np.zeros((1, 30)))
    with pytest.raises(ValueError, match="expected finite values"):
        compare(np.full((1, 2), np.inf), np.zeros((1, 2)))


def holm_by_definition(p_m: list[float]) -> list[float]:
    """The smallest level at which Holm's step-down procedure rejects each hypothesis, over all levels that matter."""
    m = len(p_m)
    levels = sorted({min(1.0, p * k) for p, k in itertools.product(p_m, range(1, m + 1))} | {1.0})

    def rejected(level: float) -> set[int]:
        found = set()
        for step, index in enumerate(sorted(range(m), key=lambda n: p_m[n])):
            if p_m[index] * (m - step) > level:
                break
            found.add(index)
        return found

    return [min([level for level in levels if n in rejected(level)], default=1.0) for n in range(m)]


@pytest.mark.parametrize("seed", range(20))
def test_holm_equals_its_definition(seed):
    rng = np.random.default_rng(seed)
    p_m = rng.choice([0.001, 0.01, 0.02, 0.04, 0.3, 0.9, 1.0], size=rng.integers(1, 9))
    np.testing.assert_allclose(holm(p_m), holm_by_definition(p_m.tolist()), rtol=1e-12)


def test_holm_of_a_worked_example_of_none_and_of_bad_values():
    np.testing.assert_allclose(holm([0.03, 0.01, 0.02, 0.7]), [0.06, 0.04, 0.06, 0.7])
    assert holm([]).shape == (0,)
    for bad in ([0.1, np.nan], [1.1], [-0.1], [[0.1]]):
        with pytest.raises(ValueError, match=r"expected p-values \[m\] between 0 and 1"):
            holm(bad)
