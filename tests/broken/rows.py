"""How broken rows are made from those of a table."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Row = Callable[..., Any]


def changed(rows: Any, name: str, /, **changes: Callable[[Any], Any]) -> Row:
    """The factory of a row whose result has other fields, each made from the whole result."""
    original = rows[name]

    def make(*args: Any, **options: Any) -> Any:
        made = original(*args, **options)
        return made._replace(**{field: change(made) for field, change in changes.items()})

    return make


times_made = itertools.count(1)
"""For rows that depend on how often the process made them."""


def unseeded(key: jax.Array) -> Any:
    """A private state from a generator of its own."""
    return {"w": jnp.asarray(np.random.default_rng().normal(size=8))}
