"""From raw files to a canonical folder: the whole way, the command, and the real sets."""

from __future__ import annotations

import datetime
import filecmp
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from fedvlr_jax.commands.prepare import describe
from fedvlr_jax.data.folder import read_folder
from fedvlr_jax.data.formats import read_raw
from fedvlr_jax.data.messages import DataWarning
from fedvlr_jax.data.prepare.pipeline import prepare
from fedvlr_jax.data.prepare.settings import default_settings
from fedvlr_jax.errors import ConfigError, DataError, UserError
from fedvlr_jax.fields import with_fields
from tests.commands import ROOT, run_here
from tests.raw_files import ROWS, START, TITLES, lines, prepared, some_features, table_of, write_text

KEPT = {"duplicates": "keep", "split.by": "labels"}
COLUMNS = {"read.rating": "rating", "read.time": "timestamp", "read.label": "split_label"}


def write_table(folder, rows=ROWS, header=("userID", "itemID", "rating", "timestamp")):
    return write_text(folder, "x.csv", lines([header, *rows]))


def table(tmp_path, changes=None, rows=ROWS, **more):
    """A prepared csv of some rows."""
    folder = write_table(tmp_path / "raw", rows)
    return prepared(
        "csv", folder, tmp_path / "out", {"read.rating": "rating", "read.time": "timestamp"} | (changes or {}) | more
    )


def test_a_folder_has_all_that_is_promised(tmp_path):
    folder = write_table(tmp_path / "raw")
    write_text(folder, "t.txt", 'itemID,title\n10,"Tea, green"\n20,Café\n30,"The ""cup"""\n40,Pot\n')
    features = some_features(3)
    np.save(folder / "v.npy", features)
    write_text(folder, "v.ids", "10\n40\n20\n")
    done = prepared(
        "csv", folder, tmp_path / "out",
        COLUMNS | {"read.label": "", "read.titles": "t.txt", "read.image": "v.npy", "read.feature_ids": "v.ids"},
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
    prepared("csv", folder, tmp_path / "out", COLUMNS | {"read.label": "", "read.titles": "t.txt"})
    assert (tmp_path / "out" / "ids" / "items.csv").read_text().splitlines()[1] == "0,10,Tea green"
    assert read_folder(tmp_path / "out").item_titles[0] == "Tea green"


def test_a_second_call_changes_nothing_and_other_content_is_refused(tmp_path):
    assert table(tmp_path).is_new
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert not table(tmp_path).is_new
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    with pytest.raises(DataError, match="found other settings"):
        table(tmp_path, {"duplicates": "last"})
    with pytest.raises(DataError, match="found other raw"):
        table(tmp_path, rows=ROWS[:-1])
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}


@pytest.mark.parametrize("content", ["", "{", "[]", "[1]", "1"])
def test_a_folder_of_the_users_is_left_alone(tmp_path, content):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "prepared.json").write_text(content)
    with pytest.raises(UserError, match="--out="):
        table(tmp_path)
    assert (tmp_path / "out" / "prepared.json").read_text() == content


