"""Checkpoints: exact types and bits, the latest and the best kept, everything else refused with its reason."""

from __future__ import annotations

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedvlr_jax.errors import CheckpointError
from fedvlr_jax.io import checkpoint
from fedvlr_jax.io.checkpoint import Checkpoints, delete_folder
from fedvlr_jax.training.saving import Saver
from fedvlr_jax.training.schedule import RunProgress
from fedvlr_jax.types import FedState, PrivateState, PublicState


def make_state(seed: int = 0, dtype=jnp.float32) -> FedState:
    """A state with what real ones hold: nested dicts, NamedTuples, None, empty tuples, scalars and a typed key."""
    key = jax.random.key(seed)
    params = {
        "D": jax.random.normal(key, (6, 3), dtype),
        "gamma": {"sum": (), "mlp": {"w": jnp.ones((3, 2)), "b": None}},
    }
    theta = {"theta": jax.random.normal(jax.random.fold_in(key, 1), (4, 3))}
    return FedState(
        public=PublicState(params=params, opt_state=optax.adam(0.1).init(params), round=jnp.int32(7)),
        private=PrivateState(params=theta, opt_state=jax.vmap(optax.sgd(0.1, 0.9).init)(theta)),
        key=key,
    )


def record(round_: int, best: int | None, **more) -> dict:
    return {"round": round_, "best_round": best, **more}


def steps(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_restores_types_and_bits(tmp_path):
    state = make_state(3)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(state, record(7, 7, best_value=0.1 + 0.2))
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.record()["best_value"] == 0.1 + 0.2
        restored = checkpoints.restore(7, jax.eval_shape(make_state))
    chex.assert_trees_all_equal_shapes_and_dtypes(restored, state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state), strict=True):
        is_key = jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key)
        a, b = (jax.random.key_data(x) if is_key else x for x in (a, b))
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert jax.random.key_impl(restored.key) == jax.random.key_impl(state.key)


def test_keeps_the_latest_and_the_best_also_after_reopening(tmp_path):
    kept = []
    for round_, best in [(1, 1), (2, 1), (3, 1), (4, 4), (5, 4), (6, 4)]:
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(make_state(), record(round_, best))
        kept.append(steps(tmp_path))
    assert kept == [["1"], ["1", "2"], ["1", "3"], ["4"], ["4", "5"], ["4", "6"]]


def test_saving_a_round_again_changes_nothing(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(), record(1, 1, mark="first"))
        checkpoints.save(make_state(), record(1, 1, mark="second"))
        assert checkpoints.record()["mark"] == "first"


def test_an_unfinished_save_is_ignored_and_gone_after_the_next_save(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(), record(1, 1))
    for round_ in (2, 9):  # one that comes again, one that does not
        (tmp_path / f"{round_}.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.record()["round"] == 1
        checkpoints.save(make_state(), record(2, 1))
    assert steps(tmp_path) == ["1", "2"]


def test_a_reader_neither_creates_nor_cleans_up(tmp_path):
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder, read_only=True) as checkpoints:
        assert checkpoints.record() is None
    assert not folder.exists()
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(make_state(), record(1, 1))
    (folder / "2.orbax-checkpoint-tmp").mkdir()  # another process is writing it
    with Checkpoints(folder, read_only=True) as checkpoints:
        assert checkpoints.restore(1, make_state()).key.shape == ()
    assert steps(folder) == ["1", "2.orbax-checkpoint-tmp"]


@pytest.mark.parametrize(
    ("like", "line"),
    [
        (make_state(dtype=jnp.bfloat16), r"public/params/D: checkpoint float32\[6, 3\], now bfloat16\[6, 3\]"),
        (make_state().public, r"round: checkpoint \(absent\), now int32\[\]"),
    ],
)
def test_other_arrays_are_refused_by_name(tmp_path, like, line):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(), record(1, 1))
        with pytest.raises(CheckpointError, match=line):
            checkpoints.restore(1, like)


def test_a_missing_round_and_an_empty_folder_are_named(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.record() is None
        with pytest.raises(CheckpointError, match=r"no evaluated checkpoint in .*; train first"):
            checkpoints.require_record()
        with pytest.raises(CheckpointError, match="no checkpoint of round 3"):
            checkpoints.restore(3, make_state())


@pytest.mark.parametrize("damage", ["state", "record"])
def test_a_damaged_checkpoint_is_an_error_with_a_way_out(tmp_path, damage):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(), record(1, 1))
    for path in (tmp_path / "1" / damage).rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with Checkpoints(tmp_path) as checkpoints:
        read = checkpoints.record if damage == "record" else lambda: checkpoints.restore(1, make_state())
        with pytest.raises(CheckpointError, match=r"cannot be read.*--noresume"):
            read()


