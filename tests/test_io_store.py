"""The store of client states: exact bits, the newest state wins, any kept manifest comes back, bounded space."""

from __future__ import annotations

import os
import pathlib
import tempfile
import threading

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from client_store import (
    LAYOUT,
    USERS,
    compact,
    content,
    initial,
    mixed,
    names,
    new_store,
    reopen,
    states,
    values,
    view_of,
)
from hypothesis import strategies as st

from fedvlr_jax.client_store.record import Layout
from fedvlr_jax.client_store.segments import read_ids, segments_of
from fedvlr_jax.client_store.store import Store
from fedvlr_jax.errors import CheckpointError

# ---- reading and writing


@pytest.mark.parametrize("folder", [None, "store"])
@pytest.mark.parametrize("max_dirty_bytes", [0, 40, 1 << 20])
def test_the_newest_state_wins_and_other_clients_start_from_init(tmp_path, folder, max_dirty_bytes):
    requested = []

    def init(ids):
        requested.append(ids.tolist())
        return jax.tree.map(jnp.asarray, initial(ids))  # arrays of a device are as good

    folder = folder and tmp_path / folder
    store = Store(folder, LAYOUT, USERS, init, max_dirty_bytes=max_dirty_bytes)
    store.scatter(np.array([7, 2], np.int32), states([70, 20]))
    store.scatter(np.array([2, 11, 0]), states([21, 110, 5]))
    assert store.gather(np.array([11, 3, 2, 7, 1]))["b"].tolist() == [110, -4, 21, 70, -2]
    assert store.gather(np.array([], np.int64))["w"].shape == (0, 3)
    assert requested == [[3, 1]]


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        ([0, USERS], "expected ids in 0..11, found 0..12"),
        ([-1, 3], "expected ids in 0..11, found -1..3"),
        ([1, 1, 2], "expected distinct ids, found 1 repeated"),
        ([0.0, 1.0], r"expected ids as an integer vector, found float64\[2\]"),
    ],
)
def test_ids_that_are_no_clients_are_refused(ids, problem):
    store = new_store(None)
    with pytest.raises(ValueError, match=problem):
        store.gather(np.array(ids))
    with pytest.raises(ValueError, match=problem):
        store.scatter(np.array(ids), states(ids))


def test_what_was_gathered_is_the_callers():
    store = new_store(None)
    store.scatter(np.arange(2), states([1, 2]))
    store.gather(np.arange(2))["b"][:] = 99
    assert values(store) == content(_0=1, _1=2)


def test_disk_grows_with_the_clients_written_only(tmp_path):
    store = new_store(tmp_path, users=10_000_000)
    assert names(tmp_path) == set()
    store.scatter(np.array([9_999_999]), states([5]))
    (segment,) = store.commit()["segments"]
    assert segment["bytes"] == (tmp_path / segment["name"]).stat().st_size == 72 + 8 + LAYOUT.record_bytes


def test_a_commit_writes_what_changed_only(tmp_path):
    store = new_store(tmp_path)
    store.scatter(np.arange(8), states(np.arange(8)))
    first = store.commit()
    assert store.commit() == first
    store.scatter(np.array([3]), states([30]))
    second = store.commit()
    assert [entry["count"] for entry in second["segments"]] == [8, 1]
    assert second["segments"][:1] == first["segments"]
    store = reopen(tmp_path, second)
    store.scatter(np.array([4]), states([40]))
    assert [entry["count"] for entry in store.commit()["segments"]] == [8, 1, 1]


def test_a_segment_holds_its_clients_in_ascending_order(tmp_path):
    store = new_store(tmp_path)
    store.scatter(np.array([7, 0, 11, 3]), states([1, 2, 3, 4]))
    (segment,) = segments_of(store.commit())
    assert read_ids(tmp_path, segment, LAYOUT, verify=True).tolist() == [0, 3, 7, 11]


