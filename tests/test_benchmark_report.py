"""The files of a benchmark: complete, readable back, safe to open, and written whatever is missing."""

from __future__ import annotations

import base64
import dataclasses
import io
import re

import numpy as np
import pytest
from benchmark_records import make_curve, make_method, whole_benchmark
from html_pages import read_page
from PIL import Image
from ranking_oracle import random_dataset

from fedvlr_jax.benchmark import plots_elements, tables
from fedvlr_jax.benchmark.formats import latex, latex_escape, markdown
from fedvlr_jax.benchmark.records import CONTROL, FEDERATED
from fedvlr_jax.benchmark.report import TABLE_COLUMNS, write_report
from fedvlr_jax.benchmark.table import make_rows, metric_columns
from fedvlr_jax.io.files import read_csv
from fedvlr_jax.report.tables import Table, TableBlock

ENVIRONMENT = {
    "command": ["experiments/benchmark.py", "--config=configs/benchmark/ku.py"],
    "workdir": "/somewhere/private",
    "commit": "0123abc",
    "python": "3.11.7",
    "packages": {"jax": "0.10.2", "absent": None},
    "devices": ["cpu"],
    "date": "2026-01-31",
}
FILES = ("table.csv", "tests.csv", "groups.csv", "table.md", "table.tex", "groups.md", "report.html")
PICTURES = ("bars.png", "communication.png", "history.png", "learning_curves.png")


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(90, 4)).astype(np.float32)
    return dataclasses.replace(random_dataset(0, 60, 90, density=0.15), name="KU", V=features, C=features)


@pytest.fixture(scope="module")
def methods(dataset):
    fedease = make_method(dataset, "fedease", FEDERATED, skill=0.6, trained=False)._replace(host="", best_rounds=(1,))
    return [*whole_benchmark(dataset, seeds=(0, 1, 2)), fedease]


@pytest.fixture(scope="module")
def some_rows(methods, dataset):
    """Of one host, its controls, and everything without a host."""
    return {row.method.name: row for row in make_rows([m for m in methods if m.host in ("fcf", "")], dataset)}


@pytest.fixture(scope="module")
def workdir(methods, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    write_report(methods, dataset, folder, ENVIRONMENT)
    return folder


@pytest.mark.slow
def test_every_file_is_there_and_nothing_half_written(workdir):
    assert sorted(p.relative_to(workdir).as_posix() for p in workdir.rglob("*") if p.is_file()) == sorted(
        [*FILES, *(f"plots/{name}" for name in PICTURES)]
    )


@pytest.mark.slow
def test_the_csv_table_reads_back_to_the_bit(workdir, methods, some_rows):
    lines = read_csv(workdir / "table.csv")
    assert tuple(lines[0]) == TABLE_COLUMNS == ("method", "metric", "mean", "std", "ci_low", "ci_high", "published")
    read = {
        (line.pop("method"), line.pop("metric")): tuple(float(x) if x else None for x in line.values())
        for line in lines
    }
    assert len(read) == len(lines) == len(methods) * (len(metric_columns()) + 2)
    for row in some_rows.values():
        for name, estimate in row.scores.items():
            assert read[row.method.name, name] == tuple(estimate)
    assert read["local_mlp", "NDCG@50"] == (None,) * 5
    assert read["fcf+fedvlr", "HR@50"][-1] == 0.5539
    assert 0 < read["ease", "HR@50"][2] < read["ease", "HR@50"][0] < read["ease", "HR@50"][3] < 1


@pytest.mark.slow
def test_tests_and_groups_are_written_for_machines_too(workdir):
    tests, groups = read_csv(workdir / "tests.csv"), read_csv(workdir / "groups.csv")
    assert len(tests) == 5 * 4 + 2 + 1
    assert all(float(t["p"]) <= float(t["p_holm"]) <= 1 for t in tests)
    assert {g["grouping"] for g in groups} == {"warmth", "history", "popularity"}
    assert "local_mlp" not in {g["method"] for g in groups}


@pytest.mark.slow
def test_the_markdown_table_says_what_everything_is(workdir, methods, some_rows):
    text = (workdir / "table.md").read_text()
    head, *lines = [line for line in text.splitlines() if line.startswith("|")]
    assert "HR@50 published (see note)" in head
    cells = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]]
        for line in lines[: len(methods) + 6]
    }
    score = some_rows["fcf+fedvlr"].scores["HR@50"]
    low, high = f"{100 * score.low:.2f}", f"{100 * score.high:.2f}"
    shown = f"{100 * score.mean:.2f} ± {100 * score.std:.2f} [{low}, {high}]"
    assert cells["fcf+fedvlr"][0].strip("*") == shown
    assert cells["fcf+fedvlr"][2:4] == ["55.39 ‡", "15.97 ‡"]
    assert cells["fcf+base"][2:4] == ["22.55", "6.43"]
    assert re.fullmatch(r"\**[\d.]+ \[[\d.]+, [\d.]+\]\**", cells["ease"][0])  # one seed: no ±
    assert cells["local_mlp ¶"] == ["failed", *["-"] * 10]
    assert "constant †" in cells
    for words in (
        "order of equal scores",
        "validation NDCG@50 alone",
        "seeds a method: 1 or 3",
        "equals, to the digit",
        "python -m pytest tests/test_evaluation_real.py",
        "2026-01-31 with Python 3.11.7; packages jax 0.10.2;",
        "0123abc",
        "seed 0: the loss was not finite at round 3",
        "23 tests, corrected together (Holm)",
    ):
        assert words in text, words
    widths = [line.count(" | ") for line in text.splitlines() if line.startswith("| f")]
    assert set(widths) == {11, 8, 4, 9}  # results, tests, shorter lists, settings


