"""One writer a folder: never two, never none, and a dead one is no obstacle."""

from __future__ import annotations

import concurrent.futures
import json
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import sweeps
from commands import ROOT, arguments, finish, results, run_here, start

from fedvlr_jax.errors import ConfigError
from fedvlr_jax.io import lock
from fedvlr_jax.io.files import write_json
from fedvlr_jax.sweep.runs import SweepStore

HOLDER = """
import pathlib, sys, time
from fedvlr_jax.io.lock import hold
with hold(*map(pathlib.Path, sys.argv[1:])):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(*folders):
    """A process that holds the folders until it is killed."""
    command = [sys.executable, "-c", HOLDER, *map(str, folders)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout.readline() == "held\n"
    return process


def note(folder, **changes):
    """A note of this process, changed."""
    write_json(folder / lock.NOTE, {**lock._this_process()._asdict(), **changes})


def refused(folder):
    """The message of the refusal."""
    with pytest.raises(ConfigError) as caught, lock.hold(folder):
        pass
    return str(caught.value)


@pytest.fixture(params=["locks", "no locks"])
def locks(request, monkeypatch):
    """A file system that has locks, and one that has none."""
    monkeypatch.setattr(lock, "PATIENCE", 0.2)
    if request.param == "no locks":
        monkeypatch.setattr(lock, "_lock", lambda descriptor: False)
    return request.param == "locks"


@pytest.mark.usefixtures("locks")
def test_the_second_is_refused_and_told_who_was_first(tmp_path):
    with lock.hold(tmp_path):
        message = refused(tmp_path)
        assert f"in use by process {os.getpid()} on {platform.node()}, since 20" in message
        assert "\n" not in message
    with lock.hold(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_of_many_at_once_one_at_a_time_gets_in(tmp_path):
    inside, most, entered, messages = 0, 0, 0, []
    guard = threading.Lock()

    def enter(_):
        nonlocal inside, most, entered
        try:
            with lock.hold(tmp_path):
                with guard:
                    inside, entered = inside + 1, entered + 1
                    most = max(most, inside)
                time.sleep(0.002)
                with guard:
                    inside -= 1
        except ConfigError as error:
            messages.append(str(error))

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        list(pool.map(enter, range(400)))
    assert most == 1
    assert entered >= 1
    assert entered + len(messages) == 400
    assert all("in use by" in message for message in messages)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_a_killed_process_is_taken_over_at_once(tmp_path):
    process = holder(tmp_path)
    assert f"process {process.pid} " in refused(tmp_path)
    process.kill()
    process.communicate()
    assert json.loads((tmp_path / lock.NOTE).read_text())["process"] == process.pid
    with lock.hold(tmp_path):
        assert json.loads((tmp_path / lock.NOTE).read_text())["process"] == os.getpid()


def test_without_locks_a_dead_process_is_known_by_its_start(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_lock", lambda descriptor: False)
    monkeypatch.setattr(lock, "PATIENCE", 0.01)
    note(tmp_path)
    assert f"process {os.getpid()} " in refused(tmp_path)
    for dead in ({"started": "1"}, {"process": 2**30}):
        note(tmp_path, **dead)
        with lock.hold(tmp_path):
            pass


@pytest.mark.usefixtures("locks")
def test_an_owner_on_another_machine_counts_as_dead_without_signs_of_life(tmp_path):
    note(tmp_path, machine="elsewhere", process=7)
    assert "process 7 on elsewhere" in refused(tmp_path)
    old = time.time() - lock.STALE - 1
    os.utime(tmp_path / lock.NOTE, (old, old))
    with lock.hold(tmp_path):
        pass


def test_an_owner_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "HEARTBEAT", 0.01)
    with lock.hold(tmp_path):
        os.utime(tmp_path / lock.NOTE, (0, 0))
        end = time.monotonic() + 5
        while not (tmp_path / lock.NOTE).stat().st_mtime and time.monotonic() < end:
            time.sleep(0.01)
        assert (tmp_path / lock.NOTE).stat().st_mtime > 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"process": 1}', "null"])
def test_a_broken_note_is_no_obstacle(tmp_path, content):
    (tmp_path / lock.NOTE).write_text(content)
    with lock.hold(tmp_path):
        pass


def test_without_locks_the_last_of_two_that_found_it_free_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_lock", lambda descriptor: False)
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: note(tmp_path, process=11))
    assert "process 11 " in refused(tmp_path)


def test_several_folders_are_held_together_or_not_at_all(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    b.mkdir()
    with lock.hold(b):
        with pytest.raises(ConfigError, match="/b is in use"), lock.hold(a, b):
            pass
        with lock.hold(a):
            pass


def test_of_several_processes_of_one_run_the_first_alone_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(lock.jax, "process_index", lambda: 1)
    monkeypatch.setattr(lock, "agreed", lambda value: 0)
    with lock.own(tmp_path):
        assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(lock, "agreed", lambda value: 1)
    with pytest.raises(ConfigError, match="refused to process 0"), lock.own(tmp_path):
        pass


# --- the commands ---------------------------------------------------------------------------------------------


def contents(folder):
    """Every file below a folder, but those of the lock."""
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (lock.LOCK, lock.NOTE)
    }


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--noresume"], ["--config.client.lr=0.7"]])
def test_train_refuses_a_workdir_in_use_and_harms_nothing(monkeypatch, capsys, tmp_path, flags):
    assert run_here(monkeypatch, "train", *arguments(tmp_path, rounds=10)) == 0
    before = contents(tmp_path)
    capsys.readouterr()
    with lock.hold(tmp_path):
        assert run_here(monkeypatch, "train", *arguments(tmp_path, rounds=10), *flags) == 2
    err = capsys.readouterr().err
    assert re.search(f"^error: .* is in use by process {os.getpid()} on ", err, re.MULTILINE)
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_evaluate_reads_a_workdir_in_use_but_does_not_write_into_it(monkeypatch, capsys, tmp_path):
    assert run_here(monkeypatch, "train", *arguments(tmp_path, rounds=10)) == 0
    with lock.hold(tmp_path):
        assert run_here(monkeypatch, "evaluate", f"--workdir={tmp_path}") == 0
        assert run_here(monkeypatch, "evaluate", f"--workdir={tmp_path}", "--recommend=3") == 2
    assert "is in use by" in capsys.readouterr().err
    assert not (tmp_path / "recommendations.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--noresume"]])
def test_a_run_of_a_sweep_that_another_process_trains_is_left_to_it(monkeypatch, capsys, tmp_path, flags):
    def sweep(*more):
        return run_here(monkeypatch, "sweep", *sweeps.flags(tmp_path / "sweep", *more, seeds=[0]))

    assert sweep() == 0
    run = tmp_path / "sweep" / "runs" / "point2-seed0"
    (run / "result.json").unlink()
    before = contents(tmp_path / "sweep")
    with lock.hold(run):
        assert sweep(*flags) == 2
        assert "point2-seed0 is in use by process" in capsys.readouterr().err
        assert contents(tmp_path / "sweep") == before
    assert sweep() == 0
    assert (run / "result.json").exists()


def test_a_run_of_a_sweep_that_was_finished_meanwhile_is_not_trained_again(monkeypatch, tmp_path):
    trained = sweeps.count_runs(monkeypatch)
    monkeypatch.setattr(SweepStore, "is_finished", lambda self, key: key[0] == 1)
    assert run_here(monkeypatch, "sweep", *sweeps.flags(tmp_path / "sweep", seeds=[0])) == 0
    assert len(trained) == 3


def test_benchmark_refuses_a_workdir_in_use(monkeypatch, capsys, tmp_path):
    with lock.hold(tmp_path):
        flags = [f"--config={ROOT}/configs/benchmark/quick.py", f"--workdir={tmp_path}"]
        assert run_here(monkeypatch, "benchmark", *flags) == 2
    assert "is in use by process" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


SETTINGS = {
    "device": {"rounds": 400, "eval__every": 10, "checkpoint__seconds": 0.05},
    "disk": {"rounds": 60, "eval__every": 5, "compute__store": "disk", "server__clients_per_round": 5},
    "noresume": {"rounds": 200, "eval__every": 10},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_of_eight_simultaneous_starts_one_trains_and_the_others_harm_nothing(tmp_path, name):
    """Twenty-four starts in all, and afterwards every workdir is that of one undisturbed run."""
    flags = [*arguments(tmp_path / "shared", **SETTINGS[name]), *(["--noresume"] if name == "noresume" else [])]
    ends = [finish(process, timeout=600) for process in [start("train", *flags) for _ in range(8)]]
    assert {code for code, _, _ in ends} <= {0, 2}, ends
    assert any(code == 0 for code, _, _ in ends)
    for code, _, err in ends:
        assert "Traceback" not in err
        assert code == 0 or re.search(r"error: .* is in use by process \d+ on ", err), err
    code, _, err = finish(start("train", *arguments(tmp_path / "alone", **SETTINGS[name])))
    assert code == 0, err
    assert results(tmp_path / "shared") == results(tmp_path / "alone")


@pytest.mark.slow
def test_a_killed_owner_is_followed_at_once_and_no_line_is_lost(tmp_path):
    flags = {"rounds": 6000, "eval__every": 50, "checkpoint__seconds": 0.05}
    for _ in range(2):
        process = start("train", *arguments(tmp_path / "killed", **flags))
        end = time.monotonic() + 120
        while not (tmp_path / "killed" / "metrics.jsonl").exists() and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.5)
        process.send_signal(signal.SIGKILL)
        finish(process)
    for name in ("killed", "alone"):
        code, _, err = finish(start("train", *arguments(tmp_path / name, **flags)), timeout=300)
        assert code == 0, err
    assert results(tmp_path / "killed") == results(tmp_path / "alone")
