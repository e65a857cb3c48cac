"""What the report shows, as tables of text cells; how they are written down is left to `formats` and `report.pages`.

Values are in percent. A cell ``**x**`` is emphasised; a hyphen means that there is no such number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fedvlr_jax.benchmark import order
from fedvlr_jax.benchmark.contrasts import Contrast
from fedvlr_jax.benchmark.groups import RowGroups
from fedvlr_jax.benchmark.published import PAPER_METRICS, equals_constant
from fedvlr_jax.benchmark.table import CONSTANT_RATE, TIE_RATE, Estimate, TableRow
from fedvlr_jax.evaluation.metrics import CUTOFFS, SELECTION_METRIC, main_metrics, printed_metrics, set_metrics
from fedvlr_jax.report.tables import NOTHING, Table, TableBlock, percent, with_spread

_WITH_BEST = (order.PAPER, order.FURTHER, order.CENTRAL)  # blocks whose highest mean is emphasised
BELOW_POPULARITY, NOT_FINITE, SOME_FAILED, LIKE_A_CONSTANT = "†", "§", "¶", "‡"
"""Marks behind names of methods and published numbers."""


def main_table(rows: Sequence[TableRow], dataset_name: str) -> Table:
    """The headline: the main metrics with spread and interval, published numbers, warm and cold rows, ties."""
    sure = main_metrics()
    plain = [f"{group} {m}" for group in ("warm", "cold") for m in sure]
    best = {(b, m): _best([row for row in rows if row.block == b], m) for b in _WITH_BEST for m in sure}

    def cells(row: TableRow) -> tuple[str, ...]:
        if not row.method.seeds:
            full = ["failed", *(NOTHING for _ in sure[1:])]
        else:
            full = [_emphasise(_full(row.scores[m]), row.method.name == best.get((row.block, m))) for m in sure]
        mark = f" {LIKE_A_CONSTANT}" if equals_constant(dataset_name, row.method.name) else ""
        known = [row.scores[m].published for m in PAPER_METRICS]
        return (
            _marked(row),
            *full,
            *(NOTHING if value is None else f"{percent(value)}{mark}" for value in known),
            *(short(row.scores[m]) for m in (*(f"test_{m}" for m in plain), f"valid {SELECTION_METRIC}")),
            *(percent(row.scores[m].mean) for m in (TIE_RATE, CONSTANT_RATE)),
        )

    columns = ("method", *sure, *(f"{m} published (see note)" for m in PAPER_METRICS))
    columns += (*plain, f"validation {SELECTION_METRIC}", "tied", "constant")
    about = "Test rows, percent: mean ± standard deviation over seeds [95 % interval over users and seeds]. "
    about += "The highest mean of a block is bold, among controls none."
    return Table("Results", about, columns, blocks_of(rows, cells))


def cutoff_table(rows: Sequence[TableRow]) -> Table:
    """The metrics at the smaller cut-offs."""
    metrics = printed_metrics(*CUTOFFS[:-1])
    about = "Test rows, percent, as above."
    shown = [row for row in rows if row.method.seeds]
    return Table(
        "Shorter lists",
        about,
        ("method", *metrics),
        blocks_of(shown, lambda row: (row.method.name, *(_full(row.scores[m]) for m in metrics))),
    )


def set_tables(rows: Sequence[TableRow]) -> list[Table]:
    """Recall, Precision and MAP, where some user has several held-out rows."""
    shown = [row for row in rows if row.method.seeds]
    metrics = [m for m in set_metrics(True, *CUTOFFS) if any(m in row.scores for row in shown)]
    if not metrics:
        return []
    about = "All test rows of a user as the relevant set of one list, percent, as above; HR and NDCG rank each row "
    about += "without the user's other test rows."
    blocks = blocks_of(shown, lambda row: (row.method.name, *(_full(row.scores[m]) for m in metrics)))
    return [Table("Several rows a user", about, ("method", *metrics), blocks)]


def test_table(contrasts: Sequence[Contrast]) -> Table:
    """The paired tests, one line each."""
    columns = ("method", "against", "difference", "effect size d_z", "users better", "users worse", "p", "p (Holm)")
    rows = [
        (
            c.method,
            c.against,
            f"{100 * c.result.difference:+.2f}",
            NOTHING if c.result.effect_size is None else f"{c.result.effect_size:+.2f}",
            percent(c.result.better),
            percent(c.result.worse),
            _p_value(c.result.p_value),
            _p_value(c.p_holm),
            c.verdict,
        )
        for c in contrasts
    ]
    about = f"{SELECTION_METRIC} of the test rows, percentage points, users paired. "
    about += f"{len(rows)} tests, corrected together (Holm); the verdict is at the level 0.05 after the correction."
    return Table(
        "Tests",
        about if rows else "There is no pair of methods to compare.",
        (*columns, "verdict"),
        [TableBlock("", rows)],
        left=2,
    )


def cost_table(rows: Sequence[TableRow]) -> Table:
    """What was chosen, and what each method costs."""

    def cells(row: TableRow) -> tuple[str, ...]:
        method = row.method
        return (
            method.name,
            _chosen(row) or NOTHING,
            str(method.points),
            ", ".join(map(str, method.seeds)) or NOTHING,
            ", ".join(map(str, method.best_rounds)) or NOTHING,
            NOTHING if method.num_public is None else f"{method.num_public:,}",
            NOTHING if method.num_private_per_client is None else f"{method.num_private_per_client:,}",
            _number(method.megabytes_per_round),
            _number(row.megabytes),
            f"{method.seconds:,.0f}",
        )

    columns = ("method", "chosen on validation", "grid points", "seeds", "best round or epoch", "public parameters")
    columns += ("private parameters per client", "MB per round", "MB to the best round", "seconds")
    about = "MB: 10^6 bytes between the server and all clients of a round, both directions. "
    about += (
        "Seconds: what is formed before the rounds, training, evaluation and compilation of all runs, the search "
    )
    about += "included."
    return Table("Settings and costs", about, columns, blocks_of(rows, cells), left=2)


def chosen_settings(rows: Sequence[TableRow]) -> dict[str, str]:
    """What validation chose, by the first cell of a method's row of the main table; without what chose nothing."""
    return {_marked(row): _chosen(row) for row in rows if _chosen(row)}


