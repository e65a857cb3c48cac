"""Raw files inside of an archive."""

from __future__ import annotations

import pathlib
import shutil

import pytest

from fedvlr_jax.errors import DataError
from tests.raw_files import prepared, write_table

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
