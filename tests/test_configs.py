"""The configurations of data sets: their settings are those of the benchmark's chosen points."""

from __future__ import annotations

import fnmatch

import pytest

from configs import ku, ml
from configs.benchmark import ku as benchmark_ku
from configs.benchmark import ml as benchmark_ml
from fedvlr_jax.benchmark.methods import list_methods
from fedvlr_jax.benchmark.records import FEDERATED
from tests.commands import ROOT, run_here
from tests.problems import tiny_dataset


def flat(tree: dict, prefix: str = "") -> dict:
    """Dotted leaves."""
    leaves = {}
    for name, value in tree.items():
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return leaves


SETS = [(ku, benchmark_ku), (ml, benchmark_ml)]


@pytest.mark.parametrize("method", ["fedavg+fedvlr", "fedrap+base", "fedprior+fedvlr", "fcf+fedvlr, one weighting"])
@pytest.mark.parametrize(("chosen", "benchmark"), SETS)
def test_a_data_set_trains_a_method_as_the_benchmark_does(chosen, benchmark, method):
    config = benchmark.get_config()
    found = flat(chosen.get_config(method).to_dict())
    expected = {m.name: m for m in list_methods(config.to_dict(), tiny_dataset()).methods}[method]
    point = flat(chosen.CHOSEN[method].to_dict())
    assert point in [dict(p) for p in expected.grid]
    assert found == flat(dict(expected.settings)) | point | {"baselines": True}


@pytest.mark.parametrize(("chosen", "benchmark"), SETS)
def test_every_federated_method_of_the_benchmark_has_a_chosen_point(chosen, benchmark):
    config = benchmark.get_config()
    methods = list_methods(config.to_dict(), tiny_dataset()).methods
    names = {method.name for method in methods if method.family == FEDERATED and method.host}
    assert len(names) >= 5 * 4 + 2
    assert set(chosen.CHOSEN) == names
    assert all(any(fnmatch.fnmatchcase(name, pattern) for pattern in config.grid) for name in names)


def test_an_unknown_method_is_refused(monkeypatch, tmp_path, capsys):
    code = run_here(monkeypatch, "train", f"--config={ROOT}/configs/ku.py:fcf+other", f"--workdir={tmp_path}")
    assert code == 2
    assert "fcf+base" in capsys.readouterr().err
