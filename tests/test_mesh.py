"""Several devices: what a round computes does not depend on how many there are."""

from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from fedvlr_jax.errors import ConfigError
from fedvlr_jax.federated.aggregation import AGGREGATORS
from fedvlr_jax.federated.mesh import join_processes, make_mesh, padded_rows

ROOT = pathlib.Path(__file__).resolve().parents[1]
FLAGS = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count"

SCRIPT = """
import json, pathlib, sys
import jax, numpy as np
sys.path[:0] = [{root!r}, {tests!r}]
from problems import settings, tiny_dataset
from fedvlr_jax.training.device_backend import DeviceBackend
from fedvlr_jax.training.experiment import make_experiment
from fedvlr_jax.training.loop import train
dataset = tiny_dataset()
for case in json.loads(sys.argv[1]):
    folder = pathlib.Path(case.pop("folder"))
    experiment = make_experiment(settings(**case), dataset)
    trained = train(experiment, folder)
    keep = {{}}
    for path, x in jax.tree_util.tree_leaves_with_path((trained.state.public.params, trained.state.private)):
        name = jax.tree_util.keystr(path)
        x = np.asarray(x)
        keep[name] = x[: dataset.num_users] if name.startswith("[1]") else x
    ranks = {{f"ranks.{{k}}": v for k, v in trained.ranks._asdict().items() if v is not None}}
    np.savez(folder / "state.npz", **keep, **ranks)
"""


def trained(*runs: tuple[pathlib.Path, int], **overrides) -> list[dict[str, np.ndarray]]:
    """State and ranks after each run (its folder, its number of devices)."""
    return run_cases({folder: overrides | {"compute__devices": devices} for folder, devices in runs})


def run_cases(cases: Mapping[pathlib.Path, Mapping[str, Any]]) -> list[dict[str, np.ndarray]]:
    """State and ranks after each run (its folder, its settings), in one process that feigns eight devices."""
    common = {"rounds": 20, "eval__every": 5, "eval__patience": 0}
    for folder in cases:
        folder.mkdir(exist_ok=True)
    told = [common | dict(case) | {"folder": str(folder)} for folder, case in cases.items()]
    code = SCRIPT.format(root=str(ROOT), tests=str(ROOT / "tests"))
    environment = os.environ | {"XLA_FLAGS": f"{FLAGS}=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(told)], env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [read_arrays(folder / "state.npz") for folder in cases]


def read_arrays(file: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(file) as arrays:
        return {name: arrays[name] for name in arrays.files}


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray], *, tolerance: float) -> None:
    """Every leaf within `tolerance` of the other's, relative to its size; ranks of items equal."""
    assert a.keys() == b.keys()
    for name, x in a.items():
        difference = np.linalg.norm(np.float64(x) - np.float64(b[name]))
        assert difference <= tolerance * max(np.linalg.norm(np.float64(b[name])), 1e-2), name


@pytest.mark.slow
def test_eight_devices_and_then_three_equal_one_after_twenty_rounds(tmp_path):
    """13 clients on 8 devices: two each, and the last has none. A checkpoint goes on with another number."""
    common = {"server__clients_per_round": 6, "host__name": "fedrap", "objective": "bpr", "compute__bucket_worth": 0}
    trained((tmp_path / "several", 8), rounds=10, **common)
    one, several = trained((tmp_path / "one", 1), (tmp_path / "several", 3), **common)
    assert_same(several, one, tolerance=1e-5)


