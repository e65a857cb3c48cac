"""Programs compiled ahead of time, so that compiling and running are timed apart."""

from __future__ import annotations

import functools
import time
from typing import Any

import jax

ON_CPU: dict[str, Any] = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"}
"""Options of XLA on a CPU: its library YNNPACK is left the products, but not the sums.

Over a leading axis, as those over clients and local steps, that library takes twenty times as long as XLA's own loop
(9 x 560 x 64 numbers: 3.6 and 0.2 ms of processor time)."""

LIGHTLY: dict[str, Any] = {"xla_backend_optimization_level": 1}
"""Options of XLA for a program that runs once: it compiles in about half of the processor time."""


def compile_ahead(jitted: Any, *args: Any, runs_once: bool = False, **static: Any) -> tuple[Any, float]:
    """The program of a jitted function for arguments of these shapes and types, and the seconds that took.

    Args:
      jitted: the result of ``jax.jit``.
      args: the arguments, or their shapes and types.
      runs_once: it is not worth optimising, as what draws the first parameters is not.
      static: its static arguments, by name; the program does not take them.
    """
    begin = time.perf_counter()
    options = _options(jax.default_backend()) | (LIGHTLY if runs_once else {})
    program = jitted.lower(*args, **static).compile(compiler_options=options)
    return program, time.perf_counter() - begin


@functools.cache
def _options(backend: str) -> dict[str, Any]:
    """`ON_CPU` where it applies and this version of XLA knows it."""
    if backend != "cpu":
        return {}
    try:
        jax.jit(lambda: 0).lower().compile(compiler_options=ON_CPU)
    except jax.errors.JaxRuntimeError:
        return {}
    return ON_CPU


class Compiler:
    """Compiles ahead of time and adds up what that takes in `seconds`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def compile(self, jitted: Any, *args: Any, runs_once: bool = False, **static: Any) -> Any:
        """The program of `compile_ahead`."""
        program, seconds = compile_ahead(jitted, *args, runs_once=runs_once, **static)
        self.seconds += seconds
        return program
