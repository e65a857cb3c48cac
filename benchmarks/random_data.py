"""Random interactions and features of a given shape, for benchmarks that need no meaning."""

from __future__ import annotations

import numpy as np

from fedvlr_jax.types import Dataset

LEAST = 3  # rows of a client


def random_dataset(
    name: str, num_users: int, num_items: int, num_rows: int, *, width: int, skew: float = 0.8, seed: int = 0
) -> Dataset:
    """Train rows only, without held-out items.

    Args:
      name: of the set.
      num_users, num_items: |U|, |I|.
      num_rows: train rows, about; no client has fewer than three or more than half of the catalogue.
      width: dimensions of both kinds of features.
      skew: standard deviation of the logarithm of the expected history length.
      seed: of everything.
    """
    rng = np.random.default_rng(seed)
    share_u = rng.lognormal(sigma=skew, size=num_users)
    expected_u = share_u / share_u.sum() * max(num_rows - LEAST * num_users, 0)
    length_u = np.minimum(LEAST + rng.poisson(expected_u), num_items // 2)
    user = np.repeat(np.arange(num_users, dtype=np.int64), length_u)
    # Distinct items of a user: drawn with repetitions, and the repeated ones drawn again.
    key = user * num_items + rng.integers(0, num_items, user.size)
    while True:
        key.sort()
        again = np.flatnonzero(key[1:] == key[:-1]) + 1
        if not again.size:
            break
        key[again] = key[again] // num_items * num_items + rng.integers(0, num_items, again.size)
    V, C = random_features(rng, num_items, width)
    held_out = np.full(num_users, -1, np.int32)
    return Dataset(
        name=name,
        num_users=num_users,
        num_items=num_items,
        train_user=(key // num_items).astype(np.int32),
        train_item=(key % num_items).astype(np.int32),
        valid_item=held_out,
        test_item=held_out,
        V=V,
        C=C,
    )


def random_features(rng: np.random.Generator, num_items: int, width: int) -> list[np.ndarray]:
    """V and C, float32 [i, width], with rows of norm one."""
    features = [rng.normal(size=(num_items, width)).astype(np.float32) for _ in range(2)]
    return [x / np.linalg.norm(x, axis=1, keepdims=True) for x in features]
