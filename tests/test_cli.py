"""The commands as users meet them: every slip gets exit code 2 and one clear message, and loses nothing."""

from __future__ import annotations

import errno
import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from commands import ROOT, TINY, arguments, results, run_here

from fedvlr_jax.io.checkpoint import Checkpoints

KU = f"--config={ROOT}/configs/ku.py"
METRICS = {f"{metric}@{k}" for metric in ("HR", "NDCG") for k in (10, 20, 50)}
RESULT_FIELDS = {
    *("dataset", "host", "variant", "seed", "rounds", "best_round", "seconds_train", "seconds_eval"),
    *("seconds_compile", "client_updates_per_second", "valid", "test", "test_warm", "test_cold", "tie_rate"),
    *("constant_score_rate", "num_public", "num_private_per_client"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The workdir of a finished tiny run."""
    workdir = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert run_here(monkeypatch, "train", *arguments(workdir)) == 0
    return workdir


@pytest.mark.parametrize("name", ["config.json", "result.json"])
def test_on_a_full_disk_one_message_says_so_and_the_same_command_goes_on(
    monkeypatch, capsys, tmp_path, trained, name
):
    replace = os.replace

    def no_room(source, target):
        if pathlib.Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", no_room)
        assert run_here(patch, "train", *arguments(tmp_path)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert f"{tmp_path}/{name}: expected room to write, found: No space left on device" in line
    assert not [path for path in tmp_path.iterdir() if name in path.name]
    assert run_here(monkeypatch, "train", *arguments(tmp_path)) == 0
    assert results(tmp_path) == results(trained)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.sed=1"], "unknown field --config.sed; did you mean --config.seed?"),
        (["--config.host.nme=fcf"], "unknown field --config.host.nme; did you mean --config.host.name?"),
        (["--config.hst.name=fcf"], "unknown field --config.hst.name; did you mean --config.host.name?"),
        (["--config.lr=0.1"], "unknown field --config.lr; did you mean --config.client.lr?"),
        (["--config.seed=x"], "--config.seed=x: invalid literal for int"),
        (["--config.rounds=1.5"], "--config.rounds=1.5: invalid literal for int"),
        (["--config.client.lr=fast"], "--config.client.lr=fast: could not convert string to float"),
        (["--config.dry_run=maybe"], "--config.dry_run=maybe"),
        (["--config.seed"], "Missing value for flag --config.seed"),
        (["--config.host=3"], "Failed to parse '3' as a ConfigDict"),
        (["--wrkdir=x"], "unknown flag --wrkdir; did you mean --workdir?"),
        (["oops"], "unexpected argument 'oops'"),
        (["--config=nowhere.py"], "--config=nowhere.py: no such file; configs/ has base.py, beauty.py"),
        ([f"--config={ROOT}/setup.cfg"], "setup.cfg: SyntaxError"),
        (["--config.rounds=0"], "rounds: expected at least 1, found 0"),
        (["--config.eval.every=0"], "eval.every: expected at least 1, found 0"),
        (["--config.fusion.operators=sum,mlpp"], "'mlpp'"),
        (["--config.fusion.operators=('sum','mlpp')"], "mlpp"),
        (["--config.host.name=fedrapp"], "did you mean 'fedrap'?"),
        (["--config.variant=fedvl"], "did you mean 'fedvlr'?"),
        (["--config.objective=softmx"], "did you mean 'softmax'?"),
        (["--config.server.clients_per_round=100000"], "server.clients_per_round: expected 0 (all) to 204"),
        (["--config.data.name=nowhere", "--config.data.dir=/none"], "nowhere"),
        (["--config.data.features=fake"], "data.features: expected one of real, shuffled, random, found 'fake'"),
    ],
)
def test_a_slip_is_answered_with_one_message_and_exit_code_2(monkeypatch, capsys, tmp_path, flags, message):
    monkeypatch.chdir(tmp_path)
    assert run_here(monkeypatch, "train", *flags) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_that_fails_is_named(monkeypatch, capsys, tmp_path):
    (tmp_path / "mine.py").write_text("def get_config():\n    raise RuntimeError('no luck')\n")
    assert run_here(monkeypatch, "train", f"--config={tmp_path}/mine.py") == 2
    assert "mine.py: RuntimeError: no luck" in capsys.readouterr().err


def test_a_workdir_that_cannot_be_written_is_refused(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("kept")
    assert run_here(monkeypatch, "train", *arguments(tmp_path / "file" / "run")) == 2
    assert "cannot be written (Not a directory)" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("flags", [["--help"], [KU, "-h"]])
def test_help_explains(monkeypatch, capsys, flags):
    assert run_here(monkeypatch, "train", *flags) == 0
    out = capsys.readouterr().out
    assert "--workdir" in out
    assert "--config=configs/ku.py" in out


@pytest.mark.parametrize("names", ["sum,mlp", " sum , mlp,", "('sum','mlp')", "['sum', 'mlp']"])
def test_operators_may_be_written_as_a_comma_list_or_a_tuple(monkeypatch, capsys, names):
    flags = arguments(variant="fedvlr", dry_run=True, fusion__operators=names)
    assert run_here(monkeypatch, "train", *flags) == 0
    assert "8x4" in capsys.readouterr().out  # the router reads |G| d = 2 x 4 numbers


def test_operators_may_be_a_tuple_in_a_configuration_file(monkeypatch, capsys, tmp_path):
    lines = ["from configs import base", "def get_config():", "    config = base.get_config()"]
    lines += ["    with config.ignore_type():", "        config.fusion.operators = ('sum', 'mlp', 'gate', 'id')"]
    (tmp_path / "mine.py").write_text("\n".join([*lines, "    return config"]))
    assert run_here(monkeypatch, "train", f"--config={tmp_path}/mine.py", "--config.dry_run") == 0
    assert "256x64" in capsys.readouterr().out


def test_a_dry_run_prints_sizes_without_compiling_or_writing(monkeypatch, capsys, tmp_path):
    def never(*_, **__):
        raise AssertionError("a dry run must not compile")

    monkeypatch.setattr("jax._src.stages.Lowered.compile", never)
    monkeypatch.chdir(tmp_path)
    # The router of the paper: 12,547 numbers at |G| = 3 and d = 64, beside theta_u with 64.
    assert run_here(monkeypatch, "train", f"--config={ROOT}/configs/quickstart.py", "--config.dry_run") == 0
    out = capsys.readouterr().out
    for part in ("192x64", "12,611", "560x64", "down, each client", "up, each client", "estimated memory"):
        assert part in out
    assert list(tmp_path.iterdir()) == []


def test_a_run_writes_everything(trained):
    result = json.loads((trained / "result.json").read_text())
    assert set(result) >= RESULT_FIELDS
    for group in ("valid", "test", "test_warm"):
        assert set(result[group]) >= METRICS
        assert all(0 <= value <= 1 for value in result[group].values())
    assert (result["dataset"], result["host"], result["variant"], result["seed"]) == ("synthetic", "fcf", "base", 0)
    assert result["rounds"] == TINY["rounds"]
    assert set(result["planted_rank_correlation"]) == {"id", "visual", "text", "mean"}
    settings = json.loads((trained / "config.json").read_text())
    assert settings["data"]["synthetic"]["num_users"] == TINY["data.synthetic.num_users"]
    assert json.loads((trained / "environment.json").read_text())["packages"]["jax"]
    assert len((trained / "metrics.jsonl").read_text().splitlines()) == 4
    assert list(trained.glob("events.out.tfevents.*"))


def test_ranks_give_the_metrics_of_the_result(trained):
    result = json.loads((trained / "result.json").read_text())
    with np.load(trained / "ranks.npz") as ranks:
        for split, name in ((1, "valid"), (2, "test")):
            row = ranks["split"] == split
            assert row.sum() == TINY["data.synthetic.num_users"]
            assert (ranks["tied"][row] == 1).all()  # then the rank is exact
            rank = ranks["greater"][row] + 1
            assert result[name]["HR@10"] == pytest.approx((rank <= 10).mean())
            assert result[name]["NDCG@50"] == pytest.approx(np.where(rank <= 50, 1 / np.log2(rank + 1), 0).mean())


def test_a_finished_run_is_shown_again_without_training(monkeypatch, capsys, trained):
    before = {path: path.stat().st_mtime_ns for path in trained.iterdir() if path.is_file()}
    assert run_here(monkeypatch, "train", *arguments(trained)) == 0
    assert "fcf + base" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in trained.iterdir() if path.is_file()} == before


def test_evaluate_reproduces_the_result(monkeypatch, capsys, trained):
    before = results(trained)
    assert run_here(monkeypatch, "evaluate", f"--workdir={trained}") == 0
    assert "All metrics are equal to those of result.json." in capsys.readouterr().out
    assert results(trained) == before


def test_evaluate_reports_a_difference(monkeypatch, capsys, tmp_path, trained):
    shutil.copytree(trained, tmp_path / "copy")
    result = json.loads((tmp_path / "copy" / "result.json").read_text())
    result["test"]["HR@50"] = 0.123
    (tmp_path / "copy" / "result.json").write_text(json.dumps(result))
    assert run_here(monkeypatch, "evaluate", f"--workdir={tmp_path}/copy") == 0
    assert "test.HR@50: result.json 0.123, now" in capsys.readouterr().out


def test_evaluate_recommends_what_the_ranks_say(monkeypatch, tmp_path, trained):
    shutil.copytree(trained, tmp_path / "copy")
    assert run_here(monkeypatch, "evaluate", f"--workdir={tmp_path}/copy", "--recommend=5") == 0
    rows = np.genfromtxt(tmp_path / "copy" / "recommendations.csv", delimiter=",", names=True)
    assert len(rows) == 5 * TINY["data.synthetic.num_users"]
    shown = {(int(row["user"]), int(row["item"])): int(row["rank"]) for row in rows}
    with np.load(trained / "ranks.npz") as ranks:
        for user, item, greater in zip(ranks["user"], ranks["item"], ranks["greater"], strict=True):
            assert shown.get((user, item)) == (greater + 1 if greater < 5 else None)


@pytest.mark.parametrize(
    ("flags", "message"),
    [([], "--workdir is missing"), (["--workdir=/none"], "no config.json there"), (["--config=x"], "unknown flag")],
)
def test_evaluate_needs_the_folder_of_a_run(monkeypatch, capsys, flags, message):
    assert run_here(monkeypatch, "evaluate", *flags) == 2
    assert message in capsys.readouterr().err


def test_another_configuration_in_the_same_workdir_is_refused_and_loses_nothing(monkeypatch, capsys, trained):
    before = results(trained)
    assert run_here(monkeypatch, "train", *arguments(trained, client__lr=0.7, seed=3)) == 2
    err = capsys.readouterr().err
    assert "client.lr: checkpoint 0.1, now 0.7" in err
    assert "seed: checkpoint 0, now 3" in err
    assert results(trained) == before
    assert json.loads((trained / "config.json").read_text())["seed"] == 0


def test_a_workdir_of_an_older_version_is_refused_with_one_line(monkeypatch, capsys, tmp_path, trained):
    workdir = tmp_path / "copy"
    shutil.copytree(trained, workdir)
    for path in workdir.glob("checkpoints/*/record/metadata"):
        stored = json.loads(path.read_text())
        del stored["format"], stored["settings"]["aggregation"]
        path.write_text(json.dumps(stored))
    settings = json.loads((workdir / "config.json").read_text())
    del settings["aggregation"]
    (workdir / "config.json").write_text(json.dumps(settings))
    for name, flags in (("train", arguments(workdir)), ("evaluate", [f"--workdir={workdir}"])):
        assert run_here(monkeypatch, name, *flags) == 2
        (line,) = capsys.readouterr().err.splitlines()[-1:]
        assert "was written by an older version (format 1, expected 2) and cannot be read; choose another" in line
    assert run_here(monkeypatch, "train", *arguments(workdir), "--noresume") == 0
    assert results(workdir) == results(trained)


def test_a_run_goes_on_where_a_setting_was_added_since(monkeypatch, tmp_path, trained):
    workdir = tmp_path / "copy"
    shutil.copytree(trained, workdir)
    for path in workdir.glob("checkpoints/*/record/metadata"):
        stored = json.loads(path.read_text())
        del stored["settings"]["aggregation"]
        path.write_text(json.dumps(stored))
    assert run_here(monkeypatch, "train", *arguments(workdir)) == 0
    assert run_here(monkeypatch, "train", *arguments(workdir, aggregation__trim=0.2)) == 2


def test_noresume_starts_again_and_gives_the_same_bits(monkeypatch, tmp_path, trained):
    assert run_here(monkeypatch, "train", *arguments(tmp_path, seed=5)) == 0
    (tmp_path / "notes.txt").write_text("mine")
    other = results(tmp_path)
    assert run_here(monkeypatch, "train", *arguments(tmp_path), "--noresume") == 0
    assert results(tmp_path) == results(trained) != other
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_more_rounds_renew_the_result(monkeypatch, tmp_path):
    for rounds in (10, 20):
        assert run_here(monkeypatch, "train", *arguments(tmp_path, rounds=rounds)) == 0
        assert json.loads((tmp_path / "result.json").read_text())["rounds"] == rounds
        assert json.loads((tmp_path / "config.json").read_text())["rounds"] == rounds
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_result_that_a_kill_left_behind_is_renewed(monkeypatch, tmp_path):
    assert run_here(monkeypatch, "train", *arguments(tmp_path, rounds=10)) == 0
    with monkeypatch.context() as broken:
        broken.setattr("fedvlr_jax.training.job.write_arrays", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_here(broken, "train", *arguments(tmp_path, rounds=20))
    assert json.loads((tmp_path / "result.json").read_text())["rounds"] == 10
    assert run_here(monkeypatch, "train", *arguments(tmp_path, rounds=20)) == 0
    assert json.loads((tmp_path / "result.json").read_text())["rounds"] == 20


def test_a_run_opens_its_checkpoints_for_writing_once(monkeypatch, tmp_path):
    # Two writers would both remove what a kill left behind, and one of them would fail over files already gone.
    writers, init = [], Checkpoints.__init__

    def count(self, folder, *, read_only=False):
        writers.append(not read_only)
        init(self, folder, read_only=read_only)

    monkeypatch.setattr(Checkpoints, "__init__", count)
    assert run_here(monkeypatch, "train", *arguments(tmp_path, rounds=10)) == 0
    assert sum(writers) == 1


def test_baselines_stand_under_the_result_and_are_stored(monkeypatch, capsys, tmp_path):
    assert run_here(monkeypatch, "train", *arguments(tmp_path, baselines=True, rounds=10)) == 0
    out = capsys.readouterr().out
    for name in ("fcf + base", "popularity", "item_knn", "ease", "constant", "cold_first", "planted preferences"):
        assert name in out
    rows = json.loads((tmp_path / "baselines.json").read_text())
    assert {row["name"] for row in rows} >= {"popularity", "item_knn", "ease", "constant"}
