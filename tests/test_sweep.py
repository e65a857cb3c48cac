"""A sweep as a command: what it writes, how it goes on, what it refuses, and what it chooses by."""

from __future__ import annotations

import functools
import json
import pathlib
import shutil
import signal
import time

import numpy as np
import pytest
from commands import ROOT, finish, run_here, start
from html_pages import read_page
from sweeps import FIELDS, best, count_runs, finished_runs, flags, results, rows

from fedvlr_jax.data import synthetic as generator
from fedvlr_jax.sweep import training
from fedvlr_jax.sweep.plots import scale_of


@pytest.fixture
def counted(monkeypatch):
    """(server.lr, client.lr, seed) of every run that is trained."""
    return count_runs(monkeypatch)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sweep") / "swept"
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert run_here(monkeypatch, "sweep", *flags(workdir)) == 0
    return workdir


@pytest.mark.slow
def test_the_page_is_whole_and_has_every_point(swept):
    page = read_page((swept / "report.html").read_text(), swept)
    words = "".join(page.words)
    for title in ("Points", "Curves", "Settings", "Times", "Environment", "How to go on"):
        assert title in words, title
    assert best(swept)["command"] in words
    assert {"table.csv", "best.json"} <= set(page.targets)
    points = {row.split("\t")[0] for row in page.rows}
    assert {row["point"] for row in rows(swept)} <= points


@pytest.fixture
def copied(swept, tmp_path):
    return shutil.copytree(swept, tmp_path / "copy")