def failure_table(rows: Sequence[TableRow]) -> Table:
    """Every run that failed, and why."""
    lines = [(row.method.name, reason) for row in rows for reason in row.method.failures]
    about = "Runs that did not finish; their seeds are missing from the numbers above."
    return Table(
        "Failures", about if lines else "No run failed.", ("method", "reason"), [TableBlock("", lines)], left=2
    )


def group_tables(groupings: Sequence[RowGroups], rows: Sequence[TableRow]) -> list[Table]:
    """One table for each grouping of the test rows."""
    titles = {
        "warmth": ("Warm and cold items", "Whether the held-out item occurs in the train rows."),
        "history": ("Length of the history", "Train rows of the user."),
        "popularity": ("Popularity of the item", "Items by train rows, least popular tenth first."),
    }
    shown, tables = "/".join(main_metrics()), []
    for groups in groupings:
        title, about = titles[groups.grouping]
        columns = [f"{name} ({size} rows)" for name, size in zip(groups.names, groups.sizes, strict=True)]
        blocks = blocks_of(
            [row for row in rows if row.method.seeds], lambda row, groups=groups: _group_cells(row, groups)
        )
        tables.append(Table(title, f"{about} {shown} of the test rows, percent.", ("method", *columns), blocks))
    return tables


def _group_cells(row: TableRow, groups: RowGroups) -> tuple[str, ...]:
    means = [groups.means[row.method.name][metric] for metric in main_metrics()]
    return row.method.name, *("/".join(map(percent, pair)) for pair in zip(*means, strict=True))


def blocks_of(rows: Sequence[TableRow], cells: Callable[[TableRow], tuple[str, ...]]) -> list[TableBlock]:
    """The rows under the headings of their blocks; no heading for a block without rows."""
    blocks = [TableBlock(name, [cells(row) for row in rows if row.block == name]) for name in order.BLOCKS]
    return [block for block in blocks if block.rows]


def _chosen(row: TableRow) -> str:
    return ", ".join(f"{name}={_number(value)}" for name, value in row.method.hyper.items())


def _best(rows: Sequence[TableRow], metric: str) -> str | None:
    """The method with the highest mean, if there is any."""
    known = [row for row in rows if row.scores[metric].mean is not None]
    return max(known, key=lambda row: row.scores[metric].mean).method.name if known else None


def _marked(row: TableRow) -> str:
    marks = [
        (BELOW_POPULARITY, row.below_popularity),
        (NOT_FINITE, row.nonfinite_users > 0),
        (SOME_FAILED, bool(row.method.failures)),
    ]
    return " ".join([row.method.name, *(mark for mark, holds in marks if holds)])


def _full(estimate: Estimate) -> str:
    """Mean, standard deviation and interval."""
    if estimate.mean is None:
        return NOTHING
    interval = "" if estimate.low is None else f" [{percent(estimate.low)}, {percent(estimate.high)}]"
    return f"{short(estimate)}{interval}"


def short(estimate: Estimate) -> str:
    """Mean, and standard deviation where there is one."""
    return with_spread(estimate.mean, estimate.std)


def _emphasise(cell: str, best: bool) -> str:
    return f"**{cell}**" if best and cell != NOTHING else cell


def _p_value(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _number(value: object) -> str:
    if value is None:
        return NOTHING
    return f"{value:.4g}" if isinstance(value, float) else str(value)