@pytest.mark.slow
def test_two_and_four_devices_join_uploads_as_one_does_with_every_aggregator(tmp_path):
    """All in one process, whose programs for the first state and for ranks are the same."""
    cases = {
        tmp_path / f"{aggregator}_{devices}": {
            "rounds": 4,
            "variant": "base",
            "server__clients_per_round": 6,
            "aggregation__aggregator": aggregator,
            "aggregation__transforms": "clip",
            "aggregation__clip_norm": 0.2,
            "compute__devices": devices,
        }
        for aggregator in AGGREGATORS
        for devices in (1, 2, 4)
    }
    found = dict(zip(cases, run_cases(cases), strict=True))
    for aggregator in AGGREGATORS:
        one, *several = (found[tmp_path / f"{aggregator}_{devices}"] for devices in (1, 2, 4))
        for other in several:
            assert_same(other, one, tolerance=1e-5)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    """Two processes with two devices each, on one workdir, through the command line."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    common = [sys.executable, "experiments/train.py", f"--config={ROOT}/configs/quickstart.py", "--config.rounds=20"]
    common += [
        "--config.baselines=False",
        "--config.variant=base",
        "--config.fusion.dim=8",
        "--config.data.synthetic.num_users=61",
    ]
    common += ["--config.data.synthetic.num_interactions=900", "--config.data.synthetic.num_items=90"]
    environment = os.environ | {
        "XLA_FLAGS": f"{FLAGS}=2",
        "JAX_PLATFORMS": "cpu",
    }
    joined = [f"--workdir={tmp_path}/two", "--config.compute.devices=0", f"--coordinator=localhost:{port}"]
    pair = [
        subprocess.Popen([*common, *joined, "--num_processes=2", f"--process_id={k}"], cwd=ROOT, env=environment)
        for k in range(2)
    ]
    assert [process.wait(timeout=500) for process in pair] == [0, 0]
    subprocess.run([*common, f"--workdir={tmp_path}/one"], cwd=ROOT, env=environment, check=True, timeout=500)
    one, two = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("one", "two"))
    assert one["best_round"] == two["best_round"]
    assert one["valid"]["NDCG@50"] == pytest.approx(two["valid"]["NDCG@50"], abs=1e-5)
    assert one["test"]["NDCG@50"] == pytest.approx(two["test"]["NDCG@50"], abs=1e-5)


@pytest.mark.parametrize(
    ("address", "count", "process", "problem"),
    [("nowhere", 2, 0, "--coordinator: expected host:port"), ("a:1", 2, 2, "--process_id: expected 0 to 1, found 2")],
)
def test_a_process_that_cannot_join_is_refused(address, count, process, problem):
    with pytest.raises(ConfigError, match=problem):
        join_processes(address, count, process)


def test_more_devices_than_there_are_is_refused():
    with pytest.raises(ConfigError, match=r"compute.devices: expected at most \d+, .* found 4096"):
        make_mesh(4096)


def test_one_device_needs_no_mesh_and_no_padding():
    assert make_mesh(1) is None
    assert padded_rows(13, None) == 13


LISTS = """
import sys
import numpy as np
sys.path[:0] = [{root!r}, {tests!r}]
import jax
from problems import settings, tiny_dataset
from fedvlr_jax.inference.lists import judge_lists
from fedvlr_jax.inference.recommend import recommend
from fedvlr_jax.training.device_backend import DeviceBackend
from fedvlr_jax.training.experiment import make_experiment
dataset, found = tiny_dataset(), []
for devices in (1, 8):
    made = make_experiment(settings(compute__devices=devices, host__name="fedrap"), dataset)
    programs = DeviceBackend(made, eval_chunk=4)
    state = programs.init(3)
    sizes = dict(num_users=dataset.num_users, num_items=dataset.num_items)
    lists = judge_lists(made.algorithm, programs.parts(state), made.clients, dataset, chunk=4)
    best = recommend(made.algorithm, programs.parts(state), made.clients, k=5, chunk=1, **sizes)
    found.append((lists, best))
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *found)
np.testing.assert_array_equal(found[0][1][0], found[1][1][0])
"""


@pytest.mark.slow
def test_eight_devices_show_and_judge_the_lists_of_one():
    environment = os.environ | {"XLA_FLAGS": f"{FLAGS}=8", "JAX_PLATFORMS": "cpu"}
    code = LISTS.format(root=str(ROOT), tests=str(ROOT / "tests"))
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
