"""What can befall a store of client states: damage, other models, a full disk, a kill; no kept manifest is lost."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np
import pytest
from client_store import USERS, committed, compact, content, names, new_store, reopen, states, values

from fedvlr_jax.client_store import segments
from fedvlr_jax.client_store.record import Layout
from fedvlr_jax.errors import CheckpointError
from fedvlr_jax.io.files import read_json

# ---- damage and other models


@pytest.mark.parametrize(
    ("position", "problem"),
    [
        (0, "damaged: expected header [0-9a-f]+, found"),
        (40, "damaged: expected header"),
        (72 + 5, r"damaged: expected checksum \d+, found \d+"),
        (-1, r"damaged: expected checksum \d+, found \d+"),
    ],
)
def test_a_changed_byte_is_found(tmp_path, position, problem):
    manifest = committed(tmp_path)
    (path,) = tmp_path.iterdir()
    damaged = bytearray(path.read_bytes())
    damaged[position] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=rf"{path.name} is {problem}"):
        reopen(tmp_path, manifest)


def test_a_truncated_and_a_missing_file_are_named(tmp_path):
    manifest = committed(tmp_path)
    store = reopen(tmp_path, manifest)
    (path,) = tmp_path.iterdir()
    size = path.stat().st_size
    os.truncate(path, size - 1)
    with pytest.raises(CheckpointError, match=rf"{path.name} is damaged: expected bytes {size}, found {size - 1}"):
        reopen(tmp_path, manifest)
    with pytest.raises(CheckpointError, match=rf"{path.name} is damaged: expected bytes of record 11 16, found 15"):
        values(store)
    path.unlink()
    with pytest.raises(CheckpointError, match=rf"expected client states in .*{path.name}, found: No such file"):
        reopen(tmp_path, manifest)


def test_another_segment_under_the_name_is_refused(tmp_path):
    manifest = committed(tmp_path / "a")
    store = new_store(tmp_path / "b")
    store.scatter(np.arange(USERS), states(np.arange(USERS) + 1))
    store.commit()
    with pytest.raises(CheckpointError, match=r"is not the segment meant: expected checksum \d+, found \d+"):
        reopen(tmp_path / "b", manifest)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (
            {"b": np.zeros((), np.int32), "w": np.zeros(4, np.float32)},
            r"layout.w: .*'float32\[3\]', now 'float32\[4\]'",
        ),
        ({"b": np.zeros((), np.int32)}, r"layout.w: checkpoint 'float32\[3\]', now \(absent\)"),
        ({"b": np.zeros((), np.uint32), "w": np.zeros(3, np.float32)}, r"layout.b: .*'int32\[\]', now 'uint32\[\]'"),
    ],
)
def test_another_layout_is_refused_by_leaf(tmp_path, template, problem):
    manifest = committed(tmp_path)
    with pytest.raises(CheckpointError, match=problem):
        reopen(tmp_path, manifest, layout=Layout.of(template))


def test_another_order_of_leaves_or_number_of_clients_is_refused(tmp_path):
    class Swapped(NamedTuple):
        w: np.ndarray
        b: np.ndarray

    manifest, swapped = committed(tmp_path), Layout.of(Swapped(np.zeros(3, np.float32), np.zeros((), np.int32)))
    with pytest.raises(CheckpointError, match="is not the segment meant: expected digest of the layout"):
        reopen(tmp_path, manifest, layout=swapped)
    with pytest.raises(CheckpointError, match="num_users: checkpoint 12, now 13"):
        reopen(tmp_path, manifest, users=13)


# ---- failures


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def no_room(what: str):
    """A disk on which one step of writing a segment fails."""
    if what == "write":  # the real thing: the file cannot grow
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    else:
        with pytest.MonkeyPatch.context() as patch:
            target = (segments, "sync_folder") if what == "sync_folder" else (os, what)
            patch.setattr(*target, full)
            yield


@pytest.mark.parametrize("what", ["write", "fsync", "replace", "sync_folder"])
@pytest.mark.parametrize("step", ["spill", "commit", "compact"])
def test_a_full_disk_loses_nothing(tmp_path, what, step):
    # Ten records are 160 bytes: the last client of a cohort of ten is one too many for a store that may hold 150.
    store = new_store(tmp_path, max_dirty_bytes=150 if step == "spill" else 1 << 20)
    store.scatter(np.arange(4), states([1, 2, 3, 4]))
    old, before = store.commit(), names(tmp_path)
    store.scatter(np.arange(9), states(50 + np.arange(9)))
    last = (np.array([9]), states([59]))
    fail = {"spill": lambda: store.scatter(*last), "commit": store.commit, "compact": lambda: compact(store)}[step]
    if step != "spill":
        store.scatter(*last)
    if step == "compact":
        store.commit()
        before = names(tmp_path)
    written = content(**{f"_{user}": 50 + user for user in range(10)})
    with no_room(what), pytest.raises(CheckpointError, match=r"expected room for .* found: .+; earlier .* intact"):
        fail()
    assert not [name for name in names(tmp_path) if name.endswith(".tmp")]
    assert what == "sync_folder" or names(tmp_path) == before
    assert values(store) == written
    assert values(reopen(tmp_path, old)) == content(_0=1, _1=2, _2=3, _3=4)
    assert values(reopen(tmp_path, store.commit())) == written


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write to a read-only folder")
def test_a_read_only_folder_is_refused_and_loses_nothing(tmp_path):
    store = new_store(tmp_path)
    store.scatter(np.arange(2), states([1, 2]))
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match="Permission denied; earlier checkpoints are intact"):
            store.commit()
    finally:
        tmp_path.chmod(0o700)
    assert values(reopen(tmp_path, store.commit())) == content(_0=1, _1=2)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"expected a folder for client states, found: .*file"):
        new_store(tmp_path / "file" / "store")


@pytest.mark.parametrize("moment", ["before the rename", "after the rename"])
def test_a_run_that_dies_in_a_commit_goes_on_from_the_manifest_before(tmp_path, monkeypatch, moment):
    store, replace = new_store(tmp_path), os.replace
    store.scatter(np.arange(4), states([1, 2, 3, 4]))
    old = store.commit()

    def die(*paths):
        if moment == "after the rename":
            replace(*paths)
        raise KeyboardInterrupt

    store.scatter(np.arange(4), states([5, 6, 7, 8]))
    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        store.commit()
    monkeypatch.undo()
    store = reopen(tmp_path, old)
    assert values(store) == content(_0=1, _1=2, _2=3, _3=4)
    store.scatter(np.arange(2), states([9, 10]))
    new = store.commit()  # its segment does not replace the orphan, which another manifest might list
    store.retain([new])
    assert names(tmp_path) == {entry["name"] for entry in new["segments"]}
    assert values(reopen(tmp_path, new)) == content(_0=9, _1=10, _2=3, _3=4)


COMMIT_FOR_EVER = """
import itertools, pathlib, sys
import numpy as np
from client_store import USERS, new_store, reopen, states
from fedvlr_jax.io.files import read_json, write_json
folder, record = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
last = read_json(record)
store = reopen(folder, last["manifest"]) if last else new_store(folder, max_dirty_bytes=100)
for value in itertools.count(last["value"] + 1 if last else 1):
    for ids in np.array_split(np.random.default_rng(value).permutation(USERS), 3):
        store.scatter(ids, states(np.full(ids.size, value)))
    manifest = store.commit()
    write_json(record, {"value": value, "manifest": manifest})
    store.retain([manifest])
"""


@pytest.mark.slow
def test_a_run_killed_at_any_moment_can_be_reopened_at_its_last_record(tmp_path):
    folder, record = tmp_path / "store", tmp_path / "record.json"
    tests = pathlib.Path(__file__).resolve().parent
    env = {**os.environ, "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"}
    last = 0
    for delay in np.random.default_rng(0).uniform(0.0, 0.1, size=5):
        command = [sys.executable, "-c", COMMIT_FOR_EVER, folder, record]
        with subprocess.Popen(command, env=env) as process:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and ((read_json(record) or {"value": 0})["value"] <= last):
                time.sleep(0.01)
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        found = read_json(record)
        assert found["value"] > last
        assert values(reopen(folder, found["manifest"])) == [found["value"]] * USERS
        last = found["value"]
