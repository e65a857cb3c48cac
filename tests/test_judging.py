"""Scores of other libraries: read from matrices and lists, ranked with ties, compared with runs; faults are named."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
from ranking_oracle import random_dataset, rank_of

import fedvlr_jax
from fedvlr_jax.analysis.judging import compare_with, judge, run_of
from fedvlr_jax.data.score_files import ForeignScores, read_scores
from fedvlr_jax.errors import CheckpointError, DataError
from fedvlr_jax.evaluation.comparison import compare
from fedvlr_jax.evaluation.foreign import listed
from fedvlr_jax.evaluation.metrics import user_values
from fedvlr_jax.io.files import write_arrays, write_json
from fedvlr_jax.io.judgement import comparison_row, judgement_text
from fedvlr_jax.training.results import rank_arrays

PLAIN = random_dataset(5, 12, 30)
NAMED = dataclasses.replace(
    PLAIN,
    user_ids=np.array([f"user-{u}" for u in range(12)]),
    item_ids=np.array([f"B{i:03d}" for i in range(30)]),
)
TRAIN_UI = np.zeros((12, 30), bool)
TRAIN_UI[PLAIN.train_user, PLAIN.train_item] = True
RNG = np.random.default_rng(0)
SCORES_UI = RNG.integers(0, 6, size=(12, 30)) / 7 + 1e-12 * RNG.integers(0, 2, size=(12, 30))
"""Ties, and differences that float32 does not have."""


def require_ranks(ranks, score_ui):
    """The ranks by a loop over candidates."""
    for t, item_u in enumerate((PLAIN.valid_item, PLAIN.test_item)):
        for u, item in enumerate(item_u.tolist()):
            expected = rank_of(score_ui[u], np.flatnonzero(TRAIN_UI[u]), item)
            assert (ranks.greater[t, u], ranks.tied[t, u]) == expected


def rows_of(keep_ui):
    return [(u, i, float(SCORES_UI[u, i])) for u, i in np.argwhere(keep_ui).tolist()]


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    file = tmp_path_factory.mktemp("scores") / "scores.npy"
    np.save(file, SCORES_UI)
    return judge(read_scores(file, PLAIN), PLAIN)


def test_a_matrix_is_ranked_without_the_train_items_and_without_new_ties(matrix):
    require_ranks(matrix.ranks, SCORES_UI)
    assert (matrix.ranks.tied > 1).any()
    assert matrix.result["ignored_train_rows"] == TRAIN_UI.sum()
    assert matrix.result["unlisted_rows"] == 0
    assert matrix.result["test"]["NDCG@10"] == user_values(matrix.ranks, "NDCG@10").mean()
    assert json.loads(json.dumps(matrix.result)) is not None


def test_items_that_a_list_lacks_rank_behind_all_others_and_are_tied(tmp_path):
    keep_ui = (SCORES_UI > 0.3) & ~TRAIN_UI
    file = tmp_path / "scores.csv"
    lines = [f"user-{u},B{i:03d},{score!r}" for u, i, score in rows_of(keep_ui)]
    file.write_text("\n".join(["userID,itemID,score", *np.random.default_rng(1).permutation(lines)]) + "\n")
    judged = judge(read_scores(file, NAMED), NAMED)
    require_ranks(judged.ranks, np.where(keep_ui, SCORES_UI, -1.0))
    assert judged.result["unlisted_rows"] == pytest.approx(np.mean(~keep_ui[range(12), PLAIN.test_item]))
    text = judgement_text("scores.csv", judged.result, [], [])
    assert "have an item without a score: those rank behind all others, tied" in text


@pytest.mark.parametrize("form", ["order", "rank", "jsonl", "tsv", "parquet", "npz"])
def test_every_form_says_the_same(form, tmp_path, matrix):
    best_first = sorted(rows_of(~TRAIN_UI), key=lambda row: -row[2])
    place = {(u, i): 1 + int((SCORES_UI[u][~TRAIN_UI[u]] > score).sum()) for u, i, score in best_first}
    file = tmp_path / "x.csv"
    if form == "order":
        file.write_text("user,item\n" + "".join(f"{u},{i}\n" for u, i, _ in best_first))
    elif form == "rank":
        file.write_text("user,rank,item\n" + "".join(f"{u},{place[u, i]},{i}\n" for u, i, _ in best_first))
    elif form == "jsonl":
        file = tmp_path / "x.jsonl"
        file.write_text("".join(json.dumps({"user": u, "item": i, "score": s}) + "\n" for u, i, s in best_first))
    elif form == "tsv":
        file = tmp_path / "x.tsv"
        file.write_text("user\titem\tscore\n" + "".join(f"{u}\t{i}\t{s!r}\n" for u, i, s in best_first))
    elif form == "parquet":
        pyarrow, file = pytest.importorskip("pyarrow.parquet"), tmp_path / "x.parquet"
        users, items, scores = zip(*best_first, strict=True)
        table = pytest.importorskip("pyarrow").table({"user": users, "item": items, "score": scores})
        pyarrow.write_table(table, file)
    else:
        file, order = tmp_path / "x.npz", np.random.default_rng(2).permutation(30)
        np.savez(file, scores=SCORES_UI[::-1][:, order], users=np.arange(12)[::-1], items=order)
    judged = judge(read_scores(file, PLAIN), PLAIN)
    if form == "npz":  # ids in numbers, of a data set that has them as text
        text = {"user_ids": np.arange(12).astype(str), "item_ids": np.arange(30).astype(str)}
        again = read_scores(file, dataclasses.replace(PLAIN, **text))
        np.testing.assert_array_equal(again.value, read_scores(file, PLAIN).value)
    ordered = "the order of the lines says" in judgement_text("x", judged.result, [], [])
    assert ordered == (judged.result["form"] == "ordered list") == (form == "order")
    if form == "order":  # nothing is tied any more, and each item has one of the ranks that it had
        assert (judged.ranks.tied == 1).all()
        assert (judged.ranks.greater >= matrix.ranks.greater).all()
        assert (judged.ranks.greater < matrix.ranks.greater + matrix.ranks.tied).all()
    else:
        np.testing.assert_array_equal(judged.ranks.greater, matrix.ranks.greater)
        np.testing.assert_array_equal(judged.ranks.tied, matrix.ranks.tied)


def test_places_count_distinct_scores_of_each_user():
    user, item = np.array([0, 0, 0, 2, 2, 2, 2]), np.array([3, 5, 1, 0, 1, 2, 3])
    value = np.array([0.5, 0.5 + 1e-15, -3, -np.inf, 7, -np.inf, 7])
    found = listed(user, item, value, num_users=3, num_items=6)
    np.testing.assert_array_equal(found.place_ul, [[2, 3, 1, 0], [0] * 4, [1, 2, 1, 2]])
    np.testing.assert_array_equal(found.item_ul, [[3, 5, 1, 6], [6] * 4, [0, 1, 2, 3]])


# ---- against runs


def write_run(folder, judged, **changes):
    folder.mkdir()
    numbers = dict.fromkeys(("rounds", "best_round", "num_dropped"), 1)
    clocks = dict.fromkeys(("seconds_train", "seconds_eval", "seconds_compile", "client_updates_per_second"), 1.0)
    names = {"host": "fcf", "variant": "base", "seed": 3}
    write_json(folder / "result.json", {**judged.result, **names, **numbers, **clocks} | changes)
    write_arrays(folder / "ranks.npz", rank_arrays(judged.ranks))
    return folder


def test_tests_against_runs_are_paired_over_users(tmp_path, matrix):
    run = run_of(write_run(tmp_path / "run", matrix), PLAIN)
    other_ui = np.random.default_rng(4).normal(size=(12, 30))
    user, item = np.divmod(np.arange(360), 30)
    other = judge(ForeignScores(user, item, other_ui.reshape(-1), "matrix", 0), PLAIN)
    tests = compare_with(other, [run])
    assert [test.metric for test in tests] == ["HR@50", "NDCG@50"]
    values = (user_values(ranks, "NDCG@50")[None] for ranks in (other.ranks, matrix.ranks))
    assert tests[1].result == compare(*values)
    assert tests[1].p_holm >= tests[1].result.p_value
    text = judgement_text("mine", other.result, [(run[0], run[1].result)], [comparison_row(*t) for t in tests])
    assert text.count("fcf + base, seed 3") == 3
    assert f"{100 * tests[1].result.difference:+.2f}" in text


def test_a_run_on_other_rows_is_refused(tmp_path, matrix):
    folder = write_run(tmp_path / "run", matrix, dataset="another")
    shifted = dataclasses.replace(PLAIN, test_item=np.roll(PLAIN.test_item, 1))
    with pytest.raises(CheckpointError, match=r"ranks\.npz: expected ranks of the held-out rows of random"):
        run_of(folder, shifted)
    with pytest.raises(CheckpointError, match=r"--against=.*: expected a finished run, found no result\.json"):
        run_of(tmp_path, PLAIN)


# ---- faults

GOOD = [f"user-{u},B{i:03d},{i}" for u in range(12) for i in range(4)]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["user,item,score", *GOOD, "user-3,B01,1"],
            "line 50, field item: .*found 'B01' .1 such.; the nearest are",
        ),
        (
            ["user,item,score", "usr-3,B001,1", *GOOD],
            "line 2, field user: .*found 'usr-3' .* are 'user-3'",
        ),
        (
            ["user,item,score", *GOOD, "user-3,B002,1"],
            "line 50, field item: .*'user-3' with item 'B002' of line 16",
        ),
        (["user,item,score", *GOOD[:-8]], "field user: .*found none of 2 users .'user-10', 'user-11'."),
        (["user,item,score", "user-0,B001,nan", *GOOD], "line 2, field score: expected a number, found 'nan'"),
        (["user,item,rank", "user-0,B001,first", *GOOD], "line 2, field rank: expected a number, found 'first'"),
        (
            ["user,item,prediction", *GOOD],
            "expected a column score or rank, or user and item alone, found prediction$",
        ),
        (["item,Score,user_id,user", "B001,2,x,user-0"], "expected .* and item alone, found Score, user_id$"),
        (["who,item,score", *GOOD], "expected a column user, found who, item, score"),
        (["user,item,score", *GOOD, "user-0,B009"], "line 50: expected 3 fields as in line 1, found 2"),
        (["", "user,item,score", *GOOD, "", "user-0,B009,x", ""], "line 52, field score: .*found 'x'"),
        ([], "expected a column user, found no column"),
        ([""], "expected a column user, found no column"),
    ],
)
def test_a_fault_of_a_list_is_one_line_with_its_place(lines, message, tmp_path):
    file = tmp_path / "scores.csv"
    file.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(DataError) as error:
        read_scores(file, NAMED)
    assert re.search(f"^{re.escape(str(file))},? ?:? ?{message}", str(error.value)), str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"user": "user-0", "item"',
            r'line 51: expected a JSON object, found {"user": "user-0", "item" \(Expecting',
        ),
        ("[1]", r"line 51: expected a JSON object, found \[1\]"),
        ('{"user": "user-0"}', "line 51: expected an object with the fields of line 1, found {"),
        ('{"user": "user-0", "item": "B009", "score": "x"}', "line 51, field score: expected a number, found 'x'"),
        ("", ""),
    ],
)
def test_blank_lines_change_nothing_and_a_fault_of_jsonl_has_its_line(line, message, tmp_path):
    good = [json.dumps(dict(zip(("user", "item", "score"), row.split(","), strict=True))) for row in GOOD]
    for name, lines in (
        ("a.jsonl", good),
        ("b.jsonl", [*good, "", " ", line, ""]),
        ("c.csv", ["user,item,score", *GOOD, ""]),
    ):
        (tmp_path / name).write_text("".join(f"{text}\n" for text in lines))
    expected = read_scores(tmp_path / "a.jsonl", NAMED)
    np.testing.assert_array_equal(read_scores(tmp_path / "c.csv", NAMED).value, expected.value)
    if message:
        with pytest.raises(DataError, match=rf"b\.jsonl, {message}"):
            read_scores(tmp_path / "b.jsonl", NAMED)
    else:
        np.testing.assert_array_equal(read_scores(tmp_path / "b.jsonl", NAMED).value, expected.value)


def with_cell(value):
    score_ui = SCORES_UI.copy()
    score_ui[2, 4] = value
    return score_ui


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (
            "a.npy",
            SCORES_UI.T,
            r"expected numbers \[users, items\] = \[12, 30\], found float64 \[30, 12\]; it may",
        ),
        ("a.npy", SCORES_UI[:-1], r"expected numbers \[users, items\] = \[12, 30\], found float64 \[11, 30\]$"),
        ("a.npy", with_cell(np.nan), r"row 3 \(user 'user-2'\), column 5 \(item 'B004'\): .*found nan \(1 such\)"),
        ("a.npy", with_cell(np.inf), "row 3 .*: expected a number, found inf"),
        ("a.npy", SCORES_UI.astype(str), "expected numbers .*, found <U"),
        ("a.mat", SCORES_UI, r"expected one of \.npy, \.npz, \.csv, \.tsv, \.jsonl, \.parquet, found \.mat"),
    ],
)
def test_a_fault_of_a_matrix_is_one_line_with_its_place(name, array, message, tmp_path):
    with (tmp_path / name).open("wb") as stream:
        np.save(stream, array)
    with pytest.raises(DataError, match=message):
        read_scores(tmp_path / name, NAMED)


def test_what_is_no_file_of_scores_is_said(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"x")
    (tmp_path / "b.jsonl").write_text("{")
    np.savez(tmp_path / "c.npz", other=SCORES_UI)
    for name, message in (
        ("a.npy", "expected arrays of NumPy"),
        ("b.jsonl", r"b\.jsonl, line 1: expected a JSON object, found { \("),
        ("c.npz", "expected an array scores, found other"),
        ("d.csv", "expected a file of scores, found none"),
    ):
        with pytest.raises(DataError, match=message):
            read_scores(tmp_path / name, PLAIN)


def test_a_frame_is_read_by_its_labels():
    """As a pivot of a list has them, in whatever order."""
    pd = pytest.importorskip("pandas")
    expected = fedvlr_jax.judge_scores(NAMED, SCORES_UI)
    frame = pd.DataFrame(SCORES_UI, index=NAMED.user_ids, columns=NAMED.item_ids)
    assert fedvlr_jax.judge_scores(NAMED, frame.iloc[::-1, np.random.default_rng(3).permutation(30)]) == expected
    assert fedvlr_jax.judge_scores(NAMED, pd.DataFrame(SCORES_UI)) == expected  # labels that count say nothing
    with pytest.raises(DataError, match="row 1, field users: expected an id of the data set, found 'nobody'"):
        fedvlr_jax.judge_scores(NAMED, frame.rename(index={NAMED.user_ids[0]: "nobody"}))


def test_a_matrix_in_memory_has_the_result_of_its_file(tmp_path):
    np.save(tmp_path / "scores.npy", SCORES_UI)
    in_memory = fedvlr_jax.judge_scores(PLAIN, SCORES_UI)
    assert in_memory == fedvlr_jax.judge_scores(PLAIN, str(tmp_path / "scores.npy"))
    assert in_memory == judge(read_scores(tmp_path / "scores.npy", PLAIN), PLAIN).result
    with pytest.raises(DataError, match=r"scores: expected numbers \[users, items\] = .*it may be transposed"):
        fedvlr_jax.judge_scores(PLAIN, SCORES_UI.T)
