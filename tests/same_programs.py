"""Programs that several tests compile: the same function for the same arguments is compiled once in a process.

Two functions are the same where their code is the same and so is everything that they close over: numbers and names
by value, arrays by their bytes, functions in turn; all else by identity. What is compiled depends on nothing more as
long as no test replaces a name that a program reads from its module.
"""

from __future__ import annotations

import functools
import hashlib
import time
import types
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import numpy as np

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
_kept: dict[int, Any] = {}


def same(value: Any, inside: tuple[int, ...] = ()) -> Hashable:
    """What is equal for two values exactly where a function that closes over them does the same."""
    if isinstance(value, VALUES):
        return type(value), value
    if id(value) in inside:
        return "inside of itself", len(inside) - inside.index(id(value))
    deeper = functools.partial(same, inside=(*inside, id(value)))
    if isinstance(value, np.ndarray | jax.Array) and not isinstance(value, jax.core.Tracer):
        return _bytes(value)
    if isinstance(value, tuple | list):
        return type(value), *map(deeper, value)
    if isinstance(value, Mapping):
        return type(value), *((name, deeper(x)) for name, x in sorted(value.items()))
    if isinstance(value, jax.ShapeDtypeStruct):
        return _shape(value)
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return value.__code__, deeper((cells, value.__defaults__, value.__kwdefaults__))
    if isinstance(value, functools.partial):
        return "partial", deeper((value.func, value.args, value.keywords))
    if isinstance(value, types.MethodType):
        return "method", deeper((value.__func__, value.__self__))
    if isinstance(value, compiling.Compiler):
        return type(value), deeper({name: getattr(value, name) for name in READ if hasattr(value, name)})
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        return type(value), deeper({name: getattr(value, name) for name in value.__dataclass_fields__})
    _kept[id(value)] = value  # nothing else gets its number
    return "itself", id(value)


def _bytes(array: Any) -> Hashable:
    array = jax.random.key_data(array) if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key) else array
    array = np.asarray(array)
    return array.shape, array.dtype, hashlib.sha1(array.tobytes()).digest()


def _shape(x: Any) -> Hashable:
    return x.shape, x.dtype, getattr(x, "weak_type", False), getattr(x, "sharding", None)


def share_programs() -> None:
    """Makes every `compiling.Compiler` of this process look first among the programs of all of them."""
    compile_, programs = compiling.Compiler.compile, {}

    def compile_once(self: compiling.Compiler, jitted: Any, *args: Any, **static: Any) -> Any:
        begin = time.perf_counter()
        leaves, tree = jax.tree.flatten(args)
        flags = jax.config.jax_enable_x64, jax.config.jax_default_matmul_precision
        key = type(self), same(jitted.__wrapped__), tree, tuple(map(_shape, leaves)), same(static), flags
        if key not in programs:
            programs[key] = compile_(self, jitted, *args, **static)
        else:
            self.seconds += time.perf_counter() - begin
        return programs[key]

    compiling.Compiler.compile = compile_once
