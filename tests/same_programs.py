"""Programs that several tests compile: the same function for the same arguments is compiled once in a process.

Two functions are the same where their code is the same and so is everything that they close over: numbers and names
by value, arrays by their bytes, functions in turn; all else by identity. What is compiled depends on nothing more but
the modules that it reads: while a test has replaced something in one of them, or in a table, it shares with nobody.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import itertools
import os
import time
import types
import weakref
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
import pytest

from fedvlr_jax import compiling

READ = ("_algorithm", "algorithm", "_eval_chunk", "_chunk", "settings", "dataset")
"""What the functions of a `compiling.Compiler` read of it."""

VALUES = (
    str,
    bytes,
    int,
    float,
    bool,
    np.generic,
    type(None),
    type,
    np.dtype,
    types.CodeType,
    types.BuiltinFunctionType,
)
TRACED = (
    *("jax", "numpy", "optax"),
    *(f"fedvlr_jax.{name}" for name in ("algorithm", "assembly", "audit", "baselines", "evaluation", "federated")),
    *(f"fedvlr_jax.{name}" for name in ("inference", "models", "privacy", "secure_sum", "theory", "types")),
)
"""Modules whose names programs read; tests replace names of others too, to count, crash or deceive."""

KEPT = 48
"""So many programs are kept for other tests; those that ask for the same mostly stand in one file."""

_known: dict[int, tuple[Callable[[], Any], int]] = {}
_numbers: dict[Hashable, int] = {}
_count = itertools.count()


def same(value: Any) -> Hashable:
    """What is equal for two values exactly where a function that closes over them does the same."""
    return _Reading().same(value)


class _Reading:
    """One look at a value and all that it holds; what is reached on several ways is read once."""

    def __init__(self) -> None:
        self._read: dict[int, tuple[Any, Hashable]] = {}
        self._inside: list[int] = []
        self._circular = False

    def same(self, value: Any) -> Hashable:
        if isinstance(value, VALUES):
            return type(value), value
        if id(value) in self._read:
            return self._read[id(value)][1]
        if id(value) in self._inside:
            self._circular = True
            return "inside of itself", len(self._inside) - self._inside.index(id(value))
        self._inside.append(id(value))
        found = self._look(value)
        number = _numbers.setdefault(found, len(_numbers))
        self._inside.pop()
        if not self._circular:  # else it may name what it is inside of by the way that led here
            self._read[id(value)] = value, number  # with the value, so that nothing else gets its id meanwhile
        return number

    def _look(self, value: Any) -> Hashable:
        if isinstance(value, np.ndarray | jax.Array) and not isinstance(value, jax.core.Tracer):
            return _bytes(value)
        if isinstance(value, tuple | list):
            return type(value), *map(self.same, value)
        if isinstance(value, Mapping):
            return type(value), *((name, self.same(x)) for name, x in sorted(value.items()))
        if isinstance(value, jax.ShapeDtypeStruct):
            return _shape(value)
        if isinstance(value, types.FunctionType):
            cells = [*map(_content, value.__closure__ or ())]
            inner = self.same((cells, value.__defaults__, value.__kwdefaults__))
            return value.__code__, _itself(value.__globals__), inner
        if isinstance(value, functools.partial):
            return "partial", self.same((value.func, value.args, value.keywords))
        if isinstance(value, types.MethodType):
            return "method", self.same((value.__func__, value.__self__))
        if isinstance(value, compiling.Compiler):
            return type(value), self._fields(value, [name for name in READ if hasattr(value, name)])
        if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
            return type(value), self._fields(value, value.__dataclass_fields__)
        if isinstance(value, jax.core.Tracer):
            raise InsideTrace
        return "itself", _itself(value)

    def _fields(self, value: Any, names: Iterable[str]) -> Hashable:
        return self.same({name: getattr(value, name) for name in names})


class InsideTrace(Exception):
    """A function closes over a number of the program that is being traced, so it is like no other."""


def _itself(value: Any) -> int:
    """A number that this object alone has, and no other after its end."""
    alive, number = _known.get(id(value), (lambda: None, 0))
    if alive() is not value:
        try:
            alive = weakref.ref(value)
        except TypeError:
            alive = functools.partial(_given, value)
        number = next(_count)
        _known[id(value)] = alive, number
    return number


def _given(value: Any) -> Any:
    return value


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty so far: it may be filled with anything
        return cell


def _bytes(array: Any) -> Hashable:
    array = jax.random.key_data(array) if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key) else array
    array = np.asarray(array)
    return array.shape, array.dtype, hashlib.sha1(array.tobytes()).digest()


def _shape(x: Any) -> Hashable:
    return x.shape, x.dtype, getattr(x, "weak_type", False), getattr(x, "sharding", None)


class World:
    """`replaced` names what tests have replaced in the modules, classes and tables that programs read."""

    def __init__(self) -> None:
        self.replaced: tuple[int, ...] = ()
        self._before: dict[int, tuple[int, ...]] = {}
        self._count = itertools.count()

    def watch(self, patch: type[pytest.MonkeyPatch]) -> None:
        """Another name from each replacement on, and the earlier one again when it is undone."""
        setattr_, setitem, undo = patch.setattr, patch.setitem, patch.undo

        def watched_setattr(own: pytest.MonkeyPatch, target: Any, *args: Any, **kwargs: Any) -> None:
            if _module_of(target).startswith(TRACED):
                self._change(own)
            setattr_(own, target, *args, **kwargs)

        def watched_setitem(own: pytest.MonkeyPatch, table: Any, *args: Any) -> None:
            if table is not os.environ:
                self._change(own)
            setitem(own, table, *args)

        def watched_undo(own: pytest.MonkeyPatch) -> None:
            undo(own)
            self.replaced = self._before.pop(id(own), self.replaced)

        patch.setattr, patch.setitem, patch.undo = watched_setattr, watched_setitem, watched_undo

    def _change(self, patch: pytest.MonkeyPatch) -> None:
        self._before.setdefault(id(patch), self.replaced)
        self.replaced = *self.replaced, next(self._count)


def _module_of(target: Any) -> str:
    if isinstance(target, str):
        return target
    return target.__name__ if isinstance(target, types.ModuleType) else getattr(target, "__module__", "")


world = World()


class Latest:
    """What was made for a key, for the `KEPT` keys that were asked for last: each program holds memory maps."""

    def __init__(self) -> None:
        self._made: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._made

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What there is for the key, else what `make` gives."""
        found = self._made.pop(key) if key in self._made else make()
        self._made[key] = found  # as the last, so that the first was not asked for the longest
        if len(self._made) > KEPT:
            self._made.popitem(last=False)
        return found