def test_compaction_leaves_one_segment_of_all_clients_or_none_at_all(tmp_path):
    store = new_store(tmp_path)
    assert compact(store)["segments"] == []
    for ids in ([1, 2], [2, 3]):
        store.scatter(np.array(ids), states(ids))
        (segment,) = compact(store)["segments"]
    assert segment["count"] == 3
    assert values(store) == content(_1=1, _2=2, _3=3)


def test_a_store_in_memory_has_nothing_to_commit_to():
    for method in (Store.commit, lambda store: store.retain([])):
        with pytest.raises(ValueError, match="expected a store with a folder"):
            method(new_store(None))


def test_a_store_keeps_every_type_bit_for_bit(tmp_path):
    layout, tree, ids = Layout.of(mixed(None)), mixed(4), np.array([3, 0, 2, 1])
    store = Store(tmp_path, layout, 4, initial, max_dirty_bytes=0)
    store.scatter(ids, tree)
    found = Store.restore(tmp_path, layout, 4, initial, store.commit(), max_dirty_bytes=0).gather(ids)
    assert [x.tobytes() for x in jax.tree.leaves(found)] == [x.tobytes() for x in jax.tree.leaves(tree)]


def test_states_without_any_bytes_are_stored_too(tmp_path):
    layout = Layout.of({"x": np.zeros((0,), np.float32)})
    store = Store(tmp_path, layout, 4, initial, max_dirty_bytes=0)
    store.scatter(np.arange(3), {"x": np.zeros((3, 0), np.float32)})
    store.commit()
    compact(store)
    assert store.gather(np.array([2, 0]))["x"].shape == (2, 0)


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        ({"b": np.zeros(2, np.int32)}, "expected client states of structure .*'w'.*, found"),
        (states([1, 2, 3]), r"b: expected int32\[2\] for 2 clients, found int32\[3\]"),
        ({**states([1, 2]), "w": np.zeros((2, 3))}, r"w: expected float32\[2, 3\] .*, found float64\[2, 3\]"),
    ],
)
def test_other_states_are_refused_and_nothing_is_written(tree, problem):
    store = new_store(None)
    with pytest.raises(ValueError, match=problem):
        store.scatter(np.arange(2), tree)
    assert values(store) == content()


# ---- any order of events, against a dict

IDS = st.lists(st.integers(0, USERS - 1), unique=True, max_size=6)
EVENTS = st.one_of(
    st.tuples(st.just("scatter"), IDS),
    st.tuples(st.just("gather"), IDS),
    st.tuples(st.sampled_from(["commit", "compact", "retain"]), st.none()),
    st.tuples(st.sampled_from(["reopen", "view"]), st.integers(0, 9)),
)


@hypothesis.given(st.lists(EVENTS, max_size=30), st.integers(0, 120))
@hypothesis.settings(deadline=None, max_examples=150)
def test_any_order_of_events_agrees_with_a_dict(events, max_dirty_bytes):
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # many files; nobody pulls the plug here
        patch.setattr("fedvlr_jax.client_store.store.CHUNK_BYTES", 40)  # segments of several chunks
        folder = pathlib.Path(name)
        store, oracle = new_store(folder, max_dirty_bytes=max_dirty_bytes), {}
        kept = [(store.commit(), {})]
        for time_, (event, argument) in enumerate(events):
            if event == "scatter":
                new = [100 * time_ + user for user in argument]
                store.scatter(np.array(argument, int), states(new))
                oracle.update(zip(argument, new, strict=True))
            elif event == "gather":
                found = store.gather(np.array(argument, int))["b"].tolist()
                assert found == [oracle.get(user, -user - 1) for user in argument]
            elif event == "commit":
                kept.append((store.commit(), dict(oracle)))
            elif event == "compact":
                kept.append((compact(store), dict(oracle)))
            elif event == "retain":
                kept = kept[-2:]
                store.retain([manifest for manifest, _ in kept])
            elif event == "view":
                manifest, then = kept[argument % len(kept)]
                assert values(view_of(folder, manifest)) == content(**{f"_{u}": x for u, x in then.items()})
            else:
                manifest, then = kept[argument % len(kept)]
                options = {"max_dirty_bytes": max_dirty_bytes}
                store, oracle = Store.restore(folder, LAYOUT, USERS, initial, manifest, **options), dict(then)
        assert values(store) == content(**{f"_{user}": x for user, x in oracle.items()})


