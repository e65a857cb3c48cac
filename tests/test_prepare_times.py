"""What a preparation makes of times: their units, decimals, dates, ties and places in sequences."""

from __future__ import annotations

import datetime
import warnings
from fractions import Fraction

import pytest

from fedvlr_jax.data.folder import read_folder
from fedvlr_jax.data.messages import DataWarning
from fedvlr_jax.data.prepare.pipeline import prepare
from fedvlr_jax.data.prepare.settings import default_settings
from fedvlr_jax.errors import ConfigError, DataError
from fedvlr_jax.fields import with_fields
from tests.raw_files import COLUMNS, ROWS, START, prepared, prepared_rows, table_of, write_table, write_text


def warned(tmp_path, rows=ROWS, changes=None):
    """The warnings of a preparation."""
    folder = write_table(tmp_path / "raw", rows)
    fields = COLUMNS | {"core.per_user": 0, "core.per_item": 0} | (changes or {})
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
        prepared_rows(tmp_path, rows=rows)
    assert prepared_rows(tmp_path, {"time.unit": "s"}, rows).is_new
    with pytest.raises(DataError, match=rf"s by line 2, {START + 9}\.0.*found {1000 * START}\.5, a time in ms"):
        prepared_rows(tmp_path / "decimals", rows=[*ROWS, ("3", "60", "1.0", f"{1000 * START}.5")])


@pytest.mark.parametrize(
    ("factor", "unit"), [(1, "s"), (1000, "ms"), (10**6, "us"), (10**9, "ns")],
)  # fmt: skip
def test_the_unit_is_found_and_neighbouring_times_stay_apart(tmp_path, factor, unit):
    rows = [(user, item, rating, START * factor + time - START) for user, item, rating, time in ROWS]
    assert prepared_rows(tmp_path, rows=rows).facts["time"]["unit"] == unit
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
    done = prepared_rows(tmp_path, rows=rows)
    texts = [row[3] for row in table_of(tmp_path / "out" / "inter.csv")[1:]]
    assert texts[0] == written
    assert sorted(map(Fraction, texts)) == sorted(Fraction(row[3]) for row in rows)
    dataset = read_folder(tmp_path / "out")
    assert dataset.time_span == (min(map(float, texts)), max(map(float, texts)))
    plain = prepared_rows(tmp_path / "plain")
    assert dataset.test_item.tolist() == read_folder(tmp_path / "plain" / "out").test_item.tolist()
    assert done.facts["time"]["unit"] == (plain.facts["time"]["unit"] if not shift else "count")


def test_dates_have_one_unit_whenever_they_are(tmp_path):
    dates = ["1969-12-31", "1972-05-01", "1999-01-01", "2514-01-01"]
    rows = [(f"u{u}", f"i{k}", 1, date) for u in range(3) for k, date in enumerate(dates)]
    assert prepared_rows(tmp_path, rows=rows).facts["time"]["unit"] == "s"
    assert table_of(tmp_path / "out" / "inter.csv")[1][3] == "-86400"
    assert read_folder(tmp_path / "out").time_span[0] == -86400


def test_dates_are_written_in_seconds(tmp_path):
    start = datetime.datetime(2014, 7, 23, 9, 30)
    rows = [(*row[:3], f"{start + datetime.timedelta(seconds=row[3] - START)}") for row in ROWS]
    prepared_rows(tmp_path, rows=rows)
    times = [int(row[3]) for row in table_of(tmp_path / "out" / "inter.csv")[1:]]
    assert min(times) == start.replace(tzinfo=datetime.UTC).timestamp() + 1


def test_places_in_sequences_split_each_user_and_not_all_at_one_time(tmp_path):
    folder = write_text(tmp_path / "raw", "m_pairs.tsv", "a\t1 2 3 4\nb\t2 3 1\nc\t4 3 2 1\n")
    with pytest.raises(
        ConfigError, match=r"split\.by=global-time: .* across users, found the places .* m_pairs\.tsv"
    ):
        prepared("microlens", folder, tmp_path / "out", {"split.by": "global-time"})
    assert prepared("microlens", folder, tmp_path / "out", {"split.by": "ratio"}).facts["time"]["unit"] == "count"


def test_small_numbers_are_a_count_such_as_days(tmp_path):
    rows = [(user, item, rating, 16_000 + time - START) for user, item, rating, time in ROWS]
    assert prepared_rows(tmp_path, rows=rows).facts["time"]["unit"] == "count"