@pytest.mark.slow
def test_latex_is_escaped_and_every_row_has_every_column(workdir):
    text = (workdir / "table.tex").read_text()
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert len(rows) == 21 + 1 + 30 + 14 + 1
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {11}
    assert r"\begin{tabular}{lrrrrrrrrrrr}" in text
    assert r"item\_knn" in text
    assert not re.search(r"(?<!\\)[_#%]", body)
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert all(line.startswith("%") for line in text[: text.index(r"\begin")].splitlines())


def test_latex_escaping():
    assert latex_escape(r"a_b & 5% $x$ #1 {y} ~ ^ \z <|>") == (
        r"a\_b \& 5\% \$x\$ \#1 \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}z "
        r"\textless{}\textbar{}\textgreater{}"
    )
    assert latex_escape("1 ± 2 † ‡ § ¶") == r"1 $\pm$ 2 \dag{} \ddag{} \S{} \P{}"


def test_cells_cannot_break_a_table():
    table = Table("T", "About.", ("a", "b"), [TableBlock("", [("x | y\nz", "**<b>5_%**")])])
    assert r"| x \| y z | **&lt;b>5_%** |" in markdown("M", [table])
    assert r"x \textbar{} y z & \textbf{\textless{}b\textgreater{}5\_\%} \\" in latex(table).replace("\n", " ")


@pytest.mark.slow
def test_the_page_is_complete_and_needs_no_network(workdir):
    text = (workdir / "report.html").read_text()
    page = read_page(text, workdir)
    shown = [base64.b64decode(source.partition(",")[2]) for source in page.images]
    assert sorted(shown) == sorted((workdir / "plots" / name).read_bytes() for name in PICTURES)
    assert "/somewhere/private" not in text
    markdown_rows = sum(
        line.startswith("| ") and not line.startswith("| -")
        for name in ("table.md", "groups.md")
        for line in (workdir / name).read_text().splitlines()
    )
    assert len(page.rows) == markdown_rows
    assert {"table.csv", "tests.csv", "groups.csv"} <= set(page.targets)


@pytest.mark.slow
def test_the_page_has_the_data_and_the_commit_in_its_head_and_chosen_settings_at_their_row(workdir, some_rows):
    text = (workdir / "report.html").read_text()
    head = text[: text.index("<nav>")]
    for words in ("KU", "60", "90", "0123abc", "2026-01-31", "Gini"):
        assert words in head, words
    chosen = tables.chosen_settings([some_rows["fcf+fedvlr"]])["fcf+fedvlr"]
    assert f"<details><summary>fcf+fedvlr</summary><code>{chosen}</code></details>" in text
    assert "± n/a" not in text