@pytest.mark.parametrize(("written", "version"), [(None, "an older"), (checkpoint.FORMAT + 1, "a newer")])
def test_a_checkpoint_of_another_version_is_refused_with_one_line(tmp_path, monkeypatch, written, version):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(), record(1, 1))
    stored = tmp_path / "1" / "record" / "metadata"
    fields = {name: value for name, value in json.loads(stored.read_text()).items() if name != "format"}
    stored.write_text(json.dumps(fields if written is None else fields | {"format": written}))
    with Checkpoints(tmp_path) as checkpoints:
        for read in (checkpoints.record, checkpoints.require_record, lambda: checkpoints.restore(1, make_state())):
            with pytest.raises(
                CheckpointError, match=rf"^[^\n]* written by {version} version [^\n]*--noresume[^\n]*$"
            ):
                read()


def test_deletion_leaves_nothing(tmp_path):
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(make_state(), record(1, 1))
    delete_folder(folder)
    delete_folder(folder)
    assert steps(tmp_path) == []


class Log:
    """Stands for `Checkpoints`; remembers the saved rounds and a value of their states."""

    def __init__(self):
        self.saved = []

    def save(self, state, record):
        self.saved.append((record["round"], float(state["x"][0])))


def offer(saver: Saver, round_: int, best: int) -> None:
    state = {"x": jnp.full(3, float(round_))}
    saver.offer(state, RunProgress(round=round_, best_round=best))
    state["x"].delete()  # as donation does


def test_the_first_evaluation_is_saved_at_once_and_a_best_state_waits_for_the_next_save():
    log = Log()
    saver = Saver(log, seconds=1e9, identity={})
    for round_, best in [(1, 1), (2, 2), (3, 3), (4, 3), (5, 3)]:
        offer(saver, round_, best)
    assert log.saved == [(1, 1.0)]
    saver.save({"x": jnp.full(3, 6.0)}, RunProgress(round=6, best_round=3))
    assert log.saved == [(1, 1.0), (3, 3.0), (6, 6.0)]


def test_without_a_least_time_every_evaluation_is_saved(monkeypatch):
    monkeypatch.setattr("fedvlr_jax.training.saving.MAX_SHARE", float("inf"))
    log = Log()
    saver = Saver(log, seconds=0.0, identity={})
    for round_, best in [(1, 1), (2, 1), (3, 3)]:
        offer(saver, round_, best)
    assert [round_ for round_, _ in log.saved] == [1, 2, 3]


def test_a_best_state_too_large_to_copy_is_saved_at_once(monkeypatch):
    monkeypatch.setattr("fedvlr_jax.training.saving.COPY_BYTES", 4)
    log = Log()
    saver = Saver(log, seconds=1e9, identity={})
    for round_, best in [(1, 1), (2, 1), (3, 3)]:
        offer(saver, round_, best)
    assert [round_ for round_, _ in log.saved] == [1, 3]


def test_the_record_holds_tally_identity_and_array_types(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        saver = Saver(checkpoints, seconds=0.0, identity={"settings": {"seed": 1}, "data": {"V": None}})
        saver.save({"x": jnp.ones(3)}, RunProgress(round=2, best_round=1, best_value=None))
        found = checkpoints.record()
    assert found["settings"] == {"seed": 1}
    assert found["arrays"] == {"x": "float32[3]"}
    assert (found["round"], found["best_round"], found["best_value"]) == (2, 1, None)
    json.dumps(found, allow_nan=False)


def test_a_record_is_amended_and_the_state_is_not(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(make_state(3), record(7, None))
        checkpoints.amend(record(7, 7, best_value=0.5))
        with pytest.raises(CheckpointError, match="there is no checkpoint of round 8"):
            checkpoints.amend(record(8, 8))
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.require_record()["best_value"] == 0.5
        chex.assert_trees_all_equal(checkpoints.restore(7, jax.eval_shape(make_state)), make_state(3))
        checkpoints.save(make_state(4), record(8, 7))
    assert steps(tmp_path / "c") == ["7", "8"]
