"""Item features, read and checked: one ``.npy`` file per modality, row = itemID."""

from __future__ import annotations

import functools
import pathlib
import warnings
from collections.abc import Callable

import numpy as np

from fedvlr_jax.data.messages import DataWarning, problem
from fedvlr_jax.errors import DataError
from fedvlr_jax.types import Dataset

EQUAL = 1e-6  # unit rows that are nowhere further apart differ by rounding alone


def read_features(file: pathlib.Path) -> np.ndarray:
    """The rows of a feature file at unit norm, float32 [i, d]; features that tell no items apart are a `DataWarning`.

    Raises:
      DataError: no array file, a dtype other than float16, float32 or float64, not two dimensions, or a row with
        NaN, infinity or only zeros.
    """
    try:
        with open(file, "rb") as stream:
            raw = np.lib.format.read_array(stream, allow_pickle=False)
    except OSError as error:
        raise problem(file, "a readable file", error.strerror or str(error)) from error
    except (ValueError, EOFError, MemoryError) as error:
        raise problem(
            file, "a NumPy array file (.npy) of floats", (str(error) or "a broken header").splitlines()[0]
        ) from error
    return checked_features(raw, functools.partial(problem, file))


def checked_features(raw: np.ndarray, complain: Callable[..., DataError]) -> np.ndarray:
    """The rows of an array [i, d] of floats at unit norm, float32.

    Args:
      raw: as it came in.
      complain: ``(expected, found[, row=])`` makes the error; rows count from 1.

    Raises:
      DataError: as `read_features`.
    """
    if raw.dtype.kind != "f" or raw.dtype.itemsize not in (2, 4, 8):
        raise complain("dtype float16, float32 or float64", str(raw.dtype))
    if raw.ndim != 2 or 0 in raw.shape:
        raise complain("an array [items, dimensions] of at least one each", f"shape {raw.shape}")
    features = raw.astype(np.float64)
    _check_rows(features, complain)
    features = unit_rows(features)
    _warn_of_poor_features(features, complain)
    return features


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Rows [i, d] scaled to unit Euclidean norm, float32; no row may be zero."""
    features = features / np.max(np.abs(features), axis=1, keepdims=True)  # squares neither overflow nor vanish
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


def without_imputed(dataset: Dataset) -> tuple[np.ndarray | None, np.ndarray | None]:
    """V and C of a data set, zeros where rows are imputed: all are one row, and would make their items most alike."""
    pairs = ((dataset.V, dataset.missing_V), (dataset.C, dataset.missing_C))
    V, C = (x if x is None or imputed is None else np.where(imputed[:, None], 0, x) for x, imputed in pairs)
    return V, C


def centred_rows(rows: np.ndarray) -> np.ndarray:
    """Rows of features minus their mean; rows of zeros, of `without_imputed`, count for no mean and stay."""
    given = rows.any(axis=1)
    if given.all():
        return rows - rows.mean(axis=0)
    return np.where(given[:, None], rows - rows[given].mean(axis=0), 0) if given.any() else rows


def _check_rows(features: np.ndarray, complain: Callable[..., DataError]) -> None:
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if bad.size:
        values = features[bad[0]]
        value = values[~np.isfinite(values)][0]
        raise complain("finite features", f"{value} ({bad.size} such rows)", row=int(bad[0]) + 1)
    zero = np.flatnonzero(~features.any(axis=1))
    if zero.size:
        raise complain("features of non-zero norm", f"only zeros ({zero.size} such rows)", row=int(zero[0]) + 1)


def _warn_of_poor_features(features: np.ndarray, complain: Callable[..., DataError]) -> None:
    """Unit rows that are all one, or of one column, which the norm leaves nothing but a sign."""
    if features.shape[1] == 1:
        found = "a single column, of which the unit norm leaves nothing but the sign"
    elif len(features) > 1 and np.ptp(features, axis=0).max() <= EQUAL:
        found = "the same row for all items"
    else:
        return
    warnings.warn(str(complain("features that tell items apart", found)), DataWarning, stacklevel=2)
