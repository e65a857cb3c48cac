"""Exported programs against the library: a device that has jax alone trains and scores as the simulation does."""

from __future__ import annotations

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import run_here
from problems import relative_difference, settings, spread, tiny_dataset

from fedvlr_jax.algorithm import make_algorithm
from fedvlr_jax.deploy.device import Client
from fedvlr_jax.deploy.export import client_programs, export_client, flat
from fedvlr_jax.errors import ConfigError
from fedvlr_jax.federated import sampling
from fedvlr_jax.types import Bucket, content_of

DATASET = tiny_dataset(num_users=6, num_items=24)
HISTORY = [17, 3, 11, 20]
USER = 2
CASES = [("fcf", "fedvlr"), ("fedrap", "base"), ("pfedrec", "mlp"), ("fedncf", "vbpr")]


def exported(folder, host, variant, **changes):
    """The algorithm, its first state, and the client of an exported folder."""
    tree = settings(host__name=host, variant=variant, fusion__operators="id,visual", **changes)
    algorithm = make_algorithm(tree, DATASET)
    state = algorithm.init(jax.random.key(3))
    broadcast, _ = algorithm.server.open_round(state.public, content_of(DATASET))
    programs = client_programs(algorithm, broadcast, DATASET.num_items, longest=10)
    export_client(folder, programs, broadcast, {"num_items": DATASET.num_items}, platforms=["cpu"])
    return algorithm, state, Client(folder)


def padded(width=8):
    return jnp.asarray([*sorted(HISTORY), *[DATASET.num_items] * (width - len(HISTORY))], jnp.int32)


@pytest.mark.parametrize(("host", "variant"), spread(CASES, CASES[1:2]))
def test_a_device_trains_and_scores_as_the_library_does(tmp_path, host, variant):
    algorithm, state, client = exported(tmp_path / "client", host, variant)
    private = jax.tree.map(lambda x: x[USER], state.private)
    broadcast, _ = algorithm.server.open_round(state.public, content_of(DATASET))
    keys = [
        sampling.entity_keys(sampling.stream(state.key, purpose, 5), jnp.asarray([USER]))[0]
        for purpose in (sampling.CLIENT, sampling.TRANSFORM)
    ]
    own, upload, loss = algorithm.client_round(broadcast, private, padded(), *keys, jnp.int32(5))
    found, sent, found_loss = client.update(
        flat(private), HISTORY, 5, *(np.asarray(jax.random.key_data(key)) for key in keys)
    )
    assert relative_difference(found, flat(own)) <= 1e-6
    assert relative_difference(sent, flat(upload._asdict())) <= 1e-6
    assert abs(found_loss - loss) <= 1e-6 * abs(loss)
    assert relative_difference(found, flat(private)) > 1e-6  # it did train

    alone = Bucket(jnp.asarray([USER]), padded()[None])
    expected = algorithm.score(algorithm.snapshot(state, content_of(DATASET)), alone)[0]
    scores = client.score(flat(private), HISTORY, jax.random.key_data(state.key), USER)
    assert relative_difference(scores, expected) <= 1e-6
    best = client.recommend(flat(private), HISTORY, k=30)
    assert len(best) == DATASET.num_items - len(HISTORY)
    assert not set(best) & set(HISTORY)


def test_what_does_not_fit_is_refused_by_the_device(tmp_path):
    algorithm, _, client = exported(tmp_path / "client", "fcf", "base")
    private = client.start(seed=1)
    assert private.keys() == flat(jax.eval_shape(algorithm.init_clients, jax.random.key(0), jnp.arange(1))).keys()
    with pytest.raises(ValueError, match="history: expected items 0 to 23, found 3 to 24"):
        client.score(private, [3, 24])
    with pytest.raises(ValueError, match="expected at most 16 items, found 17"):
        client.score(private, range(17))
    with pytest.raises(ValueError, match="broadcast: expected"):
        client.receive({"rows/views": np.zeros((3, 1, 4), np.float32)})
    client.save(private, tmp_path / "own.npz")
    assert relative_difference(client.load(tmp_path / "own.npz"), private) == 0


def test_a_folder_that_is_in_use_is_not_overwritten(tmp_path):
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"--out=.*client: expected a free folder"):
        exported(tmp_path / "client", "fcf", "base")
    assert [path.name for path in tmp_path.rglob("*")] == ["client", "mine.txt"]


def test_a_host_that_needs_a_prior_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"host\.name: expected a host whose clients score with the broadcast"):
        exported(tmp_path / "client", "fedprior", "base")


def test_a_bound_of_clip_that_moves_is_refused(tmp_path):
    """A device is not told the bound of a round: it would clip to the first one for ever."""
    moving = {"aggregation__transforms": "clip", "aggregation__clip_norm": 10.0, "aggregation__clip_quantile": 0.5}
    with pytest.raises(
        ConfigError,
        match=r"clip_quantile: expected 0 in an exported client .its messages carry no bound., found 0.5",
    ):
        exported(tmp_path / "client", "fcf", "base", **moving)
    assert not (tmp_path / "client").exists()


ALONE = """
import json, pathlib, sys
sys.meta_path[:] = [x for x in sys.meta_path if "fedvlr" not in getattr(x, "__module__", "")]  # an editable install
sys.path[:] = [x for x in sys.path if not (pathlib.Path(x) / "fedvlr_jax").is_dir()]
try:
    import fedvlr_jax
except ImportError:
    pass
else:
    raise SystemExit("the library is on the path")
from device import Client
client = Client(".")
private = client.start(seed=1)
private, upload, loss = client.update(private, [5, 2, 9], round_=0)
print(json.dumps({"loss": float(loss), "best": client.recommend(private, [5, 2, 9], k=3).tolist()}))
"""


@pytest.mark.slow
def test_the_command_makes_a_folder_that_runs_without_the_library(tmp_path, monkeypatch):
    from commands import arguments

    assert run_here(monkeypatch, "train", *arguments(tmp_path / "run")) == 0
    assert run_here(monkeypatch, "export", f"--workdir={tmp_path}/run", f"--out={tmp_path}/client") == 0
    environment = {"PATH": "", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=tmp_path / "client", env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(set(found["best"]) - {5, 2, 9}) == 3
    assert 0 < found["loss"] < 10
