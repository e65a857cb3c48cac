"""Where numbers of a run go: each of them once, whatever was killed, and never at the cost of the run."""

from __future__ import annotations

import collections
import struct
import sys

import numpy as np
import pytest
from commands import arguments, results, run_here
from tensorboardX.proto import event_pb2

from fedvlr_jax.errors import ConfigError, RunWarning
from fedvlr_jax.io import trackers
from fedvlr_jax.io.files import read_csv
from fedvlr_jax.io.trackers import Trackers, require_writers
from fedvlr_jax.settings import default_settings

WEIGHTS = {"sum": np.array([0.25, 0.75]), "mlp": np.array([0.75, 0.25])}
INSTALLED = {
    name: pytest.mark.skipif(
        __import__("importlib.util").util.find_spec(name) is None, reason=f'pip install "fedvlr_jax[{name}]"'
    )
    for name in ("wandb", "mlflow")
}


def evaluate(to: Trackers, round_: int) -> None:
    """Ten rounds and their evaluation; the numbers are a function of the round."""
    to.rounds(round_, {"loss": np.arange(round_ - 9, round_ + 1) / 8})
    to.evaluation(round_, {"HR@50": round_ / 64, "NDCG@50": None})


def killed_and_resumed(names: str, workdir) -> None:
    """Thirty rounds of which the last ten were done twice, and an end that was told twice."""
    settings = default_settings()
    with Trackers(names, workdir, settings) as to:
        to.start(0)
        for round_ in (10, 20, 30):
            evaluate(to, round_)
    with Trackers(names, workdir, settings) as to:
        to.start(20)
        evaluate(to, 30)
        to.finish(30, {"HR@50": 0.5}, WEIGHTS)
    with Trackers(names, workdir, settings) as to:
        to.finish(30, {"HR@50": 0.5}, WEIGHTS)


def begin(to: Trackers, round_: int) -> None:
    """A start and the first evaluation."""
    to.start(0)
    evaluate(to, round_)


EXPECTED = {("round/loss", r): r / 8 for r in range(1, 31)} | {("valid/HR@50", r): r / 64 for r in (10, 20, 30)}


def test_the_csv_file_has_every_number_once(tmp_path):
    killed_and_resumed("csv", tmp_path)
    lines = read_csv(tmp_path / "metrics.csv")
    found = {(line["name"], int(line["round"])): float(line["value"]) for line in lines}
    assert len(found) == len(lines)
    at_the_end = {name: value for (name, _), value in found.items() if name.startswith("test/")}
    assert at_the_end == {
        "test/HR@50": 0.5,
        **{f"test/weight/{view}/mean": 0.5 for view in WEIGHTS},
        **{f"test/weight/{view}/std": 0.25 for view in WEIGHTS},
    }
    assert {key: value for key, value in found.items() if not key[0].startswith("test/")} == EXPECTED


def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path):
    (tmp_path / "metrics.csv").write_text("round,name,value\n10,round/loss,1.5\n20,rou")
    with Trackers("csv", tmp_path, default_settings()) as to:
        to.start(20)
    assert (tmp_path / "metrics.csv").read_text() == "round,name,value\n10,round/loss,1.5\n"


