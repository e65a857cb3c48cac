"""The order in which a benchmark runs its methods: each as a whole, or as much of all as fits into a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from fedvlr_jax.baselines import BASELINES
from fedvlr_jax.benchmark import central, federated
from fedvlr_jax.benchmark.budget import FIRST, SHARE, Extent, by_priority, ladder, num_runs, whole_extent
from fedvlr_jax.benchmark.clock import OutOfTime, shown_time
from fedvlr_jax.benchmark.jobs import is_random, num_points
from fedvlr_jax.benchmark.methods import Method
from fedvlr_jax.benchmark.records import MethodRuns
from fedvlr_jax.benchmark.task import Task
from fedvlr_jax.errors import CheckpointError
from fedvlr_jax.evaluation.metrics import SELECTION_METRIC
from fedvlr_jax.io.interrupt import Interrupted


class Ran(NamedTuple):
    """The records of methods by name, and sentences about what was cut."""

    records: dict[str, MethodRuns]
    cuts: tuple[str, ...]


def run_whole(task: Task, methods: Sequence[Method], report: Callable[[str], None]) -> Ran:
    """Every method at the extent that the configuration asks for, its controls right behind it."""
    session = _Session(task, methods, report)
    for method in _in_running_order(methods):
        session.run(method, task.extent)
    return Ran(session.records, ())


def run_within(task: Task, methods: Sequence[Method], patterns: Sequence[str], report: Callable[[str], None]) -> Ran:
    """As much of every method as fits into the budget of the task's clock.

    First each method runs once, which measures it, as long as all that were measured can still have the least extent.
    Then all get the same extent, the largest that fits; it is chosen again before each method, since a forecast may
    be wrong. What time is left buys a larger one. Controls come last, at the points that were chosen by then.

    Args:
      task: its clock has an end.
      methods: in the order of the table.
      patterns: of names; methods of an earlier pattern come first.
      report: takes a line of progress.
    """
    by_name = {method.name: method for method in methods}
    order = [by_name[name] for name in by_priority(list(by_name), patterns)]
    controls = [method for method in order if method.follows]
    session = _Session(task, methods, report)
    steps = ladder(whole_extent(task.config), max(num_points(method, task.config) for method in methods))
    admitted: list[Method] = []
    for method in order:
        if method.follows:
            continue
        wanted = [*admitted, method]
        if session.fits(session.with_controls(wanted, controls), steps[-1]):
            session.run(method, FIRST)
            admitted = wanted
        else:
            session.leave_out(method, steps[-1])
    session.enlarge(admitted, session.with_controls(admitted, controls), steps)
    for method in controls:
        if method.follows in session.records:
            session.run(method, session.extent_of[method.follows])
    session.leave_out_rest(methods)
    return Ran(session.records, session.cuts(steps[0]))


class _Session:
    """What one call ran so far."""

    def __init__(self, task: Task, methods: Sequence[Method], report: Callable[[str], None]):
        self.records: dict[str, MethodRuns] = {}
        self.extent_of: dict[str, Extent] = {}
        self._task, self._report = task, report
        self._methods = list(methods)
        self._planned = {method.name: self._num_runs(method, task.extent) for method in methods}
        self._cache: dict[str, Any] = {}
        self._left_out: dict[str, str] = {}

    def run(self, method: Method, extent: Extent) -> bool:
        """Run what is left of a method; False where that does not fit into the budget."""
        self._task.check_interrupt()
        task = self._task._replace(extent=extent)
        try:
            if method.name in BASELINES:
                record = central.run_method(task, method)
            else:
                record = federated.run_method(task, method, self.records.get(method.follows), self._cache)
        except (Interrupted, KeyboardInterrupt, CheckpointError):
            raise
        except OutOfTime as error:
            self._left_out.setdefault(method.name, str(error))
            return False
        except Exception as error:  # one broken method must not take the table down
            record = _failed(method, f"{type(error).__name__}: {error}")
        self.records[method.name], self.extent_of[method.name] = record, extent
        self._left_out.pop(method.name, None)
        self._report(f"[{len(self.records)}/{len(self._methods)}] {_line(record)}; {self._forecast()}")
        return True

    def enlarge(self, methods: Sequence[Method], everything: Sequence[Method], steps: Sequence[Extent]) -> None:
        """Run methods at the largest extent that fits for `everything`, again and again until none larger fits."""
        while True:
            before = dict(self.extent_of)
            for method in methods:
                fitting = [step for step in steps if self.fits(everything, step)]
                extent = fitting[0] if fitting else steps[-1]
                if self._num_runs(method, extent) > self._num_runs(method, self.extent_of.get(method.name, FIRST)):
                    self._plan(everything, extent)
                    self.run(method, extent)
            if self.extent_of == before:
                return

    def with_controls(self, methods: Sequence[Method], controls: Iterable[Method]) -> list[Method]:
        """Methods and the controls of them."""
        names = {method.name for method in methods}
        return [*methods, *(control for control in controls if control.follows in names)]

    def fits(self, methods: Sequence[Method], extent: Extent) -> bool:
        """Whether all these methods are expected to reach an extent within what is planned for."""
        clock = self._task.clock
        return clock.left({m.name: self._num_runs(m, extent) for m in methods}) <= SHARE * clock.remaining

    def leave_out(self, method: Method, extent: Extent) -> None:
        """Note that a method does not fit, with what it would take."""
        need = self._task.clock.left({method.name: self._num_runs(method, extent)})
        self._left_out[method.name] = f"{method.name} (about {shown_time(need)})"
        self._planned.pop(method.name)

    def leave_out_rest(self, methods: Sequence[Method]) -> None:
        """Note the controls of methods that were left out."""
        for method in methods:
            if method.name not in self.records and method.name not in self._left_out:
                self._left_out[method.name] = method.name

    def cuts(self, whole: Extent) -> tuple[str, ...]:
        """Sentences about everything that differs from the whole extent."""
        left_out = "; ".join(self._left_out.values())
        found = [f"Left out for want of time, with what they would take at least: {left_out}."] if left_out else []
        by_extent: dict[Extent, list[str]] = {}
        for method in self._methods:
            extent = self.extent_of.get(method.name)
            if extent and self._num_runs(method, extent) < self._num_runs(method, whole):
                by_extent.setdefault(extent, []).append(method.name)
        for extent, names in by_extent.items():
            found.append(
                f"Cut for want of time to at most {extent.points} of {whole.points} points (seeds a point: "
                f"{extent.search_seeds} of {whole.search_seeds}) and {extent.seeds} of {whole.seeds} seeds: "
                f"{'; '.join(names)}."
            )
        return tuple(found)

    def _plan(self, methods: Sequence[Method], extent: Extent) -> None:
        self._planned = {method.name: self._num_runs(method, extent) for method in methods}

    def _forecast(self) -> str:
        seconds = min(self._task.clock.left(self._planned), max(0.0, self._task.clock.remaining))
        return f"about {shown_time(seconds)} left"

    def _num_runs(self, method: Method, extent: Extent) -> int:
        return num_runs(extent, num_points(method, self._task.config), is_random=is_random(method))


def _in_running_order(methods: Sequence[Method]) -> list[Method]:
    """Every control right behind the method that it follows, since it shares that method's programs."""
    order = []
    for method in methods:
        if not method.follows:
            order += [method, *(other for other in methods if other.follows == method.name)]
    return order


def _failed(method: Method, reason: str) -> MethodRuns:
    return MethodRuns(
        method.name, method.family, method.host, method.variant, {}, 0, (), (), (), (), 0.0, failures=(reason,)
    )


def _line(record: MethodRuns) -> str:
    text = f"FAILED: {record.failures[0]}" if record.failures else f"{len(record.seeds)} seeds"
    valid = [max(p.valid[SELECTION_METRIC] for p in curve) for curve in record.curves if curve]
    if valid:
        text += f", valid {SELECTION_METRIC} {100 * sum(valid) / len(valid):.2f} %"
    return f"{record.name}: {text} in {record.seconds:.0f} s"
