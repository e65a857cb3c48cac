"""Programs compiled ahead of time, once for each function and shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from fedvlr_jax.compiling import compile_ahead

_programs: dict[tuple, Any] = {}


def compiled(jitted: Any, *args: Any, runs_once: bool = False, **static: Any) -> tuple[Callable[..., Any], float]:
    """The program of a jitted function for arguments of these shapes and types.

    Args:
      jitted: the result of ``jax.jit``.
      args: the arguments; only their shapes and types matter.
      runs_once: as of `compile_ahead`.
      static: its static arguments, by name.

    Returns:
      The program, which takes the arguments without the static ones, and the seconds it took to compile: 0 where it
      had been compiled before.
    """
    leaves, tree = jax.tree.flatten(args)
    shapes = tuple((x.shape, x.dtype) for x in leaves)
    key = (jitted, tree, shapes, tuple(sorted(static.items())))
    if key in _programs:
        return _programs[key], 0.0
    _programs[key], seconds = compile_ahead(jitted, *args, runs_once=runs_once, **static)
    return _programs[key], seconds