# ---- space


def test_the_disk_stays_bounded_and_the_best_readable_over_200_commits(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    users, cohort, rng = 300, 60, np.random.default_rng(0)
    store, held, best = new_store(tmp_path, users=users), -np.arange(users) - 1, None
    for commit in range(200):
        ids = rng.choice(users, cohort, replace=False)
        store.scatter(ids, states(1000 * commit + ids))
        held[ids] = 1000 * commit + ids
        manifest = store.commit()
        if commit % 50 == 0:
            best = (manifest, held.tolist())
        store.retain([manifest, best[0]])
        on_disk = sum(path.stat().st_size for path in tmp_path.iterdir())
        assert on_disk <= 4 * users * (LAYOUT.record_bytes + 8) + 4 * users
        assert values(view_of(tmp_path, best[0], users=users), users) == best[1]
    assert values(reopen(tmp_path, manifest, users=users), users) == held.tolist()


def test_many_small_segments_become_one(tmp_path, monkeypatch):
    monkeypatch.setattr("fedvlr_jax.client_store.store.MAX_SEGMENTS", 5)
    store = new_store(tmp_path)
    counts = []
    for user in range(7):
        store.scatter(np.array([user]), states([user]))
        counts.append(len(store.commit()["segments"]))
    assert counts == [1, 2, 3, 4, 5, 1, 2]


def test_an_older_manifest_is_readable_until_it_is_not_retained(tmp_path):
    store = new_store(tmp_path)
    store.scatter(np.arange(3), states([1, 2, 3]))
    old = store.commit()
    view = view_of(tmp_path, old)
    store.scatter(np.arange(3), states([4, 5, 6]))
    new = compact(store)
    assert values(store) == content(_0=4, _1=5, _2=6)
    (tmp_path / ".segment-0000000099.bin.tmp").write_bytes(b"half")  # of a run that was killed
    (tmp_path / "other.txt").write_text("not ours")
    store.retain([old, new])
    assert values(view) == values(reopen(tmp_path, old)) == content(_0=1, _1=2, _2=3)
    assert not list(tmp_path.glob(".*"))
    store.retain([new])
    assert values(reopen(tmp_path, new)) == content(_0=4, _1=5, _2=6)
    with pytest.raises(CheckpointError, match=r"expected client states in .*segment-\d+.bin, found: No such file"):
        values(view)
    assert names(tmp_path) == {"other.txt", *(entry["name"] for entry in new["segments"])}


def test_retain_keeps_what_is_not_committed_yet(tmp_path):
    store = new_store(tmp_path, max_dirty_bytes=0)
    store.scatter(np.arange(3), states([1, 2, 3]))  # spilled
    store.retain([])
    assert values(reopen(tmp_path, store.commit())) == content(_0=1, _1=2, _2=3)


# ---- threads


def test_the_next_cohort_can_be_read_while_a_commit_runs(tmp_path):
    store, stop, found = new_store(tmp_path), threading.Event(), []
    store.scatter(np.arange(USERS), states(np.arange(USERS)))

    def read():
        while not stop.is_set():
            found.append(values(store))

    thread = threading.Thread(target=read)
    thread.start()
    for _ in range(20):
        store.scatter(np.arange(6), states(np.arange(6)))
        store.retain([store.commit()])
        compact(store)
    stop.set()
    thread.join()
    assert found
    assert all(content_ == list(range(USERS)) for content_ in found)
