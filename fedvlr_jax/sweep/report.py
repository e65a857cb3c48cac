"""The files of a sweep: the table of its points, the settings of the best one, a picture, and a page with it all."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from fedvlr_jax.benchmark.formats import markdown
from fedvlr_jax.benchmark.guarantees import ADD_UP, Worth
from fedvlr_jax.benchmark.records import is_last
from fedvlr_jax.benchmark.searching import at_ends
from fedvlr_jax.benchmark.storage import Stored
from fedvlr_jax.evaluation.metrics import SELECTION_METRIC, main_metrics
from fedvlr_jax.io.environment import earlier_code
from fedvlr_jax.io.files import write_bytes, write_csv, write_json
from fedvlr_jax.report import charts
from fedvlr_jax.report.charts import Series
from fedvlr_jax.report.facts import Facts, changed_settings, data_facts, environment_facts
from fedvlr_jax.report.pages import Picture, render
from fedvlr_jax.report.tables import NOTHING, Table, TableBlock, with_spread, without_empty_columns
from fedvlr_jax.sweep.guarantees import say_worth, worth_of_points
from fedvlr_jax.sweep.layout import name_points
from fedvlr_jax.sweep.leaderboard import LeaderboardRow, Spread, choose, make_leaderboard, tested
from fedvlr_jax.sweep.plots import draw_parallel
from fedvlr_jax.sweep.runner import Found
from fedvlr_jax.sweep.runs import SweepRuns, SweepStore
from fedvlr_jax.sweep.space import Sweep, SweepPoint

MOST_CURVES = 6  # more lines cannot be told apart

HELD_OUT = ("num_users", "num_items", "valid_item", "held_user", "train_user", "train_item")
"""What of a fingerprint decides among which candidates which validation rows are ranked."""

NOTES = (
    f"Points are ranked by the mean over seeds of validation {SELECTION_METRIC} at the best round of each run; the "
    "first of equals wins. Test rows chose nothing, and are looked at for the chosen point alone.",
    "A point of which a seed failed or has not run comes last. ±: sample standard deviation over seeds, "
    "absent with one. Metrics are tie-exact.",
)


def write_report(
    sweep: Sweep,
    found: Found,
    store: SweepStore,
    *,
    title: str,
    train: Sequence[str],
    base: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> str:
    """Writes ``table.csv`` (fractions in full precision), ``table.md`` (percent), ``best.json``, ``parallel.png``
    and ``report.html``.

    Args:
      sweep: what was swept.
      found: its points and their runs.
      store: the folder of the sweep, its settings and data sets.
      title: of the page.
      train: the start of the command line that trains the best point, up to its --config=FILE.
      base: dotted fields in which the swept configuration differs from that file.
      environment: of this call, as of `io.environment.describe_environment`.

    Returns:
      The text of ``table.md``, best point first.
    """
    workdir = store.workdir
    leaderboard = make_leaderboard(sweep, found.points, found.runs)
    best = choose(leaderboard)
    test = tested(best, found.runs) if best else {}
    worth = worth_of_points(store, found.points)
    summary = best_point(best, test, leaderboard, worth, train=train, base=base)
    write_csv(workdir / "table.csv", *csv_table(leaderboard, best, test, worth))
    write_json(workdir / "best.json", summary)
    advice = f"To train the best point: `{summary['command']}`" if best else "No point has a value at every seed."
    about_best = [*ends_of(best, leaderboard, sweep), *still_gaining(best, found.runs)]
    about_all = [*mixed_rows(store, found.points), *say_worth(worth), *earlier_code(workdir, environment)]
    notes = [advice, *NOTES, *about_best, *about_all]
    table = text_table(leaderboard, best, test, worth)
    text, drawn = markdown(title, [table], notes), draw_parallel(leaderboard)
    write_bytes(workdir / "table.md", text.encode())
    write_bytes(workdir / "parallel.png", drawn)
    page = render(
        "sweep.html",
        title=title,
        datasets=list(map(data_facts, store.datasets.all())),
        files=("table.csv", "best.json", "table.md"),
        table=without_empty_columns(table),
        chart=curves(leaderboard, found.runs),
        picture=Picture("parallel.png", "All points", "One line a point, one axis a field.", drawn),
        notes=notes,
        settings=changed_settings(store.settings),
        times=times(found.runs),
        environment=environment_facts(environment),
        commands=[summary["command"]] if best else [],
    )
    write_bytes(workdir / "report.html", page.encode())
    return text


def ends_of(best: LeaderboardRow | None, leaderboard: Sequence[LeaderboardRow], sweep: Sweep) -> list[str]:
    """A sentence where the best point is at an end of a grid; points that were drawn have no ends."""
    if best is None or sweep.kind != "grid":
        return []
    fields = {field: value for field, value in best.point.items() if field != "seed"}
    ends = at_ends(fields, [row.point for row in leaderboard])
    return [f"The best point is at an end of the grid, which may go on: {'; '.join(ends)}."] if ends else []


def still_gaining(best: LeaderboardRow | None, runs: SweepRuns) -> list[str]:
    """A sentence where runs of the best point were best at the last round that they were given."""
    stored = [run for seed in best.seeds if isinstance(run := runs[best.index, seed], Stored)] if best else []
    at_last = sum(is_last(run.curve, run.result["best_round"]) for run in stored)
    if not at_last:
        return []
    of_all = f"{at_last} of {len(stored)} seeds"
    return [f"The best point was best at the last round with {of_all}: longer training may do better."]


def mixed_rows(store: SweepStore, points: Sequence[SweepPoint]) -> list[str]:
    """A sentence where points were ranked on different held-out rows, which their order says nothing about."""
    of_rows: dict[tuple, list[int]] = {}
    for k, point in enumerate(points):
        known = store.datasets.fingerprint(store.settings_of(point))
        of_rows.setdefault(tuple(known.get(name) for name in HELD_OUT), []).append(k)
    if len(of_rows) == 1:
        return []
    groups = "; ".join(map(name_points, of_rows.values()))
    return [
        f"Points stand on {len(of_rows)} data sets or splits, whose held-out rows differ ({groups}): values of "
        "different rows cannot be compared, and the best point is the best of numbers that are not alike."
    ]


def curves(leaderboard: Sequence[LeaderboardRow], runs: SweepRuns) -> Markup:
    """Validation curves of the first finished seed of the best points, as a chart; "" where no run has a curve."""
    series = []
    for row in leaderboard[:MOST_CURVES]:
        stored = [runs[row.index, seed] for seed in row.seeds]
        curve = next((run.curve for run in stored if isinstance(run, Stored) and run.curve), ())
        value_n = np.array([point.valid[SELECTION_METRIC] for point in curve], float)
        if curve:
            series.append(Series(f"point {row.index}", np.array([p.round for p in curve], float), 100 * value_n))
    return charts.lines(series, x_name=f"rounds: validation {SELECTION_METRIC} in percent")


def times(runs: SweepRuns) -> Facts:
    """What all finished runs took."""
    results = [run.result for run in runs.values() if isinstance(run, Stored)]
    seconds = {
        what: sum(result[f"seconds_{clock}"] for result in results)
        for what, clock in (("compile", "compile"), ("train", "train"), ("evaluate", "eval"))
    }
    return [
        ("Finished runs", f"{len(results):,} of {len(runs):,}"),
        *((f"Time to {what}", f"{s:,.1f} s") for what, s in seconds.items()),
    ]


def best_point(
    best: LeaderboardRow | None,
    test: Mapping[str, Spread],
    leaderboard: Sequence[LeaderboardRow],
    worth: Sequence[Worth | None],
    *,
    train: Sequence[str],
    base: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of best.json; without a best point its fields are None.

    Under a guarantee it has ``privacy``: what one run of the best point is worth, how many finished runs and points
    add up with it, and what a reader has to know of several runs.
    """
    counts = {
        "points": len(leaderboard),
        "points_done": sum(s.status == "done" for s in leaderboard),
        "points_failed": sum(any(s.failures) for s in leaderboard),
    }
    if best is None:
        return {"point": None, **counts}
    settings = {**base, **best.point}
    settings.setdefault("seed", best.seeds[0])
    arguments = [f"--config.{field}={value}" for field, value in settings.items()]
    private = [row for row in leaderboard if worth[row.index]]
    runs = sum(value is not None for row in private for value in row.valid)
    own = worth[best.index]
    privacy = {"privacy": {**own._asdict(), "points": len(private), "runs": runs, "note": ADD_UP}} if own else {}
    return {
        "point": best.index,
        "fields": best.point,
        "seeds": best.seeds,
        "valid": {SELECTION_METRIC: {"mean": best.value, "std": best.std, "by_seed": best.valid}},
        "test": {name: value._asdict() for name, value in test.items()},
        **privacy,
        "arguments": arguments,
        "command": shlex.join([*train, *arguments]),
        **counts,
    }


