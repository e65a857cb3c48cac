"""Programs compiled ahead of time, so that compiling and running are timed apart."""

from __future__ import annotations

import time
from typing import Any


def compile_ahead(jitted: Any, *args: Any, **static: Any) -> tuple[Any, float]:
    """The program of a jitted function for arguments of these shapes and types, and the seconds that took.

    Args:
      jitted: the result of ``jax.jit``.
      args: the arguments, or their shapes and types.
      static: its static arguments, by name; the program does not take them.
    """
    begin = time.perf_counter()
    program = jitted.lower(*args, **static).compile()
    return program, time.perf_counter() - begin


class Compiler:
    """Compiles ahead of time and adds up what that takes in `seconds`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def compile(self, jitted: Any, *args: Any, **static: Any) -> Any:
        """The program of `compile_ahead`."""
        program, seconds = compile_ahead(jitted, *args, **static)
        self.seconds += seconds
        return program
