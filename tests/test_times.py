"""What decides a split is read exactly, whatever the order of lines, and warned about where it is odd."""

from __future__ import annotations

import dataclasses
import fractions
import warnings

import numpy as np
import pytest
from data_folders import GOOD, features, raises, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from fedvlr_jax.baselines.fed_prior import fit_grid
from fedvlr_jax.data.arrays import from_arrays
from fedvlr_jax.data.folder import read_folder
from fedvlr_jax.data.interactions import read_interactions
from fedvlr_jax.data.messages import DataWarning
from fedvlr_jax.data.plain import read_plain
from fedvlr_jax.data.synthetic import generate
from fedvlr_jax.data.times import order_times
from fedvlr_jax.settings import default_settings, override
from fedvlr_jax.training.priors import configured_prior

HEADER = "userID,itemID,timestamp"
WHOLE = st.integers(0, 10**20).map(str)
WRITTEN = st.one_of(
    WHOLE,
    st.integers(-(10**6), 10**6).map(str),
    st.tuples(WHOLE, WHOLE).map(".".join),
    st.tuples(st.integers(0, 99), st.integers(-30, 30)).map(lambda p: f"{p[0]}e{p[1]}"),
)


def held_out(folder, times, order=None):
    """(validation, test) item of one user whose item k is at times[k]; `order` of the lines."""
    rows = [f"0,{item},{time}" for item, time in enumerate(times)]
    dataset = read_folder(write_folder(folder, [rows[k] for k in order or range(len(rows))], header=HEADER))
    return int(dataset.valid_item[0]), int(dataset.test_item[0])


@pytest.mark.parametrize(
    ("times", "found"),
    [
        (("1e9", "999999999", "1000000001"), (0, 2)),
        (("978300760.0", "978300759", "978300761.0"), (0, 2)),
        (
            ("9783007600000000.25", "9783007600000000.5", "9783007600000000.125"),
            (0, 1),
        ),  # float64 has steps of 2 here
        (("20000000000000000001", "20000000000000000003", "20000000000000000002"), (2, 1)),
        (("-5", "-1e-400", "0"), (1, 2)),
        (("1.5", "1.25", "1.125"), (1, 0)),
    ],
)
def test_times_are_compared_exactly_however_they_are_written(tmp_path, times, found):
    assert held_out(tmp_path, times) == found


@pytest.mark.parametrize("time", ["", "noon", "nan", "inf", "1e999", "2020-01-01"])
def test_what_is_no_time_is_refused_with_its_line(tmp_path, time):
    rows = ["0,0,1", f"0,1,{time}", "0,2,3"]
    raises(write_folder(tmp_path, rows, header=HEADER), "line 3", "field timestamp", "a finite number", repr(time))


@settings(max_examples=200, deadline=None)
@given(st.lists(WRITTEN, min_size=1, max_size=12))
def test_the_order_of_times_is_that_of_exact_fractions(values):
    exact, order = [fractions.Fraction(value) for value in values], order_times(values).tolist()
    for a, x in zip(exact, order, strict=True):
        for b, y in zip(exact, order, strict=True):
            assert ((a < b), (a == b)) == ((x < y), (x == y))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(WHOLE, st.from_regex(r"[0-9.]{1,9}", fullmatch=True), WRITTEN), min_size=1, max_size=8))
def test_a_plain_column_is_exact_or_left_to_the_slower_reader(values):
    found = read_plain("\n".join(["a,b", *(f"{value},7" for value in values)]).encode())
    if found is not None:
        column = found["a"]
        exact = [fractions.Fraction(int(number), 10**column.places) for number in column.number]
        assert exact == [fractions.Fraction(value) for value in values]
        assert column.width == max(map(len, values))


def test_what_data_sets_have_is_plain():
    found = read_plain(b"\xef\xbb\xbfa,b,c\r\n12,1516237335600,4.5\r\n7,0,5.0")
    assert {name: column.number.tolist() for name, column in found.items()} == {
        "a": [12, 7],
        "b": [1516237335600, 0],
        "c": [45, 50],
    }
    assert [column.places for column in found.values()] == [0, 0, 1]


@pytest.mark.parametrize(
    "content", [b"", b"a,b", b"a,b\n", b"a,b\n1\n", b"a,b\n\n1,2\n", b"a,a\n1,2\n", b'a,b\n"1",2\n']
)
def test_what_is_no_plain_table_is_left_to_the_slower_reader(content):
    assert read_plain(content) is None


