"""The files of a finished benchmark: tables, pictures, and one page with everything."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from fedvlr_jax.benchmark import groups, list_tables, table, tables
from fedvlr_jax.benchmark.contrasts import Contrast, make_contrasts
from fedvlr_jax.benchmark.formats import latex, markdown
from fedvlr_jax.benchmark.notes import make_notes
from fedvlr_jax.benchmark.plots import draw_all
from fedvlr_jax.benchmark.records import MethodRuns
from fedvlr_jax.io.environment import earlier_code
from fedvlr_jax.io.files import write_bytes, write_csv
from fedvlr_jax.report.facts import data_facts, environment_facts
from fedvlr_jax.report.pages import Picture, render
from fedvlr_jax.report.tables import Table, without_empty_columns
from fedvlr_jax.types import Dataset

TABLE_COLUMNS = ("method", "metric", "mean", "std", "ci_low", "ci_high", "published")
GROUP_COLUMNS = ("method", "grouping", "group", "rows", "metric", "mean")
TEST_COLUMNS = ("method", "against", "difference", "effect_size", "better", "worse", "p", "p_holm", "verdict")


def write_report(
    methods: Sequence[MethodRuns],
    dataset: Dataset,
    workdir: pathlib.Path,
    environment: Mapping[str, Any],
    cuts: Sequence[str] = (),
) -> str:
    """Writes all files of a benchmark's report, each in one step.

    ``table.csv``, ``tests.csv`` and ``groups.csv`` hold fractions in full precision, and so does
    ``calibration.csv``, where whole lists were judged; ``table.md``, ``table.tex``,
    ``groups.md``, ``plots/*.png`` and ``report.html`` percent.

    Args:
      methods: all methods, those without a finished run included; their names are distinct.
      dataset: what they were run on.
      workdir: an existing folder.
      environment: as `io.environment.describe_environment` gives it; "date" (ISO) is the day of the runs, today if
        it is missing.
      cuts: sentences about what was left out or cut.

    Returns:
      The text of ``table.md``.

    Raises:
      ValueError: if two methods share a name, or one was ranked on other held-out items than the data set's.
    """
    rows = table.make_rows(methods, dataset)
    contrasts = make_contrasts(methods)
    groupings = groups.make_groups(methods, dataset)
    notes = [*cuts, *make_notes(rows, dataset, environment), *earlier_code(workdir, environment)]
    pictures = draw_all(rows, groupings)

    main = tables.main_table(rows, dataset.name)
    others = [tables.test_table(contrasts), tables.cutoff_table(rows), *tables.set_tables(rows)]
    others += list_tables.list_tables(rows)
    others.append(tables.cost_table(rows))
    others.append(tables.failure_table(rows))
    by_group = tables.group_tables(groupings, rows)
    title = f"FedVLR benchmark: {dataset.name}"

    write_csv(workdir / "table.csv", TABLE_COLUMNS, table.long_rows(rows))
    write_csv(workdir / "tests.csv", TEST_COLUMNS, map(_test_row, contrasts))
    write_csv(workdir / "groups.csv", GROUP_COLUMNS, groups.long_rows(groupings))
    if calibration := list(list_tables.calibration_rows(rows)):
        write_csv(workdir / "calibration.csv", list_tables.CALIBRATION_COLUMNS, calibration)
    text = markdown(title, [main, *others], notes)
    write_bytes(workdir / "table.md", text.encode())
    write_bytes(workdir / "table.tex", latex(main, notes).encode())
    write_bytes(workdir / "groups.md", markdown(f"{title}, groups of test rows", by_group).encode())
    (workdir / "plots").mkdir(exist_ok=True)
    for picture in pictures:
        write_bytes(workdir / "plots" / picture.file, picture.png)
    page = render(
        "benchmark.html",
        title=title,
        head=[*data_facts(dataset), ("Commit", environment.get("commit")), ("Date", environment.get("date"))],
        files=("table.csv", "tests.csv", "groups.csv", "table.md", "table.tex"),
        titles=_titles(shown := [*map(without_empty_columns, [main, *others, *by_group])], pictures),
        tables=shown,
        chosen=tables.chosen_settings(rows),
        pictures=pictures,
        notes=notes,
        environment=environment_facts(environment),
    )
    write_bytes(workdir / "report.html", page.encode())
    return text


def _titles(shown: Sequence[Table], pictures: Sequence[Picture]) -> list[str]:
    """The headings of the page in their order."""
    main, *others = (found.title for found in shown)
    return [main, *(picture.title for picture in pictures), *others, "Notes", "Environment"]


def _test_row(contrast: Contrast) -> tuple:
    result = contrast.result
    sizes = (result.difference, result.effect_size, result.better, result.worse, result.p_value)
    return contrast.method, contrast.against, *sizes, contrast.p_holm, contrast.verdict
