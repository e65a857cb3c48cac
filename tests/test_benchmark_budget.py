"""What fits into a number of minutes, and what is left of a benchmark: pure functions of recorded durations."""

from __future__ import annotations

import contextlib

import pytest

from fedvlr_jax.benchmark.budget import (
    LEAST,
    Extent,
    by_priority,
    ladder,
    middle_first,
    num_runs,
    points_within,
)
from fedvlr_jax.benchmark.clock import Clock, OutOfTime, shown_time
from fedvlr_jax.benchmark.forecast import (
    CLOSED,
    LEARNED,
    TRAINED,
    Job,
    Lap,
    Left,
    seconds_left,
    seconds_of_run,
    seconds_to_compile,
)


def job(name: str, work: float = 100.0) -> Job:
    host, _, variant = name.partition("+")
    return Job(name, TRAINED, host, variant, work)


LAPS = [
    Lap(job("fcf+base"), 2.0, 10.0),
    Lap(job("fcf+base"), 4.0, 0.0),
    Lap(job("fcf+fedvlr"), 8.0, 20.0),
    Lap(job("fedrap+base", 10.0), 1.0, 30.0),
    Lap(Job("bpr_mf", LEARNED, "", "", 50.0), 25.0, 0.0),
]


@pytest.mark.parametrize(
    ("name", "seconds", "compiling"),
    [
        ("fcf+base", 3.0, 10.0),  # itself
        ("fcf+mlp", (3.0 + 8.0) / 2, 15.0),  # its host
        ("pfedrec+base", (3.0 + 10.0) / 2, 20.0),  # its variant
        ("pfedrec+vbpr", (3.0 + 8.0 + 10.0) / 3, 20.0),  # its kind
    ],
)
def test_a_run_takes_what_the_most_similar_method_took(name, seconds, compiling):
    assert seconds_of_run(job(name), LAPS) == pytest.approx(seconds)
    assert seconds_of_run(job(name, 200.0), LAPS) == pytest.approx(2 * seconds)  # work counts
    assert seconds_to_compile(job(name), LAPS) == pytest.approx(compiling)


def test_kinds_do_not_speak_for_each_other_but_the_machine_does():
    learned, closed = Job("vbpr", LEARNED, "", "", 10.0), Job("ease", CLOSED, "", "", 2.0)
    assert seconds_of_run(learned, LAPS) == pytest.approx(5.0)
    slow = [Lap(job("fcf+base", 1e9), 9.0, 0.0)]  # three times the first guess
    assert seconds_of_run(closed, slow) == pytest.approx(3 * seconds_of_run(closed, []))
    assert seconds_of_run(closed, [*slow, Lap(Job("popularity", CLOSED, "", "", 1.0), 900.0, 0.0)]) < 10


def test_what_is_left_is_runs_and_programs():
    left = [Left(job("fcf+base"), 3, 0), Left(job("fcf+fedvlr"), 2, 1), Left(job("fedrap+base", 10.0), 0, 1)]
    assert seconds_left(left, LAPS) == pytest.approx(3 * 3.0 + 2 * 8.0 + 20.0)


def test_a_forecast_is_right_within_a_factor_of_two_once_every_kind_was_measured():
    # Seconds (run, compiling) of methods, made up; three runs of each are to come.
    recorded = DURATIONS
    laps, left = [], dict(recorded)
    truth = sum(3 * run + compiling for run, compiling in recorded.values())
    for name, (run, compiling) in recorded.items():
        laps.append(Lap(job(name), run, compiling))
        left.pop(name)
        truth -= 3 * run + compiling
        forecast = seconds_left([Left(job(other), 3, 1) for other in left], laps)
        assert truth / 2 <= forecast <= 2 * truth or truth == 0


DURATIONS = {
    "fcf+base": (1.0, 9.0),
    "fcf+fedvlr": (2.5, 14.0),
    "fedavg+base": (1.1, 9.5),
    "fedavg+fedvlr": (2.6, 15.0),
    "fcf+mlp": (1.5, 10.0),
    "pfedrec+base": (1.9, 11.0),
}


def test_the_ladder_gives_up_seeds_of_the_search_then_points_then_seeds():
    assert ladder(Extent(0, 2, 3), 4) == [
        Extent(4, 2, 3), Extent(4, 1, 3), Extent(3, 1, 3), Extent(2, 1, 3), Extent(2, 1, 2),
    ]  # fmt: skip
    assert ladder(Extent(0, 1, 1), 1) == [Extent(1, 1, 1)]
    assert ladder(Extent(0, 3, 5), 8)[-1] == LEAST


@pytest.mark.parametrize(
    ("extent", "points", "runs"),
    [(Extent(0, 2, 3), 4, 9), (Extent(2, 1, 3), 4, 4), (Extent(4, 3, 2), 2, 6), (Extent(4, 2, 3), 1, 3)],
)
def test_runs_of_an_extent(extent, points, runs):
    assert num_runs(extent, points) == runs
    assert num_runs(extent, points, is_random=False) == 1


def test_fewer_points_are_spread_and_part_of_more():
    assert middle_first(4) == [2, 1, 3, 0]
    assert [points_within(Extent(k, 1, 1), 4) for k in range(5)] == [
        [0, 1, 2, 3],
        [2],
        [1, 2],
        [1, 2, 3],
        [0, 1, 2, 3],
    ]
    assert sorted(middle_first(9)) == list(range(9))


def test_methods_of_earlier_patterns_come_first():
    names = ["ease", "fcf+base", "fcf+mlp", "popularity", "own"]
    assert by_priority(names, ("popularity", "fcf+*", "ease")) == ["popularity", "fcf+base", "fcf+mlp", "ease", "own"]


def test_the_clock_refuses_a_run_that_would_end_after_the_budget():
    time = [0.0]
    clock = Clock({"a+b": job("a+b")}, {"a+b": 1}, seconds=50.0, now=lambda: time[0])
    with clock.lap("a+b", [(0, 0)]) as compiled:
        time[0] += 30.0
        compiled(10.0)
    assert clock.laps == [Lap(job("a+b"), 20.0, 10.0)]
    assert (clock.remaining, clock.left({"a+b": 3})) == (20.0, 40.0)
    with clock.lap("a+b", [(0, 1)]):  # no compiling any more
        time[0] += 20.0
    with pytest.raises(OutOfTime, match=r"a\+b \(about 20 s a run\)"), clock.lap("a+b", [(0, 2)]):
        pytest.fail("started")


def test_a_run_that_is_far_slower_than_expected_is_broken_off():
    time = [0.0]
    clock = Clock({"a+b": job("a+b")}, {"a+b": 0}, seconds=100.0, now=lambda: time[0])
    time[0] = 104.0
    clock.check("a+b")
    time[0] = 106.0
    with pytest.raises(OutOfTime, match="broken off"):
        clock.check("a+b")
    Clock({}, {}).check("a+b")  # no budget, no end


def test_a_run_that_fails_is_not_measured():
    clock = Clock({"a+b": job("a+b")}, {"a+b": 1})
    with contextlib.suppress(ZeroDivisionError), clock.lap("a+b", [(0, 0)]):
        raise ZeroDivisionError
    assert clock.laps == []


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (119.0, "119 s"), (150.0, "2 min"), (3600.0, "60 min")])
def test_times_are_shown_in_seconds_below_two_minutes(seconds, text):
    assert shown_time(seconds) == text
