"""What a workdir holds beside checkpoints: whole files, metric lines, progress, environment, signals."""

from __future__ import annotations

import io
import json
import os
import signal

import numpy as np
import pytest

from fedvlr_jax.errors import CheckpointError, ConfigError
from fedvlr_jax.io import files
from fedvlr_jax.io.environment import ROOT, describe_environment
from fedvlr_jax.io.identity import differences, require_same_run
from fedvlr_jax.io.interrupt import Interrupt, Interrupted
from fedvlr_jax.io.progress import ProgressDisplay, ProgressEvent
from fedvlr_jax.io.trackers import Trackers
from fedvlr_jax.io.writers import MetricWriter, read_metrics


def test_json_survives_and_non_finite_numbers_become_null(tmp_path):
    path = tmp_path / "x.json"
    files.write_json(path, {"a": (1, np.float32(0.5)), "b": {"nan": float("nan"), "inf": np.inf}, "c": np.int64(3)})
    assert files.read_json(path) == {"a": [1, 0.5], "b": {"nan": None, "inf": None}, "c": 3}
    assert files.read_json(tmp_path / "none.json") is None


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    files.write_json(path, {"old": 1})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        files.write_json(path, {"new": 2})
    assert files.read_json(path) == {"old": 1}


def test_arrays_survive(tmp_path):
    files.write_arrays(tmp_path / "x.npz", {"a": np.arange(3, dtype=np.int32)})
    with np.load(tmp_path / "x.npz") as stored:
        np.testing.assert_array_equal(stored["a"], np.arange(3))
        assert stored["a"].dtype == np.int32


@pytest.mark.parametrize("blocked", ["file", "file/below"])
def test_a_workdir_that_cannot_be_written_is_refused(tmp_path, blocked):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--workdir=.*file.* cannot be written \(.+\)"):
        files.prepare_workdir(tmp_path / blocked)


def test_a_workdir_is_created_and_left_empty(tmp_path):
    workdir = files.prepare_workdir(tmp_path / "a" / "b")
    assert workdir.is_absolute()
    assert list(workdir.iterdir()) == []


def line(round_: int) -> dict:
    return {"round": round_, "loss": 0.1 * round_, "valid": {"NDCG@50": None, "HR@50": 1 / 3}}


def test_metric_lines_of_later_rounds_and_half_lines_are_dropped_on_resume(tmp_path):
    with Trackers("tensorboard", tmp_path, {}) as to, MetricWriter(tmp_path, start_round=0, trackers=to) as writer:
        for round_ in (10, 20, 30):
            writer.rounds(round_, loss=np.arange(10.0))
            writer.evaluation(line(round_))
    path = tmp_path / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"round": 40, "lo')
    with MetricWriter(tmp_path, start_round=20) as writer:
        writer.evaluation(line(30))
    assert read_metrics(path) == [line(10), line(20), line(30)]
    assert path.read_text().endswith("}\n")
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) >= 1


def test_a_fresh_run_starts_its_metrics_anew(tmp_path):
    for _ in range(2):
        with MetricWriter(tmp_path, start_round=0) as writer:
            writer.evaluation(line(10))
    assert read_metrics(tmp_path / "metrics.jsonl") == [line(10)]


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_progress_shows_round_loss_metric_speed_and_time(stream):
    with ProgressDisplay(stream) as show:
        show.note("compiling")
        show(ProgressEvent(10, 20, 5.25, {"NDCG@50": None}, 1234.0, 4000.0))
        show(ProgressEvent(20, 20, 0.5, {"NDCG@50": 0.1234}, 12345.6, 0.0))
    text = stream.getvalue()
    for part in ("round 20/20", "loss 0.5", "NDCG@50 12.34 %", "12,346 client updates/s", "0:00 left", "compiling"):
        assert part in text


def test_without_a_terminal_lines_come_every_ten_seconds_and_at_the_end(monkeypatch):
    clock = iter(np.arange(0.0, 100.0, 4.0))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    stream = io.StringIO()
    with ProgressDisplay(stream) as show:
        for round_ in range(1, 7):
            show(ProgressEvent(round_, 6, 1.0, {"NDCG@50": 0.5}, 1.0, 0.0))
    assert [text.split()[1] for text in stream.getvalue().splitlines()] == ["3/6", "6/6"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_stops(signum, capfd):
    before = signal.getsignal(signum)
    with Interrupt() as interrupt:
        assert interrupt.signum is None
        os.kill(os.getpid(), signum)
        assert interrupt.signum == signum
        with pytest.raises(Interrupted) as stop:
            os.kill(os.getpid(), signum)
        assert stop.value.signum == signum
    assert signal.getsignal(signum) is before
    assert "saving after the rounds under way" in capfd.readouterr().err


def test_the_environment_is_complete_and_hides_foreign_paths(tmp_path):
    command = [
        f"{ROOT}/experiments/train.py",
        "--config.data.dir=/secret/data",
        f"--workdir={tmp_path}",
        "--noresume",
    ]
    found = describe_environment(command, tmp_path)
    assert found["command"] == [
        "experiments/train.py",
        "--config.data.dir=.../data",
        f"--workdir={tmp_path}",
        "--noresume",
    ]
    assert found["packages"]["jax"]
    assert found["cores"] >= 1
    assert found["devices"]
    json.dumps(found)
    assert "secret" not in json.dumps(found)


def test_differences_name_fields_and_both_values():
    old = {"a": 1, "b": {"c": (1, 2), "d": 0.5}, "gone": True}
    new = {"a": 1, "b": {"c": [1, 2], "d": 0.25}, "new": "x"}
    assert differences(old, new) == [
        "b.d: checkpoint 0.5, now 0.25",
        "gone: checkpoint True, now (absent)",
        "new: checkpoint (absent), now 'x'",
    ]


def test_free_settings_are_whole_names_or_groups():
    settings = {"rounds": 10, "rounds_more": 1, "checkpoint": {"seconds": 1.0}, "eval": {"patience": 1, "every": 5}}
    stored = {"settings": settings, "data": {"V": "x"}}
    free = {**settings, "rounds": 20, "checkpoint": {"seconds": 2.0}, "eval": {"patience": 9, "every": 5}}
    require_same_run(stored, free, {"V": "x"})
    with pytest.raises(CheckpointError, match="rounds_more: checkpoint 1, now 2"):
        require_same_run(stored, {**settings, "rounds_more": 2}, {"V": "x"})