def test_columns_without_any_number_are_not_on_the_page(dataset, tmp_path):
    one = [make_method(dataset, "ease"), make_method(dataset, "popularity")]  # no paper has these, no megabytes
    write_report(one, dataset, tmp_path, ENVIRONMENT)
    text = (tmp_path / "report.html").read_text()
    assert "published (see note)" not in text
    assert "MB per round" not in text
    assert "published (see note)" in (tmp_path / "table.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_small_and_not_empty(workdir, name):
    content = (workdir / "plots" / name).read_bytes()
    assert len(content) < 200_000
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG"
        assert 800 <= image.width <= 1600
        assert np.asarray(image.convert("L")).std() > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
def test_pictures_keep_their_colours_apart(name, workdir):
    with Image.open(workdir / "plots" / name) as image:
        pixels = np.asarray(image.convert("RGB"), int).reshape(-1, 3)
    colours = ("#0072B2", "#D55E00", "#009E73") if name == "bars.png" else ("#E69F00", "#009E73", "#D55E00")
    for colour in colours:
        wanted = np.array([int(colour[c : c + 2], 16) for c in (1, 3, 5)])
        assert (np.abs(pixels - wanted).max(axis=1) <= 16).sum() > 200, colour


def test_curves_are_means_over_the_rounds_of_all_seeds():
    curves = [make_curve(0, points=6), make_curve(1, points=4), ()]
    line = plots_elements.over_seeds(curves, lambda p: p.megabytes, lambda c: [p.valid["NDCG@50"] for p in c])
    values = np.array([[100 * p.valid["NDCG@50"] for p in curve[:4]] for curve in curves[:2]])
    np.testing.assert_allclose(line.x, [p.megabytes for p in curves[1]])
    np.testing.assert_allclose([line.mean, line.low, line.high], [values.mean(0), values.min(0), values.max(0)])
    assert plots_elements.over_seeds([(), ()], lambda p: p.round, lambda c: []) is None
    assert (
        plots_elements.over_seeds([curves[0][:1], curves[0][1:]], lambda p: p.round, lambda c: [0.0] * len(c)) is None
    )


def test_best_so_far_follows_validation_ndcg():
    curve = make_curve(0, points=3)
    pairs = zip(curve, ((0.1, 0.9), (0.3, 0.5), (0.2, 0.8)), strict=True)
    curve = [p._replace(valid={"NDCG@50": ndcg, "HR@50": hit}) for p, (ndcg, hit) in pairs]
    assert plots_elements.best_so_far(curve, "HR@50") == [0.9, 0.5, 0.5]


def all_failed(dataset):
    return dataset, [make_method(dataset, "fcf+fedvlr", FEDERATED, seeds=(), failures=["seed 0: out of memory"])]


def few_users(dataset):
    dataset = random_dataset(3, 8, 30)
    return dataset, [make_method(dataset, f"fcf+{v}", FEDERATED, seeds=(0, 1)) for v in ("base", "fedvlr")]


def no_test_rows(dataset):
    dataset = dataclasses.replace(dataset, test_item=np.full(60, -1))
    return dataset, [make_method(dataset, "fcf+base", FEDERATED), make_method(dataset, "ease")]


def no_modality(dataset):
    dataset = dataclasses.replace(dataset, name="mine", V=None)
    return dataset, [make_method(dataset, "fcf+fedvlr", FEDERATED), make_method(dataset, "popularity", skill=0.9)]


def one_seed_left(dataset):
    method = make_method(dataset, "fcf+fedvlr", FEDERATED, seeds=(3,), failures=["seed 0: stopped | at <round> 3"])
    infinite = method.ranks[0]._replace(nonfinite=np.ones(60, np.int32))
    control = make_method(dataset, "fcf+fedvlr, shuffled features", CONTROL, seeds=(3,))
    return dataset, [method._replace(ranks=(infinite,)), control]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "said"),
    [
        (all_failed, ["| failed", "seed 0: out of memory", "There is no pair of methods to compare."]),
        (few_users, ["No intervals: they need at least 20 users, the set has 8 test rows."]),
        (no_test_rows, ["0 test rows", "no pair of methods"]),
        (
            no_modality,
            [
                "The set has no visual features.",
                "No controls were run.",
                "no numbers for these methods on mine",
                "fcf+fedvlr †",
                "No control with shuffled features for fcf.",
            ],
        ),
        (
            one_seed_left,
            ["fcf+fedvlr § ¶", r"stopped \| at &lt;round> 3", "No control with random features for fcf."],
        ),
    ],
)
def test_what_is_missing_is_said_and_the_report_is_written(case, said, dataset, tmp_path):
    dataset, methods = case(dataset)
    write_report(methods, dataset, tmp_path, {})
    text = (tmp_path / "table.md").read_text()
    for words in said:
        assert words in text, words
    assert {path.name for path in tmp_path.iterdir()} == {*FILES, "plots"}
    assert {line["method"] for line in read_csv(tmp_path / "table.csv")} == {method.name for method in methods}
