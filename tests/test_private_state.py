"""The first private states of clients."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from problems import settings, tiny_dataset

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.federated import private_state


@pytest.mark.parametrize("host", ["fedrap", pytest.param("fedncf", marks=pytest.mark.slow)])
def test_first_states_are_the_same_however_many_are_drawn_together(monkeypatch, host):
    """13 clients, the last ones of a draw of five drawn twice."""
    tree = settings(host__name=host, variant="fedvlr", client__optimizer="adam")
    together = jax.jit(make_algorithm(tree, tiny_dataset()).init)(jax.random.key(0)).private
    monkeypatch.setattr(private_state, "DRAWN_AT_ONCE", 5)
    init = jax.jit(make_algorithm(tree, tiny_dataset()).init)
    assert "dynamic_update_slice" in init.lower(jax.random.key(0)).as_text()
    apart = init(jax.random.key(0)).private
    assert jax.tree.structure(together) == jax.tree.structure(apart)
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(apart), strict=True):
        np.testing.assert_array_equal(a, b)
