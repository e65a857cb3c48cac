"""The faults that raw files have: each is refused with its place, or changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from fedvlr_jax.data.formats.files import COMPRESSED
from tests.commands import ROOT
from tests.raw_files import HEADER, ROWS, lines, movielens, read, refused, rows_of, some_features, write_text


def test_two_kinds_of_files_are_refused(tmp_path):
    write_text(movielens(tmp_path), "u.data", lines(ROWS, "\t"))
    refused("movielens", tmp_path, "one file", "ratings.csv, u.data")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("userId,movieId,rating\n1,2,3\n", ("line 1", "a column 'timestamp'", "userId, movieId, rating")),
        ("userId,movieId,rating,timestamp,rating\n1,2,3,4,5\n", ("line 1", "every column once", "'rating' 2 times")),
        ("@\n1,2,3,4\n1,2,3\n", ("line 3", "4 fields", "found 3")),
        ("@\n\n1,2,3,4\n\n1,2,3,4,5\n", ("line 5", "4 fields", "found 5")),
        ("@\n1,,3,4\n", ("line 2", "field movieId", "an id", "''")),
        ("@\n1,2,3,4\n1, 2,3,4\n", ("line 3", "field movieId", "without spaces", "' 2'")),
        ('@\n1,2,3,4\n1,"2\n3",4,5\n', ("field movieId", "on one line", "'2\\n3'")),
        ("@\n1,2,1_0,4\n", ("line 2", "field rating", "'1_0'")),
        ("@\n1,2,3,1_0\n", ("line 2", "field timestamp", "'1_0'")),
        ("@\n1,2,good,4\n", ("line 2", "field rating", "a finite number", "'good'")),
        ("@\n1,2,3,4\n1,3,nan,4\n", ("line 3", "field rating", "'nan'")),
        ("@\n1,2,3,4\n1,3,3,2014-07-23\n", ("line 3", "field timestamp", "'2014-07-23'")),
        ("@\n1,2,3,2014-07-23\n1,3,3,4\n", ("line 3", "field timestamp", "date without a time zone", "'4'")),
        ("@\n1,2,3,2014-07-23\n1,3,3,2014-07-23T00Z\n", ("line 3", "without a time zone", "00Z'")),
        ("@\n1,2,3,2014-07-23 00:00:00.1234567\n", ("line 2", "field timestamp", "1234567'")),
        ("@\n1,2,3,23.07.2014\n", ("line 2", "field timestamp", "'23.07.2014'")),
        ("@\n1,2,3,\n", ("line 2", "field timestamp", "a finite number", "''")),
        ("@\n1,2,3,inf\n", ("line 2", "field timestamp", "'inf'")),
        ("@\n1,2,3,99999999999999999999\n", ("line 2", "field timestamp", "64 bits")),
        ('@\n1,2,3,4\n"1,2,3,4\n', ("line 3", "separated by ','")),
        ("@\n", ("at least one interaction", "none")),
        ("", ("a header line", "an empty file")),
    ],
)  # fmt: skip
def test_a_fault_of_a_table_is_named_with_its_place(tmp_path, text, parts):
    refused(
        "movielens", write_text(tmp_path, "ratings.csv", text.replace("@", ",".join(HEADER))), "ratings.csv", *parts
    )


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ('{"user_id": "a"', ("line 2", "a JSON object")),
        ("[1]", ("line 2", "a JSON object", "[1]")),
        ('{"user_id": "a", "parent_asin": "b", "rating": 1}', ("line 2", "field timestamp", "whole number", "none")),
        ('{"user_id": 7, "parent_asin": "b", #"timestamp": 1}', ("line 2", "field user_id", "an id", "7")),
        ('{"user_id": "", "parent_asin": "b", #"timestamp": 1}', ("line 2", "field user_id", "an id", "''")),
        ('{"user_id": "a", "parent_asin": "b", "rating": null, "timestamp": 1}', ("line 2", "field rating", "None")),
        ('{"user_id": "a", "parent_asin": "b", #"timestamp": 1.5}', ("line 2", "field timestamp", "1.5")),
    ],
)  # fmt: skip
def test_a_fault_of_json_lines_is_named_with_its_place(tmp_path, line, parts):
    good = '{"user_id": "a", "parent_asin": "b", "rating": 1, "timestamp": 1}\n'
    text = good + line.replace("#", '"rating": 1, ') + "\n" + good
    refused("amazon2023", write_text(tmp_path, "x.jsonl", text), "x.jsonl", *parts)


REVIEWS = "userID,itemID,t,review\n"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('1,1,1,"great\n1,2,2,ok\n1,3,3,bad" indeed\n1,4,4,x\n', "line 2"),  # not closed where it was opened
        ('1,1,1,ok\n1,2,2,"great\n1,3,3,"bad"\n1,4,4,x\n', "line 3"),
        ('1,1,1,"a \\"b\\" c"\n1,2,2,ok\n', "line 2"),  # another way to write a quote
    ],
)
def test_a_stray_quote_is_refused_with_its_line(tmp_path, text, line):
    write_text(tmp_path, "x.csv", REVIEWS + text)
    refused("csv", tmp_path, "x.csv", line, "separated by ','", "--config.read.quoted=no", time="t")
    assert len(rows_of(read("csv", tmp_path, time="t", quoted="no"))) == text.count("\n")


def test_a_quote_inside_of_a_field_is_text(tmp_path):
    write_text(tmp_path, "x.csv", REVIEWS + '1,2"a,1,a 5" pipe\n1,"3""b",2,"6"" tool"\n')
    assert [row[1] for row in rows_of(read("csv", tmp_path, time="t"))] == ['2"a', '3"b']


@pytest.mark.parametrize("time", [5, 5.5])
@pytest.mark.parametrize("end", ["", ".gz"])
def test_reviews_of_several_lines_are_read_in_files_of_any_size(tmp_path, time, end):
    rows = [(f"u{k % 7}", f"i{k % 11}", k + time) for k in range(900)]
    bodies = ["\n".join(["a1,b2,15,d"] * (k % 13 * 250)) for k in range(900)]  # lines that look like rows
    text = REVIEWS + "".join(f'{u},{i},{t},"{body}"\n' for (u, i, t), body in zip(rows, bodies, strict=True))
    assert len(text) > 1 << 23
    raw = read("csv", write_text(tmp_path, f"x.csv{end}", text), time="t")
    assert [row[:2] for row in rows_of(raw)] == [row[:2] for row in rows]
    assert (raw.times.value / 10**raw.times.decimals).tolist() == [row[2] for row in rows]
    several = sum("\n" in body for body in bodies)
    assert raw.notes[0].startswith(
        f"x.csv{end}: {several} rows go on over several lines in quotes, the first from line 3"
    )


def test_a_table_in_quotes_is_what_it_is_without(tmp_path):
    folder = movielens(tmp_path / "a", [[f'"{field}"' for field in row] for row in ROWS])
    raw, plain = read("movielens", folder), read("movielens", movielens(tmp_path / "b"))
    assert rows_of(raw) == rows_of(plain) == ROWS
    assert raw.notes == ()
    assert raw.times.decimals == 0


@pytest.mark.parametrize("roles", [("user", "item"), ("rating", "time"), ("item", "rating", "label")])
def test_a_column_in_two_roles_is_refused(tmp_path, roles):
    write_text(tmp_path, "x.csv", "userID,itemID,t\na,b,1\n")
    one = dict.fromkeys(roles, "t")
    refused("csv", tmp_path, "x.csv", f"a column of its own for {' and '.join(roles)}", "'t' for all", **one)


def test_latin_1_is_no_utf_8(tmp_path):
    write_text(tmp_path, "x.csv", "userID,itemID\na,b\né,b\n", "latin-1")
    refused("csv", tmp_path, "x.csv", "utf-8 text", "--config.read.encoding")
    assert [row[0] for row in rows_of(read("csv", tmp_path, encoding="latin-1"))] == ["a", "é"]
    refused("csv", tmp_path, "an encoding such as", encoding="latin-one")


@pytest.mark.parametrize("text", ["\ufeff{}", "{}\n\n\n", "\n{}"])
def test_byte_order_marks_and_blank_lines_change_nothing(tmp_path, text):
    write_text(tmp_path, "x.csv", text.format("userID,itemID\na,b\n\nc,d\n"))
    assert [row[:2] for row in rows_of(read("csv", tmp_path))] == [("a", "b"), ("c", "d")]


def test_a_byte_order_mark_is_no_part_of_an_id(tmp_path):
    write_text(tmp_path, "x.csv", "\ufeffa,b\nc,d\n")
    assert [row[:2] for row in rows_of(read("csv", tmp_path, names="userID,itemID"))] == [("a", "b"), ("c", "d")]
    write_text(tmp_path, "x.csv", "\ufeffuserID::itemID\na::b\n")
    assert [row[:2] for row in rows_of(read("csv", tmp_path, separator="::", quoted="no"))] == [("a", "b")]


def test_windows_line_ends_change_nothing(tmp_path):
    write_text(tmp_path, "x.csv", "userID,itemID,t\r\na,b,1\r\nc,d,2\r\n")
    assert rows_of(read("csv", tmp_path, time="t")) == [("a", "b", None, 1), ("c", "d", None, 2)]


def test_a_damaged_compressed_file_is_refused(tmp_path):
    write_text(tmp_path, "ratings.csv.gz", lines([HEADER, *ROWS]))
    content = (tmp_path / "ratings.csv.gz").read_bytes()
    (tmp_path / "ratings.csv.gz").write_bytes(content[:-12])
    refused("movielens", tmp_path, "ratings.csv.gz", "expected")


@pytest.mark.parametrize("end", COMPRESSED[1:])
def test_every_ending_that_is_promised_is_read(tmp_path, end):
    pyarrow = pytest.importorskip("pyarrow")
    for text in ("userID,itemID\na,b\n", 'userID,itemID\n"a",b\n'):
        with pyarrow.output_stream(str(tmp_path / f"x.csv{end}"), compression="detect") as stream:
            stream.write(text.encode())
        assert (tmp_path / f"x.csv{end}").read_bytes() != text.encode()
        assert rows_of(read("csv", tmp_path)) == [("a", "b", None, None)]
    assert f"`{end}`" in (ROOT / "docs" / "guides" / "data.md").read_text()


def test_leading_zeros_stay(tmp_path):
    write_text(tmp_path, "x.csv", "userID,itemID\n007,01\n7,1\n")
    assert [row[:2] for row in rows_of(read("csv", tmp_path))] == [("007", "01"), ("7", "1")]


@pytest.mark.parametrize(
    ("texts", "value", "decimals"),
    [
        (["8.81250949E8", "881250950"], [881250949, 881250950], 0),
        (["881250949.5", "881250949.25"], [88125094950, 88125094925], 2),
        (["9007199254740993", "9007199254740992.0"], [9007199254740993, 9007199254740992], 0),
        (["-5", "0", "5.0"], [-5, 0, 5], 0),
        (["2014-07-23 00:00:00.000001", "2014-07-23"], [1406073600000001, 1406073600000000], 6),
        (["2014-07-23T02:00:00+02:00", "2014-07-22T23:59:59Z"], [1406073600000000, 1406073599000000], 6),
        (["2014-07-23 00:00:00.000001000", "2014-07-23T00:00:00.0000000"], [1406073600000001, 1406073600000000], 6),
        (["0001-01-01T00:00:00+05:00", "1970-01-01T00:00:00+00:00"], [-62135614800000000, 0], 6),
    ],
)
def test_times_are_exact_however_they_are_written(tmp_path, texts, value, decimals):
    write_text(tmp_path, "x.csv", "userID,itemID,t\n" + "".join(f"a,b,{text}\n" for text in texts))
    raw = read("csv", tmp_path, time="t")
    assert raw.times.value.tolist() == value
    assert raw.times.decimals == decimals


def test_a_separator_of_two_characters_needs_unquoted_fields(tmp_path):
    write_text(tmp_path, "x.csv", "userID::itemID\na::b\n")
    refused("csv", tmp_path, "read.separator", separator="::")
    assert rows_of(read("csv", tmp_path, separator="::", quoted="no")) == [("a", "b", None, None)]


@pytest.mark.parametrize("array", [np.zeros((2, 0), np.float32), np.ones(3), np.ones((2, 2), np.int64)])
def test_an_array_that_is_no_table_of_floats_is_refused(tmp_path, array):
    write_text(tmp_path, "x.csv", "userID,itemID\na,b\n")
    np.save(tmp_path / "v.npy", array)
    raw = read("csv", tmp_path, image="v.npy")
    with pytest.raises(ValueError, match=r"v\.npy: expected an array of floats"):
        raw.features["image"](["0"])


@pytest.mark.parametrize("text", ["itemID\na\nb\n", "a\n", "a\nb\nc\n"])
def test_ids_of_another_number_than_rows_are_refused(tmp_path, text):
    write_text(write_text(tmp_path, "x.csv", "userID,itemID\nu,a\nu,b\n"), "v.ids", text)
    np.save(tmp_path / "v.npy", some_features(2))
    raw = read("csv", tmp_path, image="v.npy", feature_ids="v.ids")
    count = text.count("\n")
    with pytest.raises(ValueError, match=rf"v\.ids: expected 2 ids, one for each row of v\.npy, found {count}"):
        raw.features["image"](["a", "b"])


@pytest.mark.parametrize("end", ["", ".gz"])
def test_ids_of_rows_are_in_the_encoding_of_the_table_and_may_be_compressed(tmp_path, end):
    write_text(
        write_text(tmp_path, "x.csv", "userID,itemID\nu,é\nu,b\n", "latin-1"), f"v.ids{end}", "b\r\né\r\n", "latin-1"
    )
    np.save(tmp_path / "v.npy", some_features(2))
    settings = {"image": "v.npy", "feature_ids": "v.ids"}
    found, _ = read("csv", tmp_path, encoding="latin-1", **settings).features["image"](["b", "é"])
    np.testing.assert_array_equal(found, some_features(2))
    write_text(tmp_path, "x.csv", "userID,itemID\nu,é\nu,b\n")
    refused("csv", tmp_path, f"v.ids{end}", "utf-8 text with an id on each line", **settings)


@pytest.mark.parametrize("field", ["file", "titles", "image", "feature_ids"])
def test_a_path_that_is_not_below_the_raw_folder_is_refused(tmp_path, field):
    write_text(tmp_path, "x.csv", "userID,itemID\na,b\n")
    for path in (str(tmp_path / "x.csv"), "**.csv"):
        refused(
            "csv", tmp_path, str(tmp_path), "names of files below the raw folder, or patterns", path, **{field: path}
        )


def test_blank_lines_after_the_ids_of_rows_change_nothing(tmp_path):
    write_text(write_text(tmp_path, "x.csv", "userID,itemID\nu,a\nu,b\n"), "v.ids", "b\na\n\n \n")
    np.save(tmp_path / "v.npy", some_features(2))
    found, there = read("csv", tmp_path, image="v.npy", feature_ids="v.ids").features["image"](["a", "b"])
    assert there.all()
    np.testing.assert_array_equal(found, some_features(2)[::-1])


@pytest.mark.parametrize(("name", "features"), [("csv", {"image": "image_feat.npy"}), ("mmrec", {})])
def test_rows_by_ids_that_count_from_one_are_refused(tmp_path, name, features):
    file, between = ("x.csv", ",") if name == "csv" else ("x.inter", "\t")
    write_text(tmp_path, file, lines([("userID", "itemID"), ("u", 1), ("u", 3), ("v", 2)], between))
    for count, is_good in ((3, False), (2, True), (4, True)):  # of four rows the first may be that of no item
        np.save(tmp_path / "image_feat.npy", some_features(count))
        look_up = read(name, tmp_path, **features).features["image"]
        if is_good:
            assert look_up(["1", "2"])[1].tolist() == [True, count > 2]
        else:
            with pytest.raises(ValueError, match=r"feat\.npy: expected rows 0 to 2 as ids .* ids up to 3 and none 0"):
                look_up(["1", "2"])