@pytest.mark.slow
def test_it_writes_a_folder_a_run_the_tables_the_best_point_and_a_picture(swept):
    assert set(finished_runs(swept)) == {f"point{k}-seed{s}" for k in range(4) for s in (0, 1)}
    assert (swept / "parallel.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((swept / "environment.json").read_text())["packages"]["jax"]
    assert "validation NDCG@50" in (swept / "table.md").read_text()
    assert not list(swept.rglob("*.tmp"))


def test_the_table_ranks_points_by_mean_validation_and_shows_the_test_of_the_first_alone(swept):
    runs, table = results(swept), rows(swept)
    valid = {k: [runs[f"point{k}-seed{s}"]["best_valid"] for s in (0, 1)] for k in range(4)}
    assert [int(row["point"]) for row in table] == sorted(valid, key=lambda k: (-np.mean(valid[k]), k))
    for row in table:
        values = valid[int(row["point"])]
        assert float(row["valid NDCG@50 mean"]) == pytest.approx(np.mean(values), abs=1e-12)
        assert float(row["valid NDCG@50 std"]) == pytest.approx(np.std(values, ddof=1), abs=1e-12)
        assert (row["seeds"], row["status"], row["variant"]) == ("0 1", "done", "base")
    first, *others = table
    test = [runs[f"point{first['point']}-seed{s}"]["test"]["NDCG@50"] for s in (0, 1)]
    assert float(first["test NDCG@50 mean"]) == pytest.approx(np.mean(test), abs=1e-12)
    assert {row[name] for row in others for name in row if name.startswith("test ")} == {""}


@pytest.mark.slow
def test_the_best_point_is_trained_again_by_its_arguments(swept, monkeypatch, tmp_path):
    found = best(swept)
    command = [f"--config={ROOT}/configs/quickstart.py", *found["arguments"], f"--workdir={tmp_path}/own"]
    assert found["fields"].items() >= {"variant": "base"}.items()
    assert run_here(monkeypatch, "train", *command) == 0
    own = json.loads((tmp_path / "own" / "result.json").read_text())
    ours = results(swept)[f"point{found['point']}-seed0"]
    assert own["best_round"] == ours["best_round"]
    for split in ("valid", "test"):
        assert own[split] == pytest.approx(ours[split], abs=1e-4)


def test_finished_points_are_not_run_again(copied, monkeypatch, counted):
    before, table = finished_runs(copied), rows(copied)
    assert run_here(monkeypatch, "sweep", *flags(copied)) == 0
    assert counted == []
    assert finished_runs(copied) == before
    shutil.rmtree(copied / "runs" / "point1-seed1")
    (copied / "runs" / "point2-seed0" / "result.json").unlink()  # as a kill leaves it
    assert run_here(monkeypatch, "sweep", *flags(copied)) == 0
    assert counted == [(0.01, 0.5, 1), (0.1, 0.1, 0)]
    assert rows(copied) == table  # the same seeds give the same numbers


def test_noresume_starts_again_and_touches_nothing_else(copied, monkeypatch, counted):
    (copied / "notes.txt").write_text("mine")
    assert run_here(monkeypatch, "sweep", *flags(copied, "--noresume", fields=FIELDS | {"server.lr": [0.1]})) == 0
    assert len(counted) == len(finished_runs(copied)) == 4
    assert (copied / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_shards_in_one_workdir_give_the_table_of_the_whole(swept, monkeypatch, tmp_path, counted):
    assert run_here(monkeypatch, "sweep", *flags(tmp_path / "w", "--shard=2/3")) == 0
    half = rows(tmp_path / "w")
    assert [row["status"] for row in half] == ["done", *["not run: seed 0, 1"] * 3]
    for i in (1, 3):
        assert run_here(monkeypatch, "sweep", *flags(tmp_path / "w", f"--shard={i}/3")) == 0
    assert len(counted) == len(set(counted)) == 8
    assert rows(tmp_path / "w") == rows(swept)


def test_a_failed_seed_puts_its_point_last_with_the_reason_and_is_tried_again(copied, monkeypatch, capsys):
    winner = best(copied)["point"]
    lost = copied / "runs" / f"point{winner}-seed1"
    shutil.rmtree(lost)

    def crash(*_, **__):
        raise RuntimeError("out of luck")

    with monkeypatch.context() as broken:
        broken.setattr(training, "train_group", crash)
        assert run_here(broken, "sweep", *flags(copied)) == 0
    assert "FAILED: RuntimeError: out of luck" in capsys.readouterr().err
    last = rows(copied)[-1]
    assert int(last["point"]) == winner
    assert last["status"] == "failed: seed 1: RuntimeError: out of luck"
    assert last["valid NDCG@50 mean"] == ""
    assert best(copied)["point"] != winner
    assert best(copied)["points_failed"] == 1
    assert run_here(monkeypatch, "sweep", *flags(copied)) == 0
    assert best(copied)["point"] == winner
    assert not (lost / "failure.json").exists()


def test_test_items_choose_nothing(swept, monkeypatch, tmp_path):
    @functools.wraps(generator.generate)
    def other_test_items(**arguments):
        dataset = generator.generate(**arguments)
        rng = np.random.default_rng(5)
        for user in range(dataset.num_users):
            own = set(dataset.train_item[dataset.train_user == user]) | {int(dataset.valid_item[user])}
            dataset.test_item[user] = rng.choice(sorted(set(range(dataset.num_items)) - own))
        return dataset

    monkeypatch.setattr("fedvlr_jax.data.generate", other_test_items)
    assert run_here(monkeypatch, "sweep", *flags(tmp_path / "w")) == 0
    keep = ("rank", "point", "valid NDCG@50 mean", "valid NDCG@50 std")
    assert [[row[name] for name in keep] for row in rows(tmp_path / "w")] == [
        [row[name] for name in keep] for row in rows(swept)
    ]
    assert best(tmp_path / "w")["test"] != best(swept)["test"]  # the labels did change


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fields": FIELDS | {"client.lr": [0.1, 0.7]}}, "sweep.fields.client.lr: stored [0.1, 0.5], now [0.1, 0.7]"),
        ({"seeds": [0]}, "sweep.seeds: stored [0, 1], now [0]"),
        ({"config": {"client.l2": 0.5}}, "config.client.l2: stored 0.0, now 0.5"),
        ({"config": {"data.synthetic.num_items": 31}}, "config.data.synthetic.num_items: stored 30, now 31"),
        (
            {"fields": FIELDS | {"server.lr": [-1.0]}},
            "point 0 (server.lr=-1.0, client.lr=0.1, variant=base): server.lr",
        ),
        ({"fields": FIELDS | {"variant": ["bsae"]}}, "variant=bsae): variant: expected one of"),
        ({"fields": {"client.hodlout": [0.5]}}, "unknown field client.hodlout; did you mean client.holdout?"),
        ({"fields": {"data.features": ["fake"]}}, "data.features: expected one of real, shuffled, random"),
    ],
)
def test_what_is_wrong_or_another_sweep_is_refused_and_loses_nothing(copied, monkeypatch, capsys, changes, message):
    before = finished_runs(copied)
    assert run_here(monkeypatch, "sweep", *flags(copied, **changes)) == 2
    assert message in capsys.readouterr().err
    assert finished_runs(copied) == before


def test_a_sweep_goes_on_where_a_setting_was_added_since(copied, monkeypatch):
    for path in [copied / "sweep.json", *copied.glob("runs/*/config.json")]:
        stored = json.loads(path.read_text())
        del stored["config" if path.name == "sweep.json" else "settings"]["aggregation.trim"]
        path.write_text(json.dumps(stored))
    before = finished_runs(copied)
    assert run_here(monkeypatch, "sweep", *flags(copied)) == 0
    assert finished_runs(copied) == before


def test_the_values_that_a_sweep_replaces_need_not_make_sense(monkeypatch, tmp_path):
    config = {"client.move_items": True, "client.item_lr": 0.0, "rounds": 2}
    assert (
        run_here(monkeypatch, "sweep", *flags(tmp_path / "w", config=config, fields={"client.item_lr": [0.1]})) == 0
    )
    assert [row["status"] for row in rows(tmp_path / "w")] == ["done"]


def test_runs_on_other_data_are_refused(copied, monkeypatch, capsys):
    monkeypatch.setattr("fedvlr_jax.sweep.runs.fingerprint", lambda dataset: {"num_users": 1})
    assert run_here(monkeypatch, "sweep", *flags(copied)) == 2
    assert "data.num_users: stored 12, now 1" in capsys.readouterr().err


