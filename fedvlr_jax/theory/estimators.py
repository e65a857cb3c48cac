"""Estimators of the constants L, G, sigma and zeta, for any function of flat parameter vectors."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedvlr_jax.types import Array


def spectral_norm(operator: Callable[[Array], Array], size: int, key: Array, iterations: int) -> Array:
    """Largest absolute eigenvalue of a symmetric operator on vectors of `size` numbers, by power iteration.

    Returns ||H v|| of the last unit iterate v. It never exceeds the largest absolute eigenvalue, never decreases from
    one iteration to the next, and copes with a pair +-lambda (where v itself does not settle), because ||H v|| =
    lambda on the span of the two.

    Args:
      operator: ``v -> H v``, for a Hessian see `hessian_operator`.
      size: length of v.
      key: of the start vector.
      iterations: applications of H, at least 1.
    """
    start = jax.random.normal(key, (size,))

    def multiply(_: int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        image = operator(carry[0])
        norm = jnp.linalg.norm(image)
        return image / jnp.where(norm > 0, norm, 1.0), norm

    return jax.lax.fori_loop(0, iterations, multiply, (start / jnp.linalg.norm(start), jnp.zeros(())))[1]


def hessian_operator(loss: Callable[[Array], Array], at: Array, keep: Array | None = None) -> Callable:
    """``v -> H v``, the Hessian of `loss` at a flat vector; with `keep` (0/1 weights) that diagonal block alone."""
    gradient = jax.grad(loss)

    def operator(v: Array) -> Array:
        image = jax.jvp(gradient, (at,), (v if keep is None else keep * v,))[1]
        return image if keep is None else keep * image

    return operator


def dissimilarity(gradient_up: Array) -> Array:
    """zeta^2 at one point: mean over clients of ||g_u - mean of g||^2, for exact gradients [u, p]."""
    return jnp.mean(jnp.sum((gradient_up - jnp.mean(gradient_up, axis=0)[None]) ** 2, axis=1))


def noise(sample_kp: Array, exact_kp: Array) -> Array:
    """sigma^2: mean of ||g_k - E g_k||^2 over stochastic gradients [k, p] and their exact expectations [k, p]."""
    return second_moment(sample_kp - exact_kp)


def second_moment(sample_kp: Array) -> Array:
    """G^2 at one point: mean of ||g_k||^2 over stochastic gradients [k, p]."""
    return jnp.mean(jnp.sum(sample_kp**2, axis=1))
