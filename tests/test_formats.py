"""Every raw format on a small file of its own."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fedvlr_jax.data.formats import FORMATS
from fedvlr_jax.data.formats.ninerec import ORDERS
from tests.commands import ROOT
from tests.raw_files import ROWS, TITLES, lines, movielens, read, refused, rows_of, some_features, write_text

UNRATED = [(user, item, None, time) for user, item, _, time in ROWS]


def test_movielens_csv_with_titles(tmp_path):
    movies = 'movieId,title,genres\n10,"Tea, green",A|B\n20,Café,\n30,"The ""cup""",C\n40,Pot,D\n'
    raw = read("movielens", write_text(movielens(tmp_path), "movies.csv", movies))
    assert rows_of(raw) == ROWS
    assert raw.titles == TITLES
    assert [file.name for file in raw.files] == ["ratings.csv", "movies.csv"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_movielens_dat_with_two_colons_in_either_encoding(tmp_path, encoding):
    folder = write_text(tmp_path, "ratings.dat", lines(ROWS, "::"))
    write_text(folder, "movies.dat", "10::Tea: green (1999)::A|B\n20::Café::C\n", encoding)
    raw = read("movielens", folder)
    assert rows_of(raw) == ROWS
    assert raw.titles == {"10": "Tea: green (1999)", "20": "Café"}
    assert raw.notes == (f"movies.dat: read as {encoding}",)


def test_movielens_100k(tmp_path):
    folder = write_text(tmp_path, "u.data", lines(ROWS, "\t"))
    rest = "|01-Jan-1995||http://x|" + "|".join("0" * 19)
    write_text(folder, "u.item", f"10|Tea{rest}\n20|Café{rest}\n", "latin-1")
    raw = read("movielens", folder)
    assert rows_of(raw) == ROWS
    assert raw.titles == {"10": "Tea", "20": "Café"}


@pytest.mark.parametrize("end", ["", ".gz"])
def test_amazon_2023_as_json_lines(tmp_path, end):
    objects = [
        {"rating": float(r), "title": "x", "images": [], "parent_asin": i, "user_id": u, "timestamp": 1000 * t}
        for u, i, r, t in ROWS
    ]
    folder = write_text(tmp_path, f"Cards.jsonl{end}", "".join(json.dumps(row) + "\n" for row in objects))
    meta = [{"parent_asin": item, "title": title, "price": None} for item, title in TITLES.items()]
    write_text(folder, f"meta_Cards.jsonl{end}", "".join(json.dumps(row) + "\n" for row in meta))
    raw = read("amazon2023", folder)
    assert rows_of(raw) == [(u, i, r, 1000 * t) for u, i, r, t in ROWS]
    assert raw.titles == TITLES


def test_amazon_2023_as_csv(tmp_path):
    folder = movielens(tmp_path, name="Cards.csv", header=("user_id", "parent_asin", "rating", "timestamp"))
    assert rows_of(read("amazon2023", folder)) == ROWS


def test_amazon_2014_with_binary_features(tmp_path):
    folder = write_text(tmp_path, "ratings_Baby.csv", lines(ROWS))
    write_text(folder, "meta_Baby.json.gz", "{'asin': '10', 'title': 'Tea'}\n{'asin': '20', 'price': 1.5}\n")
    features = some_features(2, 4096)
    records = b"".join(
        name + row.astype("<f4").tobytes() for name, row in zip((b"10        ", b"40        "), features, strict=True)
    )
    (folder / "image_features_Baby.b").write_bytes(records)
    raw = read("amazon2014", folder)
    assert rows_of(raw) == ROWS
    assert raw.titles == {"10": "Tea"}
    found, there = raw.features["image"](["40", "20", "10"])
    assert there.tolist() == [True, False, True]
    np.testing.assert_array_equal(found[[2, 0]], features)


@pytest.mark.parametrize("item_first", [False, True])
def test_ninerec_finds_the_order_of_its_columns(tmp_path, item_first):
    rows = [(f"v{i}", f"u{u}", t) if item_first else (f"u{u}", f"v{i}", t) for u, i, _, t in ROWS]
    folder = write_text(tmp_path, "KU_pair.csv", lines(rows))
    write_text(folder, "KU_item.csv", "v10,茶,Tea\nv20,咖啡,Café\nv30,x,\nv40,y,Pot\nv50,z,Jug\n")
    raw = read("ninerec", folder)
    assert rows_of(raw) == [(f"u{u}", f"v{i}", None, t) for u, i, _, t in ROWS]
    assert raw.titles == {"v10": "Tea", "v20": "Café", "v40": "Pot", "v50": "Jug"}
    assert "item,user" in raw.notes[0] if item_first else "user,item" in raw.notes[0]


def test_ninerec_takes_numbers_where_both_columns_are_listed(tmp_path):
    folder = write_text(tmp_path, "KU_pair.csv", lines([(1, 1, 5), (1, 2, 6), (2, 3, 7)]))
    write_text(folder, "KU_item.csv", "1,a\n2,b\n3,c\n")
    assert rows_of(read("ninerec", folder))[0][:2] == ("1", "1")
    assert [row[1] for row in rows_of(read("ninerec", folder))] == ["1", "2", "3"]


def test_ninerec_that_fits_both_ways_is_refused(tmp_path):
    folder = write_text(tmp_path, "KU_pair.csv", lines([(1, 2, 5), (2, 1, 6)]))
    write_text(folder, "KU_item.csv", "1,a\n2,b\n")
    refused("ninerec", folder, "KU_pair.csv", "--config.read.columns", "2 of 2 in user,item", "2 of 2 in item,user")
    assert rows_of(read("ninerec", folder, columns="item,user,timestamp"))[0] == ("2", "1", None, 5)
    (folder / "KU_item.csv").unlink()
    refused("ninerec", folder, "0 ids in the file of items", "0 of 2 in user,")


@pytest.mark.parametrize("item_first", [False, True])
def test_ninerec_whose_file_of_items_lacks_one_is_no_proof_of_the_other_order(tmp_path, item_first):
    pairs = [(user, user + item) for user in range(1, 8) for item in range(0, 25, 8)]  # users are listed as items too
    rows = [(*(pair[::-1] if item_first else pair), time) for time, pair in enumerate(pairs)]
    folder = write_text(tmp_path, "KU_pair.csv", lines(rows))
    write_text(folder, "KU_item.csv", "".join(f"{item},t\n" for item in range(1, 31)))
    right, wrong = ORDERS[::-1] if item_first else ORDERS
    shares = {right: f"27 of 28 in {right}", wrong: f"7 of 7 in {wrong}"}
    refused("ninerec", folder, "--config.read.columns", "30 ids", *(shares[order] for order in ORDERS))
    assert [row[:2] for row in rows_of(read("ninerec", folder, columns=right))] == [
        (str(u), str(i)) for u, i in pairs
    ]


def test_ninerec_numbers_of_many_users_are_not_taken_for_items(tmp_path):
    """Three quarters of the users have numbers of items, and one item of the list has no rows."""
    folder = write_text(tmp_path, "KU_pair.csv", lines([(user, 1 + user % 14, user) for user in range(1, 21)]))
    write_text(folder, "KU_item.csv", "".join(f"{item},t\n" for item in range(1, 16)))
    assert [row[:2] for row in rows_of(read("ninerec", folder))][:2] == [("1", "2"), ("2", "3")]


def test_microlens_pairs_with_times(tmp_path):
    folder = write_text(tmp_path, "MicroLens-x_pairs.csv", lines([("user", "item", "timestamp"), *_unrated()]))
    write_text(folder, "MicroLens-x_titles.csv", 'item,title\n10,"Tea, green"\n20,Café\n')
    raw = read("microlens", folder)
    assert rows_of(raw) == UNRATED
    assert raw.titles == {"10": "Tea, green", "20": "Café"}


def _unrated():
    return [(user, item, time) for user, item, _, time in ROWS]


def test_microlens_sequences_are_in_order_of_time(tmp_path):
    folder = write_text(tmp_path, "MicroLens-x_pairs.tsv", "u1\t5 3 4\nu2\t3 5\n")
    write_text(folder, "MicroLens-x_titles.csv", "3,Tea\n")
    raw = read("microlens", folder)
    assert rows_of(raw) == [
        ("u1", "5", None, 1),
        ("u1", "3", None, 2),
        ("u1", "4", None, 3),
        ("u2", "3", None, 1),
        ("u2", "5", None, 2),
    ]
    assert raw.titles == {"3": "Tea"}


def test_mmrec_with_labels_features_and_mappings(tmp_path):
    header = ("userID", "itemID", "rating", "timestamp", "x_label")
    rows = [(0, 1, "5.0", 16000, 0), (0, 0, "5.0", 16001, 1), (1, 2, "5.0", 16002, 2), (1, 1, "4.0", 16003, 2)]
    folder = write_text(tmp_path, "baby.inter", lines([header, *rows], "\t"))
    write_text(folder, "i_id_mapping.csv", "asin\titemID\nB0\t0\nB1\t1\nB2\t2\n")
    features = some_features(3)
    np.save(folder / "image_feat.npy", features)
    raw = read("mmrec", folder)
    assert rows_of(raw) == [
        ("0", "B1", "5.0", 16000),
        ("0", "B0", "5.0", 16001),
        ("1", "B2", "5.0", 16002),
        ("1", "B1", "4.0", 16003),
    ]
    assert raw.label.tolist() == [0, 1, 2, 2]
    found, there = raw.features["image"](["B2", "B0", "B9"])
    assert there.tolist() == [True, True, False]
    np.testing.assert_array_equal(found[:2], features[[2, 0]])


def test_mmrec_with_a_mapping_that_merges_or_lacks_items_is_refused(tmp_path):
    write_text(tmp_path, "x.inter", "userID\titemID\n0\t0\n0\t1\n")
    write_text(tmp_path, "i_id_mapping.csv", "asin\titemID\nB0\t0\nB0\t1\n")
    refused("mmrec", tmp_path, "i_id_mapping.csv", "every original id once", "1 repeated")
    write_text(tmp_path, "i_id_mapping.csv", "asin\titemID\nB0\t0\n")
    refused("mmrec", tmp_path, "i_id_mapping.csv", "every id of the interactions", "none for 1")
    write_text(tmp_path, "i_id_mapping.csv", "asin\titemID\n0\tB0\n")
    refused("mmrec", tmp_path, "i_id_mapping.csv", "line 2", "field itemID", "a whole number", "'B0'")


def test_recbole_with_types_in_the_header(tmp_path):
    header = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
    folder = write_text(tmp_path, "x.inter", lines([header, *ROWS], "\t"))
    write_text(
        folder, "x.item", 'item_id:token\tmovie_title:token_seq\tyear:float\n10\tTea "green"\t1999\n20\tCafé\n'
    )
    raw = read("recbole", folder)
    assert rows_of(raw) == ROWS
    assert raw.titles == {"10": 'Tea "green"', "20": "Café"}


def test_recbole_split_in_three(tmp_path):
    for name, rows in (("train", ROWS[:9]), ("valid", ROWS[9:11]), ("test", ROWS[11:])):
        write_text(
            tmp_path,
            f"x.{name}.inter",
            lines([("user_id:token", "item_id:token", "rating:float", "timestamp:float"), *rows], "\t"),
        )
    raw = read("recbole", tmp_path)
    assert rows_of(raw) == ROWS
    assert raw.label.tolist() == [0] * 9 + [1] * 2 + [2] * 3
    assert raw.locate(10) == (tmp_path / "x.valid.inter", 3)


def test_times_of_parts_that_do_not_fit_together_are_refused(tmp_path):
    for name, time in (("train", "1600000000000"), ("valid", "0.12345678"), ("test", "5")):
        write_text(
            tmp_path, f"x.{name}.inter", f"user_id:token\titem_id:token\ttimestamp:float\nu\ti{name}\t{time}\n"
        )
    refused("recbole", tmp_path, "x.train.inter", "64 bits with 8 digits after the point", "1.6e+12")


def test_csv_with_everything_named(tmp_path):
    rows = [
        (time, item, user, f'"{rating}"', part)
        for (user, item, rating, time), part in zip(ROWS, ["train", "valid", "test"] * 5, strict=False)
    ]
    folder = write_text(tmp_path, "mine.txt", lines(rows, ";"), "latin-1")
    write_text(folder, "names.csv", "id;name\n10;Tea\n20;Café\n", "latin-1")
    np.save(folder / "v.npy", some_features(2))
    write_text(folder, "v.ids", "20\n50\n")
    columns = {"names": "when,what,who,stars,part", "user": "who", "item": "what", "rating": "stars", "time": "when"}
    titles = {"titles": "names.csv", "title_item": "id", "title": "name"}
    arrays = {"image": "v.npy", "feature_ids": "v.ids"}
    written = {"file": "*.txt", "separator": ";", "encoding": "latin-1", "label": "part"}
    raw = read("csv", folder, **columns, **titles, **arrays, **written)
    assert rows_of(raw) == ROWS
    assert raw.label.tolist() == ([0, 1, 2] * 5)[:14]
    assert raw.titles == {"10": "Tea", "20": "Café"}
    assert raw.features["image"](["10", "20", "50"])[1].tolist() == [False, True, True]


@pytest.mark.parametrize("name", FORMATS)
def test_a_folder_without_the_files_is_refused(tmp_path, name):
    write_text(tmp_path, "note.txt", "nothing")
    refused(name, tmp_path, str(tmp_path), "expected a file", "note.txt")
    refused(name, tmp_path / "nowhere", "expected a folder", "found none")


def test_every_format_has_a_configuration():
    names = {file.stem for file in (ROOT / "configs" / "prepare").glob("*.py")}
    assert names == {*FORMATS, "base"}