def test_both_readers_agree(tmp_path):
    folder = write_folder(tmp_path, [*GOOD, "2,4,0.5,7.25,0"])
    fast = read_interactions(folder / "inter.csv")
    text = (folder / "inter.csv").read_text().replace("10", '"10"')
    (folder / "inter.csv").write_text(text)
    slow = read_interactions(folder / "inter.csv")
    for name in ("line", "user", "item", "split"):
        np.testing.assert_array_equal(getattr(fast, name), getattr(slow, name))
    np.testing.assert_array_equal(np.argsort(fast.timestamp), np.argsort(slow.timestamp))


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(4)))
def test_at_equal_times_the_larger_item_is_the_later_one_in_any_order_of_lines(tmp_path_factory, order):
    folder = tmp_path_factory.mktemp("ties")
    with pytest.warns(
        DataWarning, match=r"for 1 of 1 users equal timestamps .* the larger itemID counts as the later"
    ):
        assert held_out(folder, (9, 1, 9, 9), order) == (2, 3)


def test_ties_that_decide_nothing_are_not_warned_about(tmp_path):
    assert held_out(tmp_path, (1, 1, 2, 3)) == (2, 3)


def test_a_repeated_pair_counts_at_its_earliest_time_in_any_order_of_lines(tmp_path):
    rows = ["0,0,10,0", "0,1,20,0", "0,1,5,0", "0,2,30,1", "0,3,40,2"]
    for k, order in enumerate(([0, 1, 2, 3, 4], [2, 1, 0, 3, 4])):
        folder = write_folder(tmp_path / str(k), [rows[n] for n in order], header=f"{HEADER},split_label")
        with pytest.warns(DataWarning, match="dropped 1 repeated"):
            assert read_folder(folder).train_age.tolist() == [0, 1]


def test_mixed_units_are_warned_about(tmp_path):
    times = (1_500_000_000, 1_500_000_001_000, 1_500_000_002_000, 1_500_000_003)
    with pytest.warns(DataWarning, match=r"one unit of time, found .* seconds in 2 rows and milliseconds in 2 rows"):
        held_out(tmp_path, times)


def test_a_split_that_contradicts_the_times_is_warned_about(tmp_path):
    rows = [row.replace(",23,2", ",5,2").replace(",22,2", ",2,2") for row in GOOD]
    with pytest.warns(
        DataWarning, match=r"1 of 2 users have a held-out item that is earlier .* \(the first is userID 1"
    ):
        read_folder(write_folder(tmp_path, rows))


def test_a_prior_without_times_is_warned_about():
    dataset = generate(0, num_users=5, num_items=12, num_interactions=25, latent_dim=2)
    for run in (lambda: configured_prior(default_settings(), dataset), lambda: list(fit_grid(dataset, ()))):
        with pytest.warns(DataWarning, match="the prior orders histories by time, and the data has no timestamps"):
            run()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        configured_prior(override(default_settings(), {"prior": {"reach": 0, "next_weight": 0}}), dataset)
        configured_prior(default_settings(), dataclasses.replace(dataset, train_age=0 * dataset.train_item))


@pytest.mark.parametrize(("rating", "quoted"), [("0", "1.0"), ("0.0", "1.0"), ("-1", "1.0"), ("0.00", '"1.0"')])
def test_ratings_of_zero_or_below_are_warned_about(tmp_path, rating, quoted):
    rows = [row.replace("1.0", quoted) for row in GOOD[:-1]] + [f"1,2,{rating},22,2"]
    with pytest.warns(DataWarning, match="1 of 7 rows have a rating of zero or below"):
        read_folder(write_folder(tmp_path, rows))


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.ones((5, 3), np.float32), "the same row for all items"),
        (np.arange(1, 6)[:, None] * np.ones((5, 3)), "the same row for all items"),
        (features(dim=1), "a single column"),
    ],
)
def test_features_that_tell_no_items_apart_are_warned_about(tmp_path, image, found):
    with pytest.warns(DataWarning, match=f"image_features.npy: .*{found}"):
        read_folder(write_folder(tmp_path, image=image))


def test_ids_counted_from_one_are_warned_about(tmp_path):
    rows = [",".join([user, str(int(item) + 1), *rest]) for user, item, *rest in (row.split(",") for row in GOOD)]
    with pytest.warns(DataWarning, match="the lowest itemID is 1"):
        read_folder(write_folder(tmp_path, rows))


@pytest.mark.parametrize("milliseconds", [1_700_000_000_000, 1.7e12])
def test_arrays_and_frames_warn_of_mixed_units_by_the_rule_of_files(milliseconds):
    times = [1_700_000_000, 1_700_000_001, milliseconds]
    with pytest.warns(DataWarning, match=r"mine, field timestamp: .* seconds in 2 rows and milliseconds in 1 rows"):
        from_arrays(["a"] * 3, ["x", "y", "z"], times, name="mine")
    dates = np.array(times[:2] + [1_700_000_002], "datetime64[s]")
    from_arrays(["a"] * 3, ["x", "y", "z"], dates)  # dates have one unit, whatever it is
