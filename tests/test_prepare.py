"""From raw files to a canonical folder: what is written, what is refused, and the command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from fedvlr_jax.commands.prepare import describe
from fedvlr_jax.data.folder import read_folder
from fedvlr_jax.data.prepare.pipeline import prepare
from fedvlr_jax.data.prepare.settings import default_settings
from fedvlr_jax.errors import ConfigError, DataError, UserError
from tests.commands import ROOT, run_here
from tests.raw_files import (
    COLUMNS,
    ROWS,
    START,
    TITLES,
    lines,
    prepared,
    prepared_rows,
    some_features,
    table_of,
    write_table,
    write_text,
)


def test_a_folder_has_all_that_is_promised(tmp_path):
    folder = write_table(tmp_path / "raw")
    write_text(folder, "t.txt", 'itemID,title\n10,"Tea, green"\n20,Café\n30,"The ""cup"""\n40,Pot\n')
    features = some_features(3)
    np.save(folder / "v.npy", features)
    write_text(folder, "v.ids", "10\n40\n20\n")
    done = prepared(
        "csv", folder, tmp_path / "out",
        COLUMNS | {"read.titles": "t.txt", "read.image": "v.npy", "read.feature_ids": "v.ids"},
    )  # fmt: skip
    out = tmp_path / "out"
    assert {path.relative_to(out).as_posix() for path in out.rglob("*")} == {
        "inter.csv", "image_features.npy", "ids", "ids/users.csv", "ids/items.csv", "missing.npz", "prepared.json",
    }  # fmt: skip
    assert table_of(out / "inter.csv")[:5] == [
        ["userID", "itemID", "rating", "timestamp", "split_label"],
        ["0", "1", "3.5", str(START + 2), "0"],
        ["0", "2", "1.0", str(START + 5), "0"],
        ["0", "3", "5.0", str(START + 7), "1"],
        ["0", "0", "4.0", str(START + 9), "2"],
    ]
    assert table_of(out / "ids" / "users.csv") == [
        ["number", "id"],
        ["0", "1"],
        ["1", "2"],
        ["2", "3"],
        ["3", "07"],
    ]
    assert (out / "ids" / "items.csv").read_text() == (
        'number,id,title\n0,10,"Tea, green"\n1,20,Café\n2,30,"The ""cup"""\n3,40,Pot\n4,50,The title is missing.\n'
    )
    found = np.load(out / "image_features.npy")
    np.testing.assert_array_equal(found[[0, 3, 1]], features)
    np.testing.assert_allclose(found[[2, 4]], np.stack([features.mean(axis=0)] * 2), rtol=1e-6)
    with np.load(out / "missing.npz") as missing:
        assert {name: np.flatnonzero(missing[name]).tolist() for name in missing.files} == {
            "image": [2, 4],
            "title": [4],
        }
    facts = json.loads((out / "prepared.json").read_text())
    assert facts == json.loads(json.dumps(done.facts))
    assert facts["raw"].keys() == {"x.csv", "t.txt", "v.npy", "v.ids"}
    assert facts["steps"]["raw"] == {"users": 4, "items": 5, "rows": 14}
    assert facts["imputed"] == {"image": 2, "title": 1}
    assert facts["time"] == {"unit": "s", "decimals": 0}
    assert len(TITLES) == 4


@pytest.mark.parametrize("gap", ["\r", "\n", "\r\n", "\t", "\u2028", "\x85", "  "])
def test_a_title_is_written_on_one_line(tmp_path, gap):
    folder = write_text(write_table(tmp_path / "raw"), "t.txt", f'itemID,title\n10,"Tea{gap}green"\n')
    prepared("csv", folder, tmp_path / "out", COLUMNS | {"read.titles": "t.txt"})
    assert (tmp_path / "out" / "ids" / "items.csv").read_text().splitlines()[1] == "0,10,Tea green"
    assert read_folder(tmp_path / "out").item_titles[0] == "Tea green"


def test_a_second_call_changes_nothing_and_other_content_is_refused(tmp_path):
    assert prepared_rows(tmp_path).is_new
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert not prepared_rows(tmp_path).is_new
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    with pytest.raises(DataError, match="found other settings"):
        prepared_rows(tmp_path, {"duplicates": "last"})
    with pytest.raises(DataError, match="found other raw"):
        prepared_rows(tmp_path, rows=ROWS[:-1])
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}


@pytest.mark.parametrize("content", ["", "{", "[]", "[1]", "1"])
def test_a_folder_of_the_users_is_left_alone(tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "prepared.json").write_text(content)
    with pytest.raises(UserError, match="--out="):
        prepared_rows(tmp_path)
    assert (tmp_path / "out" / "prepared.json").read_text() == content


