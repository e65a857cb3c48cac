"""What a sweep file says: its points, the programs that they share, and the shards that they are split into."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest
from commands import ROOT

from configs.base import get_config
from configs.sweeps import base, random, rates
from fedvlr_jax.errors import ConfigError, RunWarning
from fedvlr_jax.fields import flatten
from fedvlr_jax.settings import default_settings, override
from fedvlr_jax.sweep import runner
from fedvlr_jax.sweep.layout import describe, group_by_program, numbers, points_of_shard, read_shard, traced
from fedvlr_jax.sweep.runs import Datasets, SweepStore
from fedvlr_jax.sweep.space import Range, expand, read_sweep, seeds_of

KNOWN = dict(base.get_sweep().items())
LEAVES = dict(flatten(get_config().to_dict()))
MIXED = {"server.lr": [0.1, 0.2], "variant": ["base", "mlp"], "client.lr": [1, 2.0], "client.steps": [1, 5]}


def read(**fields):
    return read_sweep(fields, LEAVES, KNOWN)


def test_a_grid_is_the_product_in_the_order_of_the_file_and_in_the_types_of_the_configuration():
    points = expand(read(fields={"server.lr": [1, 0.5], "fusion.operators": [["sum", "mlp"], "gate"]}))
    assert points == [
        {"server.lr": 1.0, "fusion.operators": "sum,mlp"},
        {"server.lr": 1.0, "fusion.operators": "gate"},
        {"server.lr": 0.5, "fusion.operators": "sum,mlp"},
        {"server.lr": 0.5, "fusion.operators": "gate"},
    ]
    assert all(type(point["server.lr"]) is float for point in points)


def test_exact_sums_under_a_guarantee_are_warned_about_once(monkeypatch, tmp_path):
    budget = {"aggregation.transforms": "clip,noise", "privacy.target_epsilon": 8.0, "privacy.delta": 1e-3}
    settings = override(default_settings(), {"variant": "base", "rounds": 5} | budget)
    fields = {"host.name": ["fcf", "fedprior"], "server.lr": [0.1, 0.2], "variant": ["base", "mlp"]}
    store = SweepStore(settings, read(fields=fields), tmp_path, Datasets())
    monkeypatch.setattr(runner, "_run", lambda *_: {})
    with pytest.warns(RunWarning, match="host fedprior forms exact sums over all") as warned:
        runner.run_sweep(types.SimpleNamespace(store=store, report=lambda _: None))
    assert len([w for w in warned if "exact sums" in str(w.message)]) == 1


def test_nested_and_dotted_fields_are_the_same():
    assert read(fields={"server": {"lr": [0.1]}, "seed": [1]}) == read(fields={"server.lr": [0.1], "seed": [1]})


def test_seeds_are_those_of_the_sweep_of_the_configuration_or_of_the_point():
    assert seeds_of(read(fields={"variant": ["base"]}, seeds=(3, 4)), {"variant": "base"}) == (3, 4)
    assert seeds_of(read(fields={"variant": ["base"]}), {"variant": "base"}) == (LEAVES["seed"],)
    assert seeds_of(read(fields={"seed": [7, 8]}), {"seed": 8}) == (8,)


def test_random_points_stay_in_their_ranges_and_keep_their_draws():
    fields = {
        "server.lr": {"low": 1e-4, "high": 1.0, "log": True},
        "client.l2": {"low": 0.0, "high": 0.5},
        "client.steps": {"low": 1, "high": 3},
        "variant": ["base", "mlp"],
    }
    points = expand(read(kind="random", fields=fields, samples=300, seed=5))
    assert points == expand(read(kind="random", fields=fields, samples=300, seed=5))
    assert points != expand(read(kind="random", fields=fields, samples=300, seed=6))
    rates_ = [point["server.lr"] for point in points]
    assert min(rates_) >= 1e-4
    assert max(rates_) <= 1.0
    assert 0.15 < sum(rate < 1e-3 for rate in rates_) / 300 < 0.35  # a quarter of the logarithm's range
    assert all(rate == float(f"{rate:.6g}") for rate in rates_)
    assert {type(point["client.steps"]) for point in points} == {int}
    assert {point["client.steps"] for point in points} == {1, 2, 3}
    assert {point["variant"] for point in points} == {"base", "mlp"}
    less = expand(read(kind="random", fields={"server.lr": fields["server.lr"]}, samples=20, seed=5))
    assert [point["server.lr"] for point in less] == rates_[:20]


def test_random_whole_numbers_of_a_logarithmic_range_reach_both_ends():
    fields = {"fusion.dim": {"low": 3, "high": 5, "log": True}}
    assert {point["fusion.dim"] for point in expand(read(kind="random", fields=fields, samples=200))} == {3, 4, 5}
    assert read(kind="random", fields=fields).axes["fusion.dim"] == Range(3, 5, True)


def test_a_random_point_is_drawn_once():
    points = expand(read(kind="random", fields={"variant": ["base", "mlp"]}, samples=50))
    assert sorted(point["variant"] for point in points) == ["base", "mlp"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fields": {"server.rl": [1.0]}}, "unknown field server.rl; did you mean server.lr?"),
        ({"fields": {"lr": [1.0]}}, "unknown field lr; did you mean client.lr?"),
        ({"fields": {"sever": {"lr": [1.0]}}}, "unknown field sever; did you mean server"),
        ({"fields": {"server": [1.0]}}, "server.: expected names with their values, found"),
        ({"fields": {"dry_run": [True]}}, "dry_run changes nothing"),
        ({"fields": {"writers": ["", "csv"]}}, "writers changes nothing"),
        ({"fields": {}}, "expected at least one field"),
        ({"fields": {"server.lr": 0.1}}, "server.lr: expected a list of values, found 0.1"),
        ({"fields": {"server.lr": []}}, "server.lr: expected a list of values, found no values"),
        ({"fields": {"variant": "base"}}, "variant: expected a list of values, found 'base'"),
        ({"fields": {"server.lr": [0.1, "x"]}}, "server.lr, value 2 of 2: expected a finite number, found 'x'"),
        ({"fields": {"server.lr": [float("nan")]}}, "server.lr, value 1 of 1: expected a finite number, found nan"),
        ({"fields": {"rounds": [5, 1.5]}}, "rounds, value 2 of 2: expected type int, found 1.5"),
        ({"fields": {"rounds": [True]}}, "rounds, value 1 of 1: expected type int, found True"),
        ({"fields": {"client.move_items": [1]}}, "client.move_items, value 1 of 1: expected type bool, found 1"),
        ({"fields": {"server.lr": [1, 1.0]}}, "server.lr: expected distinct values"),
        ({"fields": {"server.lr": {"low": 1, "high": 2}}}, "kind grid expects a list of values"),
        ({"kind": "random", "fields": {"variant": {"low": 1, "high": 2}}}, "since it is no number"),
        ({"kind": "random", "fields": {"server.lr": {"low": 1}}}, "expected low, high and perhaps log"),
        ({"kind": "random", "fields": {"server.lr": {"low": 2, "high": 1}}}, "expected low < high, found"),
        ({"kind": "random", "fields": {"server.lr": {"low": 0, "high": 1, "log": True}}}, "expected 0 < low < high"),
        ({"kind": "random", "fields": {"server.lr": {"low": 0, "high": 1, "log": 1}}}, "log: expected True or False"),
        ({"kind": "gird"}, "kind: expected one of grid, random, optuna, found 'gird'"),
        ({"sample": 3}, "there is no 'sample'; did you mean samples?"),
        ({"samples": 0}, "samples: expected an integer of at least 1, found 0"),
        ({"fields": {"variant": ["base"]}, "seeds": [-1]}, "seeds: expected a list of integers of at least 0"),
        ({"fields": {"variant": ["base"]}, "seeds": [1, 1]}, "seeds: expected distinct seeds"),
        ({"fields": {"seed": [1]}, "seeds": [1]}, "found both"),
    ],
)
def test_a_misspelled_name_is_reported(fields, message):
    with pytest.raises(ConfigError, match=r"^sweep: ") as error:
        read(**fields)
    assert message in str(error.value)


def test_a_sweep_is_checked_without_jax():
    code = "import sys, fedvlr_jax.sweep.space, fedvlr_jax.sweep.layout; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_points_share_a_program_exactly_where_they_differ_in_its_arguments():
    points = expand(read(fields=MIXED))
    programs = group_by_program(points)
    assert sorted(k for program in programs for k in program.points) == list(range(16))
    assert len(programs) == 4
    for program in programs:
        assert {(points[k]["variant"], points[k]["client.steps"]) for k in program.points} == {
            (program.static["variant"], program.static["client.steps"])
        }
    assert traced(points[0]) == {"server.lr": 0.1, "client.lr": 1.0}
    assert len(group_by_program(expand(read(fields={"seed": [0, 1], "server.l2": [0.0, 0.1]})))) == 1


def test_the_command_says_what_shares_a_program_and_what_keeps_points_apart():
    points = expand(read(fields={"server.lr": [0.1, 0.2], "variant": ["base", "mlp"], "objective": ["bce"]}))
    assert describe(points, group_by_program(points)) == [
        "2 programs for 4 points",
        "program 1 (variant=base, objective=bce): 2 points share it (server.lr): 0, 2",
        "program 2 (variant=mlp, objective=bce): 2 points share it (server.lr): 1, 3",
        "kept apart by variant: another value needs another program",
    ]
    points = expand(read(fields={"fusion.dim": [8, 16]}))
    assert describe(points, group_by_program(points))[1:] == [
        "program 1 (fusion.dim=8): point 0 alone",
        "program 2 (fusion.dim=16): point 1 alone",
        "kept apart by fusion.dim: another value needs another program",
    ]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 16, 20])
def test_shards_partition_the_points_evenly(n):
    programs = group_by_program(expand(read(fields=MIXED)))
    shards = [points_of_shard(programs, (i, n)) for i in range(1, n + 1)]
    assert sorted(k for shard in shards for k in shard) == list(range(16))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    if n == 4:
        assert [set(program.points) for program in programs] == list(map(set, shards))


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/", "a/b", "1/0", "-1/2", "1/2/3", ""])
def test_a_bad_shard_is_refused(text):
    with pytest.raises(ConfigError, match=r"--shard=.*expected i/n with 1 <= i <= n"):
        read_shard(text)


def test_a_shard_and_numbers_in_short():
    assert read_shard("2/3") == (2, 3)
    assert numbers([0, 1, 2, 4, 6, 7]) == "0-2, 4, 6-7"


def test_the_examples_are_what_they_say():
    grid = expand(read_sweep(dict(rates.get_sweep().items()), LEAVES, KNOWN))
    assert len(grid) == 16
    assert len(group_by_program(grid)) == 1
    drawn = expand(read_sweep(dict(random.get_sweep().items()), LEAVES, KNOWN))
    assert len(drawn) == 16
    static = {field for program in group_by_program(drawn) for field in program.static}
    assert static == {
        "fusion.operators",
        "fusion.dim",
    }