def test_points_on_different_rows_are_said_to_be(monkeypatch, tmp_path):
    for name, fields in (
        ("same", {"data.features": ["real", "random"]}),
        ("mixed", {"data.synthetic.seed": [0, 1, 2]}),
    ):
        (tmp_path / name).mkdir()
        assert run_here(monkeypatch, "sweep", *flags(tmp_path / name / "w", fields=fields, seeds=[0])) == 0
    said = "Points stand on 3 data sets or splits, whose held-out rows differ (point 0; point 1; point 2)"
    assert said in (tmp_path / "mixed" / "w" / "table.md").read_text()
    assert "Points stand on" not in (tmp_path / "same" / "w" / "table.md").read_text()


def test_a_best_point_at_an_end_of_the_grid_is_said(monkeypatch, tmp_path):
    fields = {"server.lr": [1e-6, 1e-5, 0.1], "seed": [0, 1, 2]}
    assert run_here(monkeypatch, "sweep", *flags(tmp_path / "w", fields=fields, seeds=[])) == 0
    assert best(tmp_path / "w")["fields"]["server.lr"] in (1e-6, 0.1)
    text = (tmp_path / "w" / "table.md").read_text()
    index, seed = (best(tmp_path / "w")[name] for name in ("point", "seeds"))
    last = results(tmp_path / "w")[f"point{index}-seed{seed[0]}"]["best_round"] == 10
    assert ("The best point was best at the last round with 1 of 1 seeds" in text) == last
    (said,) = [line for line in text.splitlines() if "at an end" in line]
    assert "server.lr" in said
    assert "seed" not in said


def test_an_axis_of_the_picture_has_numbers_by_size_and_names_evenly():
    by_size = scale_of([0.1, 0.3, 0.2])
    assert by_size.height_p == pytest.approx([0, 1, 0.5])
    assert by_size.ticks == [(0, "0.1"), (pytest.approx(0.5), "0.2"), (1, "0.3")]
    assert scale_of([0.001, 0.1, 0.01]).height_p == pytest.approx([0, 1, 0.5])  # by the logarithm
    assert scale_of(["base", "mlp", "vbpr", "mlp"]).ticks == [(0, "base"), (0.5, "mlp"), (1, "vbpr")]
    assert scale_of([3, 3]).height_p.tolist() == [0.5, 0.5]
    assert [label for _, label in scale_of(list(range(9))).ticks] == ["0", "8"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--shard=4/3"], "--shard=4/3: expected i/n with 1 <= i <= n"),
        (["--shard=1/2", "--noresume"], "would delete the points of other shards"),
        (["--vmap=maybe"], "--vmap=maybe: expected one of auto, on, off"),
        (
            ["--sweep=nowhere.py"],
            "--sweep=nowhere.py: no such file; configs/sweeps/ has base.py, modalities.py, random.py, rates.py, "
            "routers.py",
        ),
        ([f"--sweep={ROOT}/configs/ku.py"], "expected a file with get_sweep(): KeyError"),
        (["--wrkdir=x"], "unknown flag --wrkdir; did you mean --workdir?"),
    ],
)
def test_bad_flags_are_refused(tmp_path, monkeypatch, capsys, more, message):
    assert run_here(monkeypatch, "sweep", *flags(tmp_path / "w", *more)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "w").exists()


def test_a_workdir_with_other_runs_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "w" / "runs").mkdir(parents=True)
    assert run_here(monkeypatch, "sweep", *flags(tmp_path / "w", "--noresume")) == 2
    assert "holds other runs, but no sweep" in capsys.readouterr().err
    assert (tmp_path / "w" / "runs").exists()


def test_a_dry_run_says_what_shares_a_program_and_writes_nothing(tmp_path, monkeypatch, capsys):
    fields = {"server.lr": [0.1, 0.2], "variant": ["base", "mlp"]}
    assert run_here(monkeypatch, "sweep", *flags(tmp_path / "w", config={"dry_run": True}, fields=fields)) == 0
    assert "program 2 (variant=mlp): 2 points share it (server.lr): 1, 3" in capsys.readouterr().out
    assert not (tmp_path / "w").exists()


LONG = {"rounds": 400, "eval.every": 5}


def wait_for_runs(process, workdir: pathlib.Path, count: int) -> None:
    deadline = time.monotonic() + 180
    while len(finished_runs(workdir)) < count and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_stopped_or_killed_sweep_goes_on_and_repeats_nothing(tmp_path, number, code):
    process = start("sweep", *flags(tmp_path / "w", config=LONG))
    wait_for_runs(process, tmp_path / "w", 2)
    process.send_signal(number)
    found, _, err = finish(process)
    assert found == code, err
    if number != signal.SIGKILL:
        assert "the runs that are finished are kept" in err
        assert "to go on: python " in err
    before = finished_runs(tmp_path / "w")
    assert 2 <= len(before) < 8
    found, _, err = finish(start("sweep", *flags(tmp_path / "w", config=LONG)), timeout=300)
    assert found == 0, err
    after = finished_runs(tmp_path / "w")
    assert len(after) == 8
    assert {name: after[name] for name in before} == before