def test_nothing_is_left_of_a_call_that_fails_while_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "savez", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    folder = write_table(tmp_path / "raw")
    np.save(folder / "v.npy", some_features(60))
    with pytest.raises(DataError, match="No space left"):
        prepared("csv", folder, tmp_path / "out", COLUMNS | {"read.image": "v.npy"})
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_the_order_of_lines_has_no_part_in_what_is_written(tmp_path):
    tied = [(user, item, rating, START + (time - START) // 3) for user, item, rating, time in ROWS]
    for name, rows in (("a", tied), ("b", tied[::-1]), ("c", tied[7:] + tied[:7])):
        prepared_rows(tmp_path / name, rows=rows)
        assert (tmp_path / name / "out" / "inter.csv").read_text() == (
            tmp_path / "a" / "out" / "inter.csv"
        ).read_text()


def test_a_threshold_and_the_core_are_counted(tmp_path):
    steps = prepared_rows(tmp_path, {"min_rating": "3", "core.per_user": 3, "core.per_item": 2}).facts["steps"]
    assert [size["rows"] for size in steps.values()] == [14, 12, 12, 9, 9]
    assert "ratings of at least 3" in steps


@pytest.mark.parametrize("by", ["ratio", "global-time"])
def test_several_rows_of_a_user_may_be_held_out(tmp_path, by):
    prepared_rows(tmp_path, {"split.by": by, "split.valid": 0.2, "split.test": 0.5})
    tested = Counter(row[0] for row in table_of(tmp_path / "out" / "inter.csv")[1:] if row[4] == "2")
    assert max(tested.values()) > 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split.by": "labels"}, "split.by=labels: expected files with a column of labels, found none"),
        ({"read.time": ""}, "split.by=leave-one-out: expected files with times, found none"),
        ({"read.rating": "", "min_rating": "3"}, "min_rating=3: expected files with ratings, found none"),
        ({"min_rating": "high"}, "min_rating: expected a finite number"),
        ({"duplicates": "keep"}, "duplicates=keep: expected split.by=labels"),
        ({"split.valid": 0.5, "split.test": 0.5}, "split.valid + split.test: expected below 1"),
        ({"split.by": "user"}, "split.by: expected one of leave-one-out, global-time, ratio, labels"),
        ({"core.per_user": 9}, "expected interactions after all filters, found none"),
        ({"core.per_user": -1}, "core.per_user: expected at least 0"),
        ({"split.by": "ratio", "split.test": 0.0}, "expected test rows after the split, found none"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        prepared_rows(tmp_path, changes)
    assert not (tmp_path / "out").exists()


def test_fields_that_do_not_exist_are_refused(tmp_path):
    settings = default_settings("movielens")
    with pytest.raises(
        ConfigError, match=r"unknown field read\.title of format movielens; did you mean read\.titles\?"
    ):
        prepare(settings | {"read": {"title": "x"}}, tmp_path, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"expected the field read\.titles, found none"):
        prepare(settings | {"read": {}}, tmp_path, tmp_path / "out")


def test_features_of_other_items_are_refused(tmp_path):
    folder = write_table(tmp_path / "raw")
    np.save(folder / "v.npy", some_features(3))
    with pytest.raises(
        DataError, match="image features: expected rows for some of 5 items, such as '10', found none"
    ):
        prepared("csv", folder, tmp_path / "out", COLUMNS | {"read.image": "v.npy"})


def test_without_the_extra_the_line_that_installs_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=re.escape('pip install "fedvlr_jax[prepare]"')):
        prepared_rows(tmp_path)


@pytest.mark.slow
def test_training_and_the_tables_of_formats_load_no_pyarrow():
    code = "import sys, fedvlr_jax.training.job, fedvlr_jax.data.prepare.pipeline; sys.exit('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# The command


def run(monkeypatch, *flags):
    return run_here(monkeypatch, "prepare", *flags)


def test_the_command_shows_the_steps_and_the_paper(tmp_path, monkeypatch, capsys):
    write_text(tmp_path / "raw", "ratings.csv", lines([("userId", "movieId", "rating", "timestamp"), *ROWS]))
    flags = [f"--config={ROOT}/configs/prepare/movielens.py", f"--raw={tmp_path}/raw", f"--out={tmp_path}/ml"]
    flags += ["--config.core.per_user=3", "--config.core.per_item=2"]
    assert run(monkeypatch, *flags) == 0
    shown = capsys.readouterr()
    assert re.search(r"core of 3 a user, 2 an item +4 +5 +14\n", shown.out)
    assert re.search(r"\nusers +4 +610\n", shown.out)
    assert shown.out.endswith("ml is ready\n")
    assert run(monkeypatch, *flags) == 0
    assert "has this content already; nothing was changed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config=quickstart"], "expected a preparation"),
        (["--config=prepare/csv"], "--raw: expected a folder"),
        (["--config=prepare/csv", "--raw=x"], "--out: expected a folder"),
        (
            ["--config=prepare/csv", "--raw=nowhere", "--out=y"],
            "nowhere: expected a folder with raw files, found none",
        ),
        (["--config=prepare/csv", "--config.core.users=3"], "core.users"),
    ],
)
def test_bad_flags_are_refused_in_one_line(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *flags) == 2
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error")]
    assert message in line


def test_help_lists_the_fields_of_every_format(monkeypatch, capsys):
    assert run(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    assert "--config.split.by=leave-one-out" in shown
    assert "format ninerec: " in shown
    assert "--config.fusion" not in shown


def test_a_set_that_is_none_of_the_papers_stands_alone():
    facts = {"steps": {"raw": {"users": 1, "items": 2, "rows": 3}}, "statistics": {"users": 1}}
    assert "paper" not in describe(facts, "mine")
    assert re.search(r"users +1 +204\n", describe(facts, "ku"))
