"""What laws say yes and no with."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


def require_equal(message: str, a: Any, b: Any) -> None:
    """The same structure and the same bits in all leaves."""
    assert jax.tree.structure(a) == jax.tree.structure(b), f"{message}: other structure"
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=message)


def require_close(message: str, a: Any, b: Any, *, rtol: float, atol: float = 0.0) -> None:
    """The same structure, and leaves within the tolerances."""
    assert jax.tree.structure(a) == jax.tree.structure(b), f"{message}: other structure"
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol, err_msg=message)


def require_finite(message: str, tree: Any) -> None:
    """No leaf with NaN or infinity."""
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        assert np.isfinite(x).all(), f"{message}: {jax.tree_util.keystr(path)}"


def require_form(message: str, found: Any, like: Any) -> None:
    """The same structure, shapes and types."""
    found, like = (jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", tree) for tree in (found, like))
    assert found == like, f"{message}: expected {like}, found {found}"
