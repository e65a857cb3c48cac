"""Two seeds never mean the same draws: what a key would cut off is refused."""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest
import sweeps
from commands import arguments, run_here

from fedvlr_jax.errors import ConfigError
from fedvlr_jax.settings import check_settings, default_settings, override

LARGEST = 2**32 - 1


def test_all_accepted_seeds_give_different_keys():
    near = [base + step for base in (0, 2**16, 2**31, 2**32) for step in range(-3, 4)]
    seeds = [seed for seed in near if 0 <= seed <= LARGEST]
    keys = {seed: tuple(np.asarray(jax.random.key_data(jax.random.key(seed))).tolist()) for seed in seeds}
    for a, b in itertools.combinations(seeds, 2):
        assert keys[a] != keys[b], (a, b)


@pytest.mark.parametrize("seed", [0, 1, LARGEST])
def test_seeds_of_32_bits_are_accepted(seed):
    check_settings(override(default_settings(), {"seed": seed}))


@pytest.mark.parametrize("seed", [-1, LARGEST + 1, 2**40, 2**63])
def test_other_seeds_are_refused(seed):
    with pytest.raises(ConfigError, match=rf"seed: expected at least 0 and below {2**32}, found {seed}"):
        check_settings(override(default_settings(), {"seed": seed}))


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("seed", [-1, LARGEST + 1])
def test_the_command_refuses_them_and_so_does_a_dry_run(monkeypatch, capsys, tmp_path, seed, dry_run):
    flags = arguments(tmp_path / "run", seed=seed, dry_run=dry_run)
    assert run_here(monkeypatch, "train", *flags) == 2
    assert f"seed: expected at least 0 and below {2**32}, found {seed}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seeds": [0, 2**32]}, "sweep: seeds: expected a list of integers of at least 0 and below"),
        ({"seeds": [-1]}, "sweep: seeds: expected a list of integers of at least 0 and below"),
        ({"seed": 2**32}, "sweep: seed: expected an integer, at least 0 and below"),
        ({"fields": {"seed": [0, 2**32]}}, "seed: expected at least 0 and below"),
    ],
)
@pytest.mark.parametrize("more", [["--config.dry_run"], []])
def test_sweeps_refuse_them(monkeypatch, capsys, tmp_path, fields, message, more):
    assert run_here(monkeypatch, "sweep", *sweeps.flags(tmp_path / "sweep", *more, **({"seeds": []} | fields))) == 2
    assert message in capsys.readouterr().err