def events(workdir):
    """All events of a folder, as their records lie in the files (length, two checksums, content)."""
    for path in sorted(workdir.glob("events.out.tfevents.*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            yield event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
            at += length + 16


def test_tensorboard_has_settings_test_metrics_and_histograms(tmp_path):
    with Trackers("tensorboard", tmp_path, default_settings()) as to:
        to.start(0)
        evaluate(to, 10)
        to.finish(10, {"HR@50": 0.5}, WEIGHTS)
    values = [(event.step, value) for event in events(tmp_path) for value in event.summary.value]
    scalars = {(value.tag, step): value.simple_value for step, value in values if value.HasField("simple_value")}
    expected = {key: value for key, value in EXPECTED.items() if key[1] <= 10} | {("test/HR@50", 10): 0.5}
    assert scalars == {(name.replace("@", "_"), step): value for (name, step), value in expected.items()}
    histograms = {value.tag: value.histo for _, value in values if value.HasField("histo")}
    assert {tag: (histo.min, histo.max, histo.num) for tag, histo in histograms.items()} == {
        f"weight/{view}": (0.25, 0.75, 2) for view in WEIGHTS
    }
    assert sum(value.metadata.plugin_data.plugin_name == "hparams" for _, value in values) == 3
    assert any(b"client.lr" in value.metadata.plugin_data.content for _, value in values)


@INSTALLED["mlflow"]
def test_mlflow_has_every_number_once(tmp_path):
    killed_and_resumed("mlflow", tmp_path)
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("fedvlr_jax").experiment_id])
    assert run.data.params["client.lr"] == "0.1"
    assert run.info.status == "FINISHED"
    history = {
        (name, point.step): point.value
        for name in ("round/loss", "valid/HR_at_50")
        for point in client.get_metric_history(run.info.run_id, name)
    }
    assert history == {(name.replace("@", "_at_"), r): value for (name, r), value in EXPECTED.items()}
    assert len(client.get_metric_history(run.info.run_id, "round/loss")) == 30
    assert (run.data.metrics["test/HR_at_50"], run.data.metrics["weight/sum/std"]) == (0.5, 0.25)


def wandb_records(content: bytes):
    """The records of a file of wandb, which is a log of LevelDB behind seven bytes: parts in blocks of 32 KiB."""
    at, parts = 7, b""
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


@INSTALLED["wandb"]
def test_wandb_has_every_number_once_and_sends_nothing(tmp_path):
    killed_and_resumed("wandb", tmp_path)
    from wandb.proto import wandb_internal_pb2

    found, ids = [], set()
    for path in sorted((tmp_path / "wandb").glob("offline-run-*/*.wandb")):
        for data in wandb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.WhichOneof("record_type") == "run":
                ids.add(record.run.run_id)
            items = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
            found += [(name, record.history.step.num) for name in items if name in ("round/loss", "valid/HR@50")]
    assert len(ids) == 1
    assert collections.Counter(found) == collections.Counter(dict.fromkeys(EXPECTED, 1))


class Broken:
    """A tracker whose disk is full, say."""

    def __init__(self, run):
        pass

    def log(self, round_, values):
        raise OSError("no space left")


@pytest.mark.parametrize("broken", [Broken, lambda run: 1 / 0])
def test_a_tracker_that_fails_is_left_out_and_the_others_go_on(monkeypatch, tmp_path, broken):
    monkeypatch.setitem(trackers.WRITERS, "broken", broken)
    with Trackers("broken,csv", tmp_path, default_settings()) as to:
        with pytest.warns(RunWarning, match="writers: broken failed and is left out"):
            begin(to, 10)
        evaluate(to, 20)  # without another warning
    assert len(read_csv(tmp_path / "metrics.csv")) == 22


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_refused_before_any_data_is_read(monkeypatch, capsys, tmp_path, name):
    monkeypatch.setitem(sys.modules, name, None)
    flags = arguments(tmp_path / "run", writers=f"csv,{name}", data__name="nowhere")
    assert run_here(monkeypatch, "train", *flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: writers={name} needs packages")
    assert line.endswith(f'pip install "fedvlr_jax[{name}]"')
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_refused():
    with pytest.raises(
        ConfigError, match="writers: expected one of csv, tensorboard, wandb, mlflow, found 'cvs'; did"
    ):
        require_writers("tensorboard,cvs")
    assert require_writers("") == ()


@pytest.mark.slow
def test_a_run_that_goes_on_adds_to_its_file_and_trackers_change_no_number(monkeypatch, tmp_path):
    for rounds in (20, 40):
        flags = arguments(tmp_path / "run", rounds=rounds, writers="csv")
        assert run_here(monkeypatch, "train", *flags) == 0
    lines = read_csv(tmp_path / "run" / "metrics.csv")
    names = collections.Counter((line["name"], line["round"]) for line in lines)
    assert set(names.values()) == {1}
    assert sum(name == "round/loss" for name, _ in names) == 40
    assert {r for name, r in names if name == "test/NDCG@50"} == {"20", "40"}
    assert not list((tmp_path / "run").glob("events.*"))
    assert run_here(monkeypatch, "train", *arguments(tmp_path / "other", rounds=40, writers="")) == 0
    assert results(tmp_path / "other") == results(tmp_path / "run")
