"""What a workdir already holds: results of more rounds, of other code, and broken files."""

from __future__ import annotations

import json
import os
import shutil
import warnings

import pytest
import sweeps
from commands import ROOT, TINY, arguments, run_here
from problems import spread

from fedvlr_jax.errors import ConfigError, RunWarning
from fedvlr_jax.io import environment
from fedvlr_jax.io.files import read_json, write_json
from fedvlr_jax.training.stored import RESULT_FIELDS


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The workdir of a finished tiny run with baselines."""
    workdir = tmp_path_factory.mktemp("stale") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert run_here(monkeypatch, "train", *arguments(workdir, rounds=20, baselines=True)) == 0
    return workdir


@pytest.fixture
def copied(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "copy")


def train(monkeypatch, capsys, workdir, **overrides):
    """(exit code, lines on stderr) of a call on a workdir."""
    capsys.readouterr()
    code = run_here(monkeypatch, "train", *arguments(workdir, **({"rounds": 20, "baselines": True} | overrides)))
    return code, capsys.readouterr().err.splitlines()


def sweeps_of(workdir):
    """A sweep of two points."""
    return "sweep", sweeps.flags(workdir, fields={"server.lr": [0.01, 0.1]}, seeds=[0])


def benchmark_of(workdir):
    """A benchmark of two methods that take no training."""
    fields = {"methods": "popularity,constant", **{f"train.{k}": x for k, x in TINY.items() if k.startswith("data.")}}
    flags = [f"--config.{field}={value}" for field, value in fields.items()]
    return "benchmark", [f"--config={ROOT}/configs/benchmark/quick.py", *flags, f"--workdir={workdir}"]


@pytest.mark.slow
def test_a_finished_run_asked_for_fewer_rounds_says_so(monkeypatch, capsys, copied):
    before = (copied / "result.json").read_bytes()
    with pytest.warns(RunWarning, match="the run has 20 rounds, more than the 10 asked for"):
        assert train(monkeypatch, capsys, copied, rounds=10)[0] == 0
    assert (copied / "result.json").read_bytes() == before


@pytest.mark.slow
def test_a_finished_run_asked_for_the_same_says_nothing(monkeypatch, capsys, copied):
    assert train(monkeypatch, capsys, copied)[0] == 0  # a warning would be an error


@pytest.mark.slow
def test_going_on_under_other_code_says_so_and_keeps_both_environments(monkeypatch, capsys, copied):
    first = read_json(copied / "environment.json")
    for commit, rounds in (("a" * 40, 30), ("b" * 40, 40)):
        monkeypatch.setattr(environment, "_commit", lambda commit=commit: commit)
        with pytest.warns(RunWarning, match=f"going on under other code .*now '{commit}'.*; environment-"):
            assert train(monkeypatch, capsys, copied, rounds=rounds)[0] == 0
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*going on under other code")
        assert train(monkeypatch, capsys, copied, rounds=50)[0] == 0
    assert read_json(copied / "environment-1.json") == first
    assert read_json(copied / "environment-2.json")["commit"] == "a" * 40
    assert read_json(copied / "environment.json")["commit"] == "b" * 40
    assert not (copied / "environment-3.json").exists()
    assert run_here(monkeypatch, "train", *arguments(copied, rounds=10), "--noresume") == 0
    assert not list(copied.glob("environment-*.json"))


def test_a_table_names_the_code_of_earlier_calls(tmp_path):
    now = {"commit": "c" * 40, "python": "3.11.7", "packages": {"jax": "0.10.2"}, "x64": False, "cores": 2}
    assert environment.earlier_code(tmp_path, now) == []
    write_json(tmp_path / "environment-1.json", now | {"cores": 8})  # as now, but for the machine
    write_json(tmp_path / "environment-10.json", now | {"packages": {"jax": "0.9.0"}})
    write_json(tmp_path / "environment-2.json", now | {"commit": "a" * 40})
    second, tenth = environment.earlier_code(tmp_path, now)
    assert f"commit: then '{'a' * 40}', now '{'c' * 40}' (environment-2.json has all of it)." in second
    assert "packages.jax: then '0.9.0', now '0.10.2' (environment-10.json has all of it)." in tenth


@pytest.mark.parametrize("command", [sweeps_of, benchmark_of], ids=["sweep", "benchmark"])
def test_a_table_with_runs_of_other_code_says_so(monkeypatch, tmp_path, command):
    name, flags = command(tmp_path / "w")
    for commit in ("a" * 40, "b" * 40):
        monkeypatch.setattr(environment, "_commit", lambda commit=commit: commit)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*going on under other code", RunWarning)
            assert run_here(monkeypatch, name, *flags) == 0
    said = f"commit: then '{'a' * 40}', now '{'b' * 40}'"
    assert said in (tmp_path / "w" / "table.md").read_text()


BROKEN = ["", "{", '{"rounds": 20', "[]", "null", "3", '"x"', "{}", "\x00\xff"]


@pytest.mark.parametrize("content", spread(BROKEN, BROKEN[1:4]))
@pytest.mark.parametrize("command", ["train", "evaluate"])
@pytest.mark.parametrize("name", ["config.json", "result.json", "baselines.json", "environment.json"])
def test_a_broken_file_is_one_line_or_no_obstacle(monkeypatch, capsys, copied, name, command, content):
    (copied / name).write_bytes(content.encode("latin-1"))
    flags = arguments(copied, rounds=20, baselines=True) if command == "train" else [f"--workdir={copied}"]
    code = run_here(monkeypatch, command, *flags)
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert code in (0, 2)
    assert len(err) == (code == 2)
    if code == 2:
        assert name in err[0] or "another configuration" in err[0]
    reads = {"train": ("result.json", "baselines.json"), "evaluate": ("config.json", "result.json", "baselines.json")}
    assert code == (2 if name in reads[command] and not (name == "baselines.json" and content == "[]") else 0)


@pytest.mark.parametrize("field", RESULT_FIELDS)
def test_a_result_that_lacks_a_field_is_refused_by_name(monkeypatch, capsys, copied, field):
    result = read_json(copied / "result.json")
    for value in (None, "x", [1]):
        if field in ("dataset", "host", "variant") and value == "x":
            continue
        write_json(copied / "result.json", {**result, field: value})
        code, err = train(monkeypatch, capsys, copied)
        if value is not None or field not in ("tie_rate", "constant_score_rate"):
            assert code == 2
            assert f"a field {field} " in err[-1]


@pytest.mark.parametrize("settings", [{"data": 3}, {"seed": "x"}, {"fusion": {"dim": [1]}}, {"rounds": None}])
def test_settings_of_a_wrong_type_are_refused(monkeypatch, capsys, copied, settings):
    write_json(copied / "config.json", json.loads((copied / "config.json").read_text()) | settings)
    assert run_here(monkeypatch, "evaluate", f"--workdir={copied}") == 2
    assert "config.json: expected the settings of a run" in capsys.readouterr().err


def test_a_json_file_is_of_its_kind(tmp_path):
    (tmp_path / "x.json").write_text("[1]")
    assert read_json(tmp_path / "x.json", list) == [1]
    with pytest.raises(ConfigError, match=r"x\.json: expected a JSON object, found a list"):
        read_json(tmp_path / "x.json")
    os.truncate(tmp_path / "x.json", 0)
    with pytest.raises(ConfigError, match="found an empty file"):
        read_json(tmp_path / "x.json")
