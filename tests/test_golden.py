"""Golden numbers: three rounds of two whole configurations, so that no change of the algorithm goes unnoticed.

Update them only in a change that means to alter the algorithm, its initialisation or its random draws, and that
says so; a faster, tidier or differently laid out computation must reproduce them. `python tests/test_golden.py`
prints the current ones.
"""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest
from problems import client_data, settings, tiny_dataset

from fedvlr_jax.algorithm import make_algorithm

GOLDEN = {  # objective: (loss of each round, L2 norms by which public and private parameters moved)
    "bce": ([0.753163, 0.738274, 0.71406], 0.872328, 0.499816),
    "softmax": ([3.573259, 3.519876, 3.2636], 1.825307, 2.150102),
}


def three_rounds(objective: str) -> tuple[list[float], float, float]:
    """FCF + FedVLR with 9 of 13 clients a round and plain SGD everywhere, which hides no factor."""
    tree = settings(
        objective=objective,
        host__name="fcf",
        variant="fedvlr",
        client__l2=0.01,
        client__holdout=0.5,
        server__lr=2.0,
        server__l2=0.01,
        server__clients_per_round=9,
    )
    dataset = tiny_dataset()
    algorithm = make_algorithm(tree, dataset)
    start = jax.jit(algorithm.init)(jax.random.key(0))
    end, info = jax.jit(algorithm.run, static_argnums=2)(start, client_data(dataset), 3)
    parts = ((end.public, start.public), (end.private, start.private))
    moved = [float(optax.tree.norm(optax.tree.sub(now.params, before.params))) for now, before in parts]
    return info.loss.tolist(), *moved


@pytest.mark.parametrize("objective", GOLDEN)
def test_three_rounds_give_the_golden_numbers(objective):
    for found, golden in zip(three_rounds(objective), GOLDEN[objective], strict=True):
        np.testing.assert_allclose(found, golden, rtol=1e-4)


if __name__ == "__main__":
    for name in GOLDEN:
        print(f'    "{name}": {three_rounds(name)},')
