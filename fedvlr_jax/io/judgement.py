"""The text that says what scores of a file are worth, and how they compare with runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from fedvlr_jax.data.score_files import ORDERED
from fedvlr_jax.evaluation.comparison import Comparison
from fedvlr_jax.evaluation.intervals import LEAST_USERS
from fedvlr_jax.io.tables import list_tables, summary_table

TEST_COLUMNS = ("against", "metric", "difference", "effect_size", "better", "worse", "p", "p_holm")


def comparison_row(run: str, metric: str, result: Comparison, p_holm: float) -> tuple[Any, ...]:
    """One test, as `TEST_COLUMNS`; fractions."""
    sizes = (result.difference, result.effect_size, result.better, result.worse, result.p_value)
    return run, metric, *sizes, p_holm


def judgement_text(
    name: str,
    result: Mapping[str, Any],
    runs: Sequence[tuple[str, Mapping[str, Any]]],
    tests: Sequence[tuple[Any, ...]],
) -> str:
    """What a reader sees.

    Args:
      name: of the scores.
      result: `analysis.judging.Judged.result`.
      runs: names and results of the runs beside them.
      tests: rows of `TEST_COLUMNS`.
    """
    least, most = result["listed_least"], result["listed_most"]
    lines = [
        f"{result['dataset']}, a {result['form']} with scores of {least if least == most else f'{least} to {most}'} "
        f"candidates a user; {result['ignored_train_rows']:,} scores of train items are ignored"
    ]
    if result["form"] == ORDERED:
        lines.append("there is no column score or rank: the order of the lines says what is better, best first")
    if result["unlisted_rows"]:
        lines.append(
            f"{100 * result['unlisted_rows']:.1f} % of the test rows have an item without a score: those rank behind "
            "all others, tied"
        )
    lines += ["test rows, tie-exact; percent", summary_table([(name, result), *runs])]
    spans = [f"{metric} [{100 * low:.2f}, {100 * high:.2f}]" for metric, (low, high) in result["intervals"].items()]
    lines.append(f"95 % over users: {', '.join(spans) or f'no interval, which needs {LEAST_USERS} users'}")
    lines.append(list_tables(result["lists"]))
    if tests:
        lines.append(f"{name} minus each run, percentage points; users paired, {len(tests)} tests corrected together")
        lines.append(tabulate(map(_shown, tests), _HEADS, floatfmt=_FORMATS, missingval="-"))
    return "\n".join(lines)


_HEADS = ("against", "metric", "difference", "d_z", "users better", "users worse", "p", "p (Holm)")
_FORMATS = ("", "", "+.2f", "+.2f", ".1f", ".1f", ".4f", ".4f")
_SCALES = (100, 1, 100, 100, 1, 1)


def _shown(row: Sequence[Any]) -> tuple[Any, ...]:
    """A test with its shares in percent."""
    numbers = zip(row[2:], _SCALES, strict=True)
    return (*row[:2], *(None if x is None else scale * x for x, scale in numbers))
