"""The estimators on quadratics whose L, sigma, zeta and G are known in closed form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedvlr_jax.theory import estimators

RNG = np.random.default_rng(0)


def symmetric(eigenvalues) -> np.ndarray:
    """A random symmetric matrix with these eigenvalues."""
    basis, _ = np.linalg.qr(RNG.normal(size=(len(eigenvalues), len(eigenvalues))))
    return basis @ np.diag(eigenvalues) @ basis.T


@pytest.mark.parametrize("eigenvalues", [[3, 1, 0.5, 0.1], [-5, 2, 1, 0], [2, -2, 1, 0.5], [0, 0, 0, 0]])
def test_L_of_a_quadratic_is_its_largest_absolute_eigenvalue(eigenvalues):
    with jax.enable_x64(True):
        hessian, at = jnp.asarray(symmetric(eigenvalues)), jnp.asarray(RNG.normal(size=4))
        operator = estimators.hessian_operator(lambda x: 0.5 * x @ hessian @ x + jnp.sum(x), at)
        found = estimators.spectral_norm(operator, 4, jax.random.key(0), 60)
    np.testing.assert_allclose(found, np.max(np.abs(eigenvalues)), rtol=1e-9, atol=1e-12)


def test_L_is_approached_from_below():
    hessian = jnp.asarray(symmetric([4, 3.9, 1, 0.1]), jnp.float32)
    operator = estimators.hessian_operator(lambda x: 0.5 * x @ hessian @ x, jnp.zeros(4))
    found = [float(estimators.spectral_norm(operator, 4, jax.random.key(1), k)) for k in (1, 2, 4, 16, 200)]
    assert found == sorted(found)
    assert found[-1] <= 4 * (1 + 1e-5)
    assert found[-1] > 3.99


def test_a_block_of_the_hessian_is_measured_alone():
    blocks = np.zeros((5, 5))
    blocks[:3, :3], blocks[3:, 3:] = symmetric([1, 0.5, 0.2]), symmetric([7, 2])
    blocks[:3, 3:] = 3
    blocks[3:, :3] = 3
    keep = jnp.asarray([1.0, 1, 1, 0, 0])
    hessian = jnp.asarray(blocks, jnp.float32)
    for weights, expected in ((keep, 1), (1 - keep, 7), (None, np.abs(np.linalg.eigvalsh(blocks)).max())):
        operator = estimators.hessian_operator(lambda x: 0.5 * x @ hessian @ x, jnp.zeros(5), weights)
        found = estimators.spectral_norm(operator, 5, jax.random.key(0), 100)
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_zeta_of_shifted_quadratics_is_the_spread_of_their_minima():
    # J_u = 0.5 ||x - m_u||^2: the gradients differ by the minima alone, at every x.
    minima_up, at_p = RNG.normal(size=(9, 4)), RNG.normal(size=4)
    gradient_up = at_p[None] - minima_up
    expected = np.mean(np.sum((minima_up - minima_up.mean(axis=0)) ** 2, axis=1))
    np.testing.assert_allclose(estimators.dissimilarity(jnp.asarray(gradient_up)), expected, rtol=1e-5)
    np.testing.assert_allclose(estimators.dissimilarity(jnp.asarray(gradient_up[:1])), 0, atol=1e-12)


def test_sigma_and_G_of_a_gradient_with_gaussian_noise():
    # g = exact + N(0, s^2 I): sigma^2 = p s^2 and G^2 = ||exact||^2 + p s^2.
    exact_p, scale, count = RNG.normal(size=6), 0.7, 200_000
    sample_kp = exact_p[None] + scale * RNG.normal(size=(count, 6))
    exact_kp = np.broadcast_to(exact_p, sample_kp.shape)
    with jax.enable_x64(True):
        sigma2 = estimators.noise(jnp.asarray(sample_kp), jnp.asarray(exact_kp))
        G2 = estimators.second_moment(jnp.asarray(sample_kp))
    np.testing.assert_allclose(sigma2, 6 * scale**2, rtol=0.01)
    np.testing.assert_allclose(G2, np.sum(exact_p**2) + 6 * scale**2, rtol=0.01)
