"""Routers through a run: their private state, which may be nothing at all, is trained, saved and stored."""

from __future__ import annotations

import pytest
from laws.rounds import DATASET, after
from laws.saving import require_saved, require_stored_rounds
from problems import settings, spread

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.models.router import ROUTERS

COMMON = {"fusion__operators": "id,visual", "server__clients_per_round": 5}


@pytest.mark.parametrize("router", spread(ROUTERS, ["uniform"]))
def test_states_with_any_router_are_saved(tmp_path, router):
    state, _ = after(1, fusion__router=router, **COMMON)
    require_saved(tmp_path, state)


@pytest.mark.slow
@pytest.mark.parametrize("router", ROUTERS)
def test_rounds_with_client_states_in_files_take_any_router(tmp_path, router):
    require_stored_rounds(tmp_path, 2, fusion__router=router, **COMMON)


def test_routers_have_the_parameters_that_they_say():
    counts = {}
    for name in ("mlp", "bias", "uniform"):
        tree = settings(fusion__router=name, fusion__dim=64, fusion__heads=4)
        counts[name] = make_algorithm(tree, DATASET).cost.num_private_per_client - 64  # beside theta_u of FCF
    assert counts == {"mlp": 12_547, "bias": 3, "uniform": 0}