def share_jitted() -> None:
    """Makes ``jax.jit`` of this process return the same function for the same function and options."""
    jit, made = jax.jit, Latest()

    @functools.wraps(jit)
    def jit_once(fun: Any = None, /, **options: Any) -> Any:
        if fun is None:
            return functools.partial(jit_once, **options)
        try:
            key = same((fun, options)), world.replaced
        except InsideTrace:
            return jit(fun, **options)
        return made.get(key, lambda: jit(fun, **options))

    jax.jit = jit_once
    jax.eval_shape = lambda fun, *args, **kwargs: jit_once(fun).eval_shape(*args, **kwargs)


def share_programs() -> None:
    """Makes every `compiling.Compiler` of this process look first among the programs of all of them."""
    compile_, programs = compiling.Compiler.compile, Latest()

    def compile_once(self: compiling.Compiler, jitted: Any, *args: Any, **static: Any) -> Any:
        begin = time.perf_counter()
        leaves, tree = jax.tree.flatten(args)
        flags = jax.config.jax_enable_x64, jax.config.jax_default_matmul_precision, world.replaced
        key = type(self), same(jitted.__wrapped__), tree, tuple(map(_shape, leaves)), same(static), flags
        if key in programs:
            self.seconds += time.perf_counter() - begin
        return programs.get(key, lambda: compile_(self, jitted, *args, **static))

    compiling.Compiler.compile = compile_once