def test_nothing_is_left_of_a_call_that_fails_while_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "savez", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    folder = write_table(tmp_path / "raw")
    np.save(folder / "v.npy", some_features(60))
    with pytest.raises(DataError, match="No space left"):
        prepared("csv", folder, tmp_path / "out", COLUMNS | {"read.label": "", "read.image": "v.npy"})
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_the_order_of_lines_has_no_part_in_what_is_written(tmp_path):
    tied = [(user, item, rating, START + (time - START) // 3) for user, item, rating, time in ROWS]
    for name, rows in (("a", tied), ("b", tied[::-1]), ("c", tied[7:] + tied[:7])):
        table(tmp_path / name, rows=rows)
        assert (tmp_path / name / "out" / "inter.csv").read_text() == (
            tmp_path / "a" / "out" / "inter.csv"
        ).read_text()


def warned(tmp_path, rows=ROWS, changes=None):
    """The warnings of a preparation."""
    folder = write_table(tmp_path / "raw", rows)
    fields = COLUMNS | {"read.label": "", "core.per_user": 0, "core.per_item": 0} | (changes or {})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prepare(with_fields(default_settings("csv"), fields), folder, tmp_path / "out")
    assert all(issubclass(warning.category, DataWarning) for warning in caught)
    return [str(warning.message) for warning in caught]


def test_good_rows_warn_about_nothing(tmp_path):
    assert warned(tmp_path) == []


def test_what_may_be_a_slip_is_counted(tmp_path):
    rows = [("1", "60", "0", START + 9), ("1", "70", "-1", -5), ("2", "60", "1", 0), *ROWS]
    ratings, times, ties = warned(tmp_path, rows)
    assert ratings.startswith("2 rows have a rating of zero or below")
    assert times.startswith("2 rows have a time of zero or below")
    assert ties == (
        "equal times decide what is held out of 1 of 4 users: at equal times the row with the larger original item "
        "id is the later one"
    )


def test_mixed_units_are_refused_unless_one_is_named(tmp_path):
    rows = [*ROWS, ("3", "60", "1.0", 1000 * START)]
    with pytest.raises(DataError, match=rf"x\.csv, line 16: .*s by line 2.*found {1000 * START}, a time in ms"):
        table(tmp_path, rows=rows)
    assert table(tmp_path, {"time.unit": "s"}, rows).is_new
    with pytest.raises(DataError, match=rf"s by line 2, {START + 9}\.0.*found {1000 * START}\.5, a time in ms"):
        table(tmp_path / "decimals", rows=[*ROWS, ("3", "60", "1.0", f"{1000 * START}.5")])


@pytest.mark.parametrize(
    ("factor", "unit"), [(1, "s"), (1000, "ms"), (10**6, "us"), (10**9, "ns")],
)  # fmt: skip
def test_the_unit_is_found_and_neighbouring_times_stay_apart(tmp_path, factor, unit):
    rows = [(user, item, rating, START * factor + time - START) for user, item, rating, time in ROWS]
    assert table(tmp_path, rows=rows).facts["time"]["unit"] == unit
    assert [row[4] for row in table_of(tmp_path / "out" / "inter.csv")[1:5]] == ["0", "0", "1", "2"]


@pytest.mark.parametrize(
    ("shift", "digits", "written"),
    [
        (0, "05", "1500000002.05"),
        (0, "50", "1500000002.5"),
        (0, "1234567", "1500000002.1234567"),
        (0, "123456789", "1500000002.123456789"),  # more digits than float64 has
        (-START - 7, "25", "-5.25"),
        (0, "00", "1500000002"),
    ],
)
def test_times_with_decimals_are_written_as_they_are_read_again(tmp_path, shift, digits, written):
    rows = [(user, item, rating, f"{time + shift}.{digits}") for user, item, rating, time in ROWS]
    done = table(tmp_path, rows=rows)
    texts = [row[3] for row in table_of(tmp_path / "out" / "inter.csv")[1:]]
    assert texts[0] == written
    assert sorted(map(Fraction, texts)) == sorted(Fraction(row[3]) for row in rows)
    dataset = read_folder(tmp_path / "out")
    assert dataset.time_span == (min(map(float, texts)), max(map(float, texts)))
    plain = table(tmp_path / "plain")
    assert dataset.test_item.tolist() == read_folder(tmp_path / "plain" / "out").test_item.tolist()
    assert done.facts["time"]["unit"] == (plain.facts["time"]["unit"] if not shift else "count")


def test_dates_have_one_unit_whenever_they_are(tmp_path):
    dates = ["1969-12-31", "1972-05-01", "1999-01-01", "2514-01-01"]
    rows = [(f"u{u}", f"i{k}", 1, date) for u in range(3) for k, date in enumerate(dates)]
    assert table(tmp_path, rows=rows).facts["time"]["unit"] == "s"
    assert table_of(tmp_path / "out" / "inter.csv")[1][3] == "-86400"
    assert read_folder(tmp_path / "out").time_span[0] == -86400


def test_dates_are_written_in_seconds(tmp_path):
    start = datetime.datetime(2014, 7, 23, 9, 30)
    rows = [(*row[:3], f"{start + datetime.timedelta(seconds=row[3] - START)}") for row in ROWS]
    table(tmp_path, rows=rows)
    times = [int(row[3]) for row in table_of(tmp_path / "out" / "inter.csv")[1:]]
    assert min(times) == start.replace(tzinfo=datetime.UTC).timestamp() + 1


def test_places_in_sequences_split_each_user_and_not_all_at_one_time(tmp_path):
    folder = write_text(tmp_path / "raw", "m_pairs.tsv", "a\t1 2 3 4\nb\t2 3 1\nc\t4 3 2 1\n")
    with pytest.raises(
        ConfigError, match=r"split\.by=global-time: .* across users, found the places .* m_pairs\.tsv"
    ):
        prepared("microlens", folder, tmp_path / "out", {"split.by": "global-time"})
    assert prepared("microlens", folder, tmp_path / "out", {"split.by": "ratio"}).facts["time"]["unit"] == "count"


def test_a_threshold_and_the_core_are_counted(tmp_path):
    steps = table(tmp_path, {"min_rating": "3", "core.per_user": 3, "core.per_item": 2}).facts["steps"]
    assert [size["rows"] for size in steps.values()] == [14, 12, 12, 9, 9]
    assert "ratings of at least 3" in steps


def test_small_numbers_are_a_count_such_as_days(tmp_path):
    rows = [(user, item, rating, 16_000 + time - START) for user, item, rating, time in ROWS]
    assert table(tmp_path, rows=rows).facts["time"]["unit"] == "count"


@pytest.mark.parametrize("by", ["ratio", "global-time"])
def test_several_rows_of_a_user_may_be_held_out(tmp_path, by):
    table(tmp_path, {"split.by": by, "split.valid": 0.2, "split.test": 0.5})
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
        table(tmp_path, changes)
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
        prepared("csv", folder, tmp_path / "out", COLUMNS | {"read.label": "", "read.image": "v.npy"})


def test_without_the_extra_the_line_that_installs_it_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=re.escape('pip install "fedvlr_jax[prepare]"')):
        table(tmp_path)


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


TIMED = {"read.time": "timestamp"}


@pytest.mark.parametrize("ending", ["zip", "gztar"])
def test_an_archive_gives_what_its_folder_gives(tmp_path, ending):
    inside = write_table(tmp_path / "raw" / "download-1")
    archive = pathlib.Path(shutil.make_archive(str(tmp_path / "download"), ending, tmp_path / "raw"))
    before = archive.read_bytes()
    prepared("csv", inside, tmp_path / "from_folder", TIMED)
    prepared("csv", archive, tmp_path / "from_archive", TIMED)
    for file in ("inter.csv", "ids/items.csv", "prepared.json"):
        assert (tmp_path / "from_archive" / file).read_bytes() == (tmp_path / "from_folder" / file).read_bytes()
    assert archive.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["raw", archive.name, "from_folder", "from_archive"]
    )


