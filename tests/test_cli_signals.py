"""The real command as a process: stopped, killed and continued to the bit."""

from __future__ import annotations

import errno
import os
import pathlib
import random
import signal
import time

import pytest
from commands import arguments, finish, results, run_here, start

LONG = {"rounds": 3000, "eval__every": 50, "checkpoint__seconds": 0.05}


def wait_for_evaluation(process, workdir: pathlib.Path, timeout: float = 120.0) -> bool:
    """Wait until the process has evaluated a round; False if it ended before."""
    path, begin = workdir / "metrics.jsonl", time.monotonic()
    size = path.stat().st_size if path.exists() else 0
    while time.monotonic() - begin < timeout:
        if process.poll() is not None:
            return False
        if path.exists() and path.stat().st_size > size:
            return True
        time.sleep(0.005)
    raise AssertionError("the process does not evaluate")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_says_how_to_go_on_and_the_run_ends_with_the_same_bits(tmp_path, number, code):
    flags = arguments(tmp_path / "a", **LONG)
    process = start("train", *flags)
    assert wait_for_evaluation(process, tmp_path / "a")
    process.send_signal(number)
    found, _, err = finish(process)
    assert found == code, err
    assert "the state is saved" in err
    assert "to go on: python " in err
    assert "Traceback" not in err
    assert not (tmp_path / "a" / "result.json").exists()
    for name in "ab":
        found, out, err = finish(start("train", *arguments(tmp_path / name, **LONG)))
        assert found == 0, err
        assert "fcf + base" in out
    assert results(tmp_path / "a") == results(tmp_path / "b")


@pytest.mark.slow
def test_a_run_killed_at_ten_random_moments_ends_with_the_same_bits(tmp_path):
    long = LONG | {"rounds": 12_000}
    found, _, err = finish(start("train", *arguments(tmp_path / "undisturbed", **long)), timeout=300)
    assert found == 0, err
    rng, kills = random.Random(0), 0
    while kills < 10:
        process = start("train", *arguments(tmp_path / "killed", **long))
        if kills % 3 == 2:
            time.sleep(rng.uniform(0.0, 4.0))  # also while it starts, restores and compiles
        else:
            assert wait_for_evaluation(process, tmp_path / "killed"), finish(process)[2]
            time.sleep(rng.uniform(0.0, 0.25))  # some five checkpoints
        assert process.poll() is None, "the run ended before it could be killed ten times"
        process.kill()
        finish(process)
        kills += 1
    found, _, err = finish(start("train", *arguments(tmp_path / "killed", **long)), timeout=300)
    assert found == 0, err
    assert results(tmp_path / "killed") == results(tmp_path / "undisturbed")


@pytest.mark.slow
def test_a_run_with_states_on_disk_killed_at_random_moments_ends_with_the_same_bits(tmp_path):
    long = LONG | {"rounds": 2000, "compute__store": "disk", "server__clients_per_round": 5}
    found, _, err = finish(start("train", *arguments(tmp_path / "undisturbed", **long)), timeout=300)
    assert found == 0, err
    rng = random.Random(1)
    for _ in range(4):
        process = start("train", *arguments(tmp_path / "killed", **long))
        assert wait_for_evaluation(process, tmp_path / "killed"), finish(process)[2]
        time.sleep(rng.uniform(0.0, 0.3))
        assert process.poll() is None, "the run ended before it could be killed four times"
        process.kill()
        finish(process)
    found, _, err = finish(start("train", *arguments(tmp_path / "killed", **long)), timeout=300)
    assert found == 0, err
    assert results(tmp_path / "killed") == results(tmp_path / "undisturbed")


@pytest.mark.slow
def test_a_store_that_cannot_be_written_ends_with_code_2_and_one_message(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("fedvlr_jax.client_store.segments._pack_header", no_room)
    flags = arguments(tmp_path, rounds=2, eval__every=2, compute__store="disk", server__clients_per_round=5)
    assert run_here(monkeypatch, "train", *flags) == 2
    (message,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "expected room for" in message
    assert "No space left on device; earlier checkpoints are intact" in message


def no_room(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
