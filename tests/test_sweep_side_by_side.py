"""Sixteen points in one vmapped program: each is what it is alone, in its states, ranks and metrics."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from commands import ROOT, TINY, run_here
from problems import relative_difference, settings, tiny_dataset

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.benchmark.group import Run
from fedvlr_jax.benchmark.programs import MethodPrograms
from fedvlr_jax.data.buckets import make_client_data
from fedvlr_jax.fields import with_fields
from fedvlr_jax.sweep import side_by_side
from fedvlr_jax.sweep.layout import group_by_program, traced
from fedvlr_jax.sweep.side_by_side import faster_size, group_size
from fedvlr_jax.training.schedule import make_plan

RATES = {"server.lr": [0.003, 0.01, 0.03, 0.1], "client.lr": [0.05, 0.1, 0.3, 1.0]}
SIZES = TINY | {"variant": "fedvlr", "fusion.operators": "gate", "rounds": 8, "eval.every": 4}
TOLERANCE = 1e-4


def sweep(monkeypatch, workdir, fields, *more, **config) -> dict[str, dict]:
    """The results of all runs of a sweep, by folder."""
    path = workdir.parent / "mine.py"
    path.write_text(f"def get_sweep():\n    return { ({'fields': fields})!r}\n")
    chosen = SIZES | {name.replace("__", "."): value for name, value in config.items()}
    command = [f"--config={ROOT}/configs/quickstart.py", *(f"--config.{k}={v}" for k, v in chosen.items())]
    assert run_here(monkeypatch, "sweep", *command, f"--sweep={path}", f"--workdir={workdir}", *more) == 0
    return {p.parent.name: json.loads(p.read_text()) for p in workdir.glob("runs/*/result.json")}


def own_run(monkeypatch, workdir, point, seed, **config) -> dict:
    """The result of experiments/train.py at a point."""
    chosen = SIZES | {name.replace("__", "."): value for name, value in config.items()} | point | {"seed": seed}
    command = [f"--config={ROOT}/configs/quickstart.py", *(f"--config.{k}={v}" for k, v in chosen.items())]
    assert run_here(monkeypatch, "train", *command, f"--workdir={workdir}") == 0
    return json.loads((workdir / "result.json").read_text())


def require_equal(ours: dict, theirs: dict) -> None:
    """The same best round, and the same validation and test metrics to the tolerance."""
    assert ours["best_round"] == theirs["best_round"]
    for split in ("valid", "test", "test_warm", "test_cold"):
        assert ours[split] == pytest.approx(theirs[split], abs=TOLERANCE), split


def require_equal_ranks(ours, theirs) -> None:
    with np.load(ours / "ranks.npz") as a, np.load(theirs / "ranks.npz") as b:
        for name in b.files:
            np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.slow
def test_sixteen_points_end_in_the_states_of_their_own_runs():
    tree = settings(host__name="fcf", variant="fedvlr", fusion__operators="sum,mlp", fusion__dim=4)
    dataset = tiny_dataset()
    points = [{"server.lr": s, "client.lr": c} for s in RATES["server.lr"] for c in RATES["client.lr"]]
    (program,) = group_by_program(points)
    clients = make_client_data(dataset, min_length=16)
    programs = MethodPrograms(tree, dataset, clients)
    group = programs.group([traced(points[k]) for k in program.points])
    states, _ = programs.run(group, programs.init(group, [3] * 16), 4)
    for k, point in enumerate(points):
        algorithm = make_algorithm(with_fields(tree, point), dataset)
        run = jax.jit(algorithm.run, static_argnames="num_rounds")
        own, _ = run(jax.jit(algorithm.init)(jax.random.key(3)), clients, num_rounds=4)
        assert relative_difference(_numbers(states, k), _numbers(own)) < TOLERANCE, point
        assert relative_difference(_numbers(states, k - 1), _numbers(own)) > TOLERANCE  # the points do matter


def _numbers(state, k=...):
    """All parameters, of run k of a group."""
    return jax.tree.map(lambda x: x[k], (state.public.params, state.private.params))


@pytest.mark.slow
def test_sixteen_points_side_by_side_equal_one_after_the_other(monkeypatch, tmp_path):
    together = sweep(monkeypatch, tmp_path / "on", RATES, "--vmap=on", variant="base")
    alone = sweep(monkeypatch, tmp_path / "off", RATES, "--vmap=off", variant="base")
    assert together.keys() == alone.keys()
    assert len(alone) == 16
    for name in alone:
        require_equal(together[name], alone[name])
        require_equal_ranks(tmp_path / "on" / "runs" / name, tmp_path / "off" / "runs" / name)
    assert len({str(result["valid"]) for result in alone.values()}) > 8  # the points do matter


@pytest.mark.slow
def test_points_of_sixteen_side_by_side_equal_the_training_command(monkeypatch, tmp_path):
    """Every third of them: the test of states above has all sixteen."""
    together = sweep(monkeypatch, tmp_path / "on", RATES, "--vmap=on")
    points = [{"server.lr": s, "client.lr": c} for s in RATES["server.lr"] for c in RATES["client.lr"]]
    assert len(together) == len(points) == 16
    for k, point in [*enumerate(points)][::3]:
        require_equal(together[f"point{k}-seed0"], own_run(monkeypatch, tmp_path / str(k), point, 0))


@pytest.mark.slow
def test_seeds_and_features_of_points_are_those_of_the_training_command(monkeypatch, tmp_path):
    fields = {"seed": [0, 4], "data.features": ["real", "shuffled", "random"]}
    together = sweep(monkeypatch, tmp_path / "on", fields, "--vmap=on", variant="vbpr")
    points = [(seed, features) for seed in fields["seed"] for features in fields["data.features"]]
    for k, (seed, features) in enumerate(points):
        own = own_run(monkeypatch, tmp_path / str(k), {"data.features": features}, seed, variant="vbpr")
        require_equal(together[f"point{k}-seed{seed}"], own)


@pytest.mark.parametrize(
    ("vmap", "group", "backend", "size"),
    [("auto", 0, "cpu", 1), ("auto", 0, "gpu", 16), ("on", 0, "cpu", 16), ("on", 5, "cpu", 5), ("off", 5, "gpu", 1)],
)
def test_how_many_runs_go_side_by_side(vmap, group, backend, size):
    assert group_size(vmap, group, backend, 16) == size


class _Programs:
    """Programs that take known times: one second to compile, and each round as long as `seconds` has for the size."""

    def __init__(self, clock: list, seconds: dict):
        self.seconds, self._clock, self._round, self.compiled = 0.0, clock, seconds, []

    def group(self, points, datasets):
        assert datasets is None or len(datasets) == len(points)
        return len(points)

    def init(self, group, seeds):
        assert len(seeds) == group
        return group

    def run(self, group, state, num_rounds):
        if group not in self.compiled:
            self.compiled.append(group)
            self.seconds += 1.0
            self._clock[0] += 1.0
        self._clock[0] += self._round[group] * num_rounds
        return state, None


@pytest.mark.parametrize(
    ("rounds", "seconds", "size", "compiled"),
    [
        (40, {1: 0.1, 8: 0.7}, 8, [1, 8]),
        (40, {1: 0.1, 8: 0.9}, 1, [1, 8]),
        (10, {1: 0.1, 8: 0.7}, 3, [1]),  # 8 s of rounds, below 10 times a second of compilation
    ],
)
def test_the_faster_way_is_chosen_where_measuring_pays(monkeypatch, rounds, seconds, size, compiled):
    clock = [0.0]
    monkeypatch.setattr(side_by_side.time, "perf_counter", lambda: clock[0])
    programs = _Programs(clock, seconds)
    plan = make_plan(settings(rounds=rounds, eval__every=5))
    choice = faster_size(programs, plan, [Run({}, k) for k in range(8)], most=8, usual=3)
    assert (choice.size, programs.compiled) == (size, compiled)
    assert ("not measured" in choice.why) == (compiled == [1])


@pytest.mark.slow
def test_a_sweep_takes_the_faster_way_and_notes_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(side_by_side, "PAYS", 0)
    monkeypatch.setattr(side_by_side, "_seconds_a_round", lambda programs, plan, runs, _: 1.0 / len(runs))
    fields = {"client.lr": [0.1, 0.3]}
    chosen = sweep(monkeypatch, tmp_path / "auto", fields, variant="base")
    assert [result["side_by_side"] for result in chosen.values()] == [2, 2]
    assert "2 of 2 runs side by side, measured: 1000.0 ms a round alone" in capsys.readouterr().err
