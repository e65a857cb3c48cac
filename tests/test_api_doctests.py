"""The examples in the docstrings of the public API give what they say."""

from __future__ import annotations

import doctest

import pytest

import fedvlr_jax
from fedvlr_jax import api, newcomers
from fedvlr_jax.analysis import judging
from fedvlr_jax.data import arrays


@pytest.fixture(scope="module")
def fitted():
    dataset = fedvlr_jax.load_dataset("synthetic", synthetic={"num_users": 20, "num_interactions": 200})
    return fedvlr_jax.fit(dataset, {"variant": "base", "rounds": 2})


@pytest.mark.parametrize("module", [fedvlr_jax, api, arrays, newcomers, judging])
def test_examples_give_what_they_say(module, fitted):
    names = {"fitted": fitted, "load_dataset": fedvlr_jax.load_dataset}
    found = doctest.testmod(module, extraglobs=names, optionflags=doctest.ELLIPSIS)
    assert found.attempted > 0
    assert found.failed == 0