def test_a_damaged_archive_is_refused_and_leaves_nothing(tmp_path):
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(DataError, match=r"x\.zip: expected an archive that can be unpacked"):
        prepared("csv", tmp_path / "x.zip", tmp_path / "out", TIMED)
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


@pytest.mark.parametrize(("at", "value", "found"), [((6, 8), 1, "encrypted"), ((8, 10), 9, "compression")])
def test_an_archive_that_python_cannot_unpack_is_refused_in_one_line(tmp_path, at, value, found):
    file = pathlib.Path(shutil.make_archive(str(tmp_path / "x"), "zip", write_table(tmp_path / "raw")))
    content = bytearray(file.read_bytes())
    content[at[0]] = content[content.index(b"PK\x01\x02") + at[1]] = value  # of the file's entry, and of the list
    file.write_bytes(content)
    with pytest.raises(DataError, match=rf"x\.zip: expected an archive that can be unpacked, found .*{found}"):
        prepared("csv", file, tmp_path / "out", TIMED)


def test_an_archive_in_the_folder_is_pointed_at(tmp_path):
    shutil.make_archive(str(tmp_path / "raw" / "x"), "zip", write_table(tmp_path / "table"))
    with pytest.raises(DataError, match=f"give an archive itself, --raw={tmp_path}/raw/x.zip"):
        prepared("csv", tmp_path / "raw", tmp_path / "out", TIMED)


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


# Real data


def real(name: str) -> pathlib.Path:
    folder = pathlib.Path(os.environ.get("FEDVLR_DATA", "data")).parent / "raw" / name
    if not folder.is_dir():
        pytest.skip(f"needs the raw {name} files beside the folder FEDVLR_DATA, in raw/{name}")
    return folder


def counts(done):
    return tuple(done.facts["statistics"][name] for name in ("users", "items", "ratings"))


def prepare_real(format_, folder, out, changes=None):
    settings = with_fields(default_settings(format_), changes or {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        return prepare(settings, folder, out)


def test_movielens_latest_small_is_that_of_the_paper(tmp_path, ml_folder):
    done = prepare_real("movielens", real("ml-latest-small"), tmp_path / "ML")
    assert counts(done) == (610, 3650, 90274)
    assert done.facts["ties"]["users"] == 137
    assert filecmp.cmp(tmp_path / "ML" / "inter.csv", ml_folder / "inter.csv", shallow=False)


def test_movielens_100k_from_recbole_files(tmp_path):
    done = prepare_real("recbole", real("ml-100k"), tmp_path / "ML100K")
    assert counts(done) == (943, 1349, 99287)
    assert table_of(tmp_path / "ML100K" / "ids" / "items.csv")[1] == ["0", "1", "Toy Story"]


def test_ku_as_a_raw_table_comes_back_to_the_bit(tmp_path, ku_folder):
    features = {"read.image": "image_features.npy", "read.text": "text_features.npy"}
    settings = KEPT | COLUMNS | features | {"core.per_user": 0, "core.per_item": 0, "order": "file"}
    prepare_real("csv", ku_folder, tmp_path / "KU", settings)
    for name in ("inter.csv", "image_features.npy", "text_features.npy"):
        assert filecmp.cmp(tmp_path / "KU" / name, ku_folder / name, shallow=False), name


def test_reading_does_not_depend_on_pieces_of_the_file():
    raw = read_raw("movielens", real("ml-latest-small"), {"titles": ""})
    assert len(raw.user.names) == 610
    assert raw.titles["1"] == "Toy Story (1995)"