def csv_table(
    leaderboard: Sequence[LeaderboardRow],
    best: LeaderboardRow | None,
    test: Mapping[str, Spread],
    worth: Sequence[Worth | None],
) -> tuple[list[str], list[list[Any]]]:
    """(columns, rows): one row a point, best first; test columns are empty but for the best point, and epsilon and
    delta are there where some point has a guarantee."""
    fields = list(leaderboard[0].point)
    budget = ["epsilon", "delta"] if any(worth) else []
    columns = ["rank", "point", *fields, *budget, "seeds"]
    columns += [f"valid {SELECTION_METRIC} {part}" for part in ("mean", "std")]
    columns += [f"test {name} {part}" for name in main_metrics() for part in ("mean", "std")]
    rows = []
    for rank, s in enumerate(leaderboard, start=1):
        shown = test if best and s.index == best.index else {}
        metrics = [part for name in main_metrics() for part in shown.get(name, (None, None))]
        seeds = " ".join(map(str, s.seeds))
        own = worth[s.index]
        spent = [getattr(own, name, None) for name in budget]
        rows.append([rank, s.index, *s.point.values(), *spent, seeds, s.value, s.std, *metrics, s.status])
    return [*columns, "status"], rows


def text_table(
    leaderboard: Sequence[LeaderboardRow],
    best: LeaderboardRow | None,
    test: Mapping[str, Spread],
    worth: Sequence[Worth | None],
) -> Table:
    """The same for people, in percent, the best point emphasised."""
    fields, is_private = list(leaderboard[0].point), any(worth)
    rows = []
    for s in leaderboard:
        is_best = best is not None and s.index == best.index
        valid = NOTHING if s.value is None else with_spread(s.value, s.std)
        shown = [with_spread(*test[name]) if is_best and name in test else NOTHING for name in main_metrics()]
        cells = [f"{value:.{6}g}" if isinstance(value, float) else str(value) for value in s.point.values()]
        name = f"**{s.index}**" if is_best else str(s.index)
        own = worth[s.index]
        budget = (f"{own.epsilon:.4g}" if own else NOTHING,) if is_private else ()
        rows.append((name, *cells, *budget, s.status, ", ".join(map(str, s.seeds)), valid, *shown))
    columns = (
        "point",
        *fields,
        *(("epsilon",) if is_private else ()),
        "status",
        "seeds",
        f"validation {SELECTION_METRIC}",
        *(f"test {name}" for name in main_metrics()),
    )
    about = "Percent, mean ± standard deviation over seeds, best first by validation."
    return Table("Points", about, columns, [TableBlock("", rows)], left=len(fields) + is_private + 3)
